"""Test sets on disk: which clips a folder holds, and whether it is Vid4, ToS3 or REDS4.

Layouts are those of the projects that publish numbers on these sets:

- ``Vid4/GT/calendar/*.png`` with ``Vid4/Gaussian4xLR/calendar`` or ``Vid4/BDx4/calendar`` beside
  (TecoGAN-PyTorch, EGVSR; BasicSR), the same for ToS3;
- ``REDS4/GT/000``, ``REDS/train/train_sharp/000`` or ``REDS/train_sharp/000`` for REDS4, which is
  four clips of REDS's training part;
- the clip folders without ``GT`` around them, and a video file in the place of any clip folder.

Whatever else holds pictures or videos is a set of plain clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from teco.core.errors import USAGE, TecoError
from teco.video.clips import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from teco_models.variant import Degradation

OFFICIAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Vid4": ("calendar", "city", "foliage", "walk"),
        "ToS3": ("bridge", "face", "room"),
        "REDS4": ("000", "011", "015", "020"),
    }
)
"""Set -> its clips."""

FRAMES: Mapping[str, int] = MappingProxyType(
    {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}
)
"""Pictures of Vid4's clips, 171 together; a copy with others is not what was published on."""

TRUTH_FOLDERS = ("GT", "HR", "train_sharp", "train/train_sharp")
"""Where the truth of a set lies in its folder, compared without case."""

GIVEN_FOLDERS: Mapping[str, Degradation] = MappingProxyType(
    {
        "Gaussian4xLR": "bd",
        "BDx4": "bd",
        "Bicubic4xLR": "bi",
        "BIx4": "bi",
        "sharp_bicubic": "bi",
        "train_sharp_bicubic/X4": "bi",
    }
)
"""Low-resolution inputs that come with a set, beside its truth, and how they were made."""

_EXPECTED = (
    "expected GT/calendar, GT/city, GT/foliage and GT/walk (Vid4), GT/bridge, GT/face and GT/room "
    "(ToS3), GT/000, GT/011, GT/015 and GT/020 (REDS4), with or without GT; or any folder of "
    "videos or of folders of pictures; or a clip"
)


@dataclass(frozen=True)
class SetClip:
    """One sequence.

    Attributes:
        name: to show; unique in its set.
        truth: video file or folder of pictures.
        given: degradation -> folder of low-resolution pictures that lies beside the truth.
    """

    name: str
    truth: Path
    given: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class ClipSet:
    """Clips that are averaged together.

    Attributes:
        name: ``Vid4``, ``ToS3`` or ``REDS4`` for these, else the folder's name, or ``clips``; with
            the folder where two sets would be called alike.
        clips: in the order of :data:`OFFICIAL`, or in natural order of their names.
        root: folder that holds them; None for clips that were named one by one.
        kind: the official set that these clips are; empty for plain clips, whatever their name.
    """

    name: str
    clips: tuple[SetClip, ...]
    root: Path | None = None
    kind: str = ""

    @property
    def official(self) -> bool:
        """Whether these are the clips that published numbers are about."""
        return self.kind in OFFICIAL


def find_sets(paths: Sequence[str | Path]) -> list[ClipSet]:
    """What the given files and folders hold.

    Args:
        paths: each a set's folder, a folder that holds sets, a folder of clips, or a clip. Clips
            named one by one make one set called ``clips``, the last.

    Raises:
        TecoError: nothing is there, an official set lacks some of its clips, a folder holds
            pictures of its own beside clips, or the layout is none that is known; the error says
            what was found and what is expected.
    """
    sets: list[ClipSet] = []
    loose: list[Path] = []
    for path in dict.fromkeys(Path(p).absolute() for p in paths):
        if not path.exists():
            raise TecoError(f"{path} does not exist", hint="check --data", exit_code=USAGE)
        if path.is_dir() and _holds_pictures(path) and (others := _clips_below(path)):
            raise TecoError(
                f"{path} holds both pictures of its own and clips ({', '.join(others[:3])}"
                f"{', ...' * (len(others) > 3)}), so what is meant is unclear",
                hint="put the pictures elsewhere, or name the clips one by one: --data "
                f"{path / others[0]}",
                exit_code=USAGE,
            )
        if path.is_file() or _holds_pictures(path):
            loose.append(path)
        else:
            sets += _sets_in(path)
    if loose:
        sets.append(ClipSet("clips", _named(loose)))
    merged: dict[tuple[str, tuple[Path, ...]], ClipSet] = {}
    for one in sets:  # Vid4 and Vid4/GT are the same set
        merged.setdefault((one.name, tuple(clip.truth for clip in one.clips)), one)
    return _distinct(list(merged.values()))


def _sets_in(root: Path) -> list[ClipSet]:
    found = _official(root)
    if found is not None:
        return [found]
    names = {name.lower() for name in OFFICIAL}
    nested = [
        found
        for child in _subfolders(root)
        if child.name.lower() in names and (found := _official(child)) is not None
    ]
    if nested:
        return nested
    for holder in _holders(root):
        if clips := _clips_in(holder):
            given = _given_beside(holder, root)
            return [
                ClipSet(
                    root.name,
                    tuple(SetClip(name, path, given(name)) for name, path in clips.items()),
                    holder,
                )
            ]
    raise TecoError(
        f"{root} holds no clips: found {_contents(root)}", hint=_EXPECTED, exit_code=USAGE
    )


def _official(root: Path) -> ClipSet | None:
    """The official set in a folder.

    Raises:
        TecoError: some of its clips are there and others are not.
    """
    for holder in _holders(root):
        clips = {name.lower(): path for name, path in _clips_in(holder).items()}
        for name, wanted in OFFICIAL.items():
            absent = [clip for clip in wanted if clip not in clips]
            # REDS numbers its validation clips from 000 too; REDS4 is four of the training part.
            if name == "REDS4" and holder.name.lower().startswith("val"):
                continue
            if not absent:
                given = _given_beside(holder, root)
                found = tuple(SetClip(clip, clips[clip], given(clip)) for clip in wanted)
                return ClipSet(name, found, holder, name)
            there = [clip for clip in wanted if clip in clips]
            # Clips that are merely numbered are no sign of REDS4, its name is.
            named = {part.lower() for part in (root.name, root.parent.name, holder.name)}
            meant = "reds4" in named if name == "REDS4" else len(there) > 1
            if there and meant:
                why = [
                    f"{clip} (a folder without pictures)"
                    if (found := _child(holder, clip)) and found.is_dir()
                    else clip
                    for clip in absent
                ]
                raise TecoError(
                    f"{holder} has {', '.join(there)} of {name} and lacks {', '.join(why)}",
                    hint="complete the set, or name the clips one by one to measure them as plain "
                    f"clips: --data {holder / there[0]}",
                    exit_code=USAGE,
                )
    return None


def _holders(root: Path) -> list[Path]:
    """Folders in which a set's clips may lie: those for the truth, then the folder itself."""
    truths = [found for name in TRUTH_FOLDERS if (found := _child(root, name)) and found.is_dir()]
    return [*truths, root]


def _given_beside(holder: Path, root: Path) -> Callable[[str], Mapping[str, Path]]:
    """A function from a clip's name to its low-resolution inputs by degradation."""
    inside = holder != root
    is_truth = holder.name.lower() in {Path(name).name.lower() for name in TRUTH_FOLDERS}
    base = holder.parent if inside or is_truth else holder

    def look(clip: str) -> Mapping[str, Path]:
        found: dict[str, Path] = {}
        for name, degradation in GIVEN_FOLDERS.items():
            folder = _child(base, f"{name}/{clip}")
            if folder is not None and _holds_pictures(folder):
                found.setdefault(degradation, folder)
        return MappingProxyType(found)

    return look


def _clips_in(folder: Path) -> dict[str, Path]:
    """Clips that lie in a folder, by name: folders of pictures, and videos without their suffix."""
    from teco.video.image_folder import natural_key

    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if _holds_pictures(path):
                found[path.name] = path
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found[path.stem if path.stem not in found else path.name] = path
    return found


def _clips_below(root: Path) -> list[str]:
    """Paths from ``root`` of the clips that it would be searched for if it held no pictures."""
    official = {name.lower() for name in OFFICIAL}
    sets = [child for child in _subfolders(root) if child.name.lower() in official]
    holders = dict.fromkeys(holder for one in (root, *sets) for holder in _holders(one))
    return [
        str(clip.relative_to(root)) for holder in holders for clip in _clips_in(holder).values()
    ]


def _named(paths: Sequence[Path]) -> tuple[SetClip, ...]:
    """Clips of any paths, named so that no two are alike."""
    stems = [path.name if path.is_dir() else path.stem for path in paths]
    return tuple(
        SetClip(stem if stems.count(stem) == 1 else str(path), path)
        for stem, path in zip(stems, paths, strict=True)
    )


def _distinct(sets: list[ClipSet]) -> list[ClipSet]:
    """Sets of one name are told apart by their folders."""
    names = [one.name for one in sets]
    return [
        one if names.count(one.name) == 1 else replace(one, name=f"{one.name} ({one.root})")
        for one in sets
    ]


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(
        p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".") and p.is_file()
        for p in folder.iterdir()
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _child(folder: Path, name: str) -> Path | None:
    """What is called ``name`` (``a/b`` goes down) in a folder, whatever the case of its letters."""
    for part in name.split("/"):
        if not folder.is_dir():
            return None
        exact = folder / part
        same = [exact] if exact.exists() else []
        same += sorted(p for p in folder.iterdir() if p.name.lower() == part.lower())
        if not same:
            return None
        folder = same[0]
    return folder


def _contents(folder: Path) -> str:
    """What is in a folder, short enough for an error."""
    folders = [f"{p.name}/" for p in _subfolders(folder)]
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    names = [*folders, *files]
    if not names:
        return "an empty folder"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
