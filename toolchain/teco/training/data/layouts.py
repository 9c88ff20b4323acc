"""What a folder of training data is: which clips lie in it, by its layout. Nothing is decoded.

    clips/a.mp4                           video files
    clips/walk/0000.png, 0001.png, ...    one folder of frames a clip; or the frames of one clip
    clips/0000.png, 0001.png, ...         themselves
    REDS/train_sharp/000/00000000.png     REDS, also as its archives unpack: REDS/train/train_sharp
    REDS/val_sharp/000/00000000.png       and REDS/val/val_sharp
    GT.lmdb/data.mdb, meta_info.pkl       an LMDB of TecoGAN-PyTorch; also as a sub-folder
    vimeo_septuplet/sequences/00001/0001  Vimeo-90K as it unpacks, with its sep_trainlist.txt
    GT/walk/0000.png beside BIx4/walk     ground truth beside its low-resolution frames

One folder may hold several of these side by side. Low-resolution frames are known by their
folder's name and never taken for ground truth; of Vimeo-90K only what its training list names is
taken. Of REDS only the sharp frames are used, its
validation clips 000..029 are called 240..269, as is usual since EDVR (Wang et al. 2019), and REDS4
(training clips 000, 011, 015 and 020), on which everybody tests, is left out.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from teco.core.errors import USAGE, TecoError
from teco.training.data.lmdb_store import LmdbSequence, is_lmdb, read_sequences
from teco.video.clips import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from teco.video.image_folder import natural_key

log = logging.getLogger(__name__)

REDS4 = ("000", "011", "015", "020")
REDS_TRAIN_CLIPS = 240

_REDS_PARTS = ("train_sharp", "val_sharp")
_REDS_PLACES = (*_REDS_PARTS, "train/train_sharp", "val/val_sharp")
_REDS_OTHERS = re.compile(r"(train|val|test)_(sharp|blur)(_comp|_bicubic)?")
"""All of REDS's parts: blurred, compressed and low-resolution frames are no ground truth."""

_REDS = re.compile(r"(?<![a-z])reds(?![a-z])", re.IGNORECASE)

_EXPECTED = (
    "expected video files (DIR/a.mp4), folders of frames (DIR/walk/0000.png), REDS "
    "(DIR/train_sharp/000/00000000.png), Vimeo-90K (DIR/sequences, DIR/sep_trainlist.txt) or an "
    "LMDB of TecoGAN-PyTorch (DIR/data.mdb, DIR/meta_info.pkl)"
)

_TRUTH = re.compile(r"(?i)gt|hr|truth|ground.?truth|high.?res\w*|target")
_LOW = re.compile(
    r"(?i)(^|[^a-z])(lr|lq|low.?(res\w*|quality)?|bicubic)($|[^a-z])"
    r"|^b[id](x?\d.*)?$|(^|[^a-z])x[2-8]$|\dx[2-8]|x[2-8]_?l[rq]|(^|[^a-z])l[rq]_?x?[2-8]"
    r"|^gaussian"
)
"""Names of folders of low-resolution frames: BIx4 and BD (TecoGAN-PyTorch, EGVSR), Gaussian4xLR,
X4, LR_bicubic (DIV2K, REDS), LRx4, LQ (BasicSR)."""

_VIMEO = "sequences"
_VIMEO_LISTS = ("sep_trainlist.txt", "tri_trainlist.txt")


@dataclass(frozen=True)
class VideoClip:
    """A video file; ``name`` is its path below the data folder, as a clips.toml calls it."""

    name: str
    path: Path


@dataclass(frozen=True)
class ImageClip:
    """The pictures of one folder.

    Attributes:
        name: the folder's path below the data folder, "." for itself.
        label: what it is called in lines and shots.
        files: in natural order.
        whole: known to be one shot; no cuts are looked for.
    """

    name: str
    label: str
    files: tuple[Path, ...]
    whole: bool


@dataclass(frozen=True)
class LmdbClip:
    """One sequence of an LMDB in ``folder``; always one shot."""

    name: str
    folder: Path
    sequence: LmdbSequence


Clip = VideoClip | ImageClip | LmdbClip


def find_clips(folder: Path) -> list[Clip]:
    """The clips of a data folder: videos, then frames, then LMDB, each in natural order.

    Args:
        folder: what ``--data`` names.

    Raises:
        TecoError: it is missing, holds nothing that is known, or can be read in two ways.
    """
    if not folder.is_dir():
        raise TecoError(
            f"--data {folder} is {'a file' if folder.exists() else 'missing'}, expected a folder "
            "of clips",
            hint=_EXPECTED,
            exit_code=USAGE,
        )
    if is_lmdb(folder):
        return [*_lmdb_clips(folder, "")]
    entries = _entries(folder)
    folders = [e for e in entries if e.is_dir()]
    clips: list[Clip] = [
        VideoClip(e.name, e) for e in entries if e.suffix.lower() in VIDEO_SUFFIXES
    ]
    reds = [folder / place for place in _REDS_PLACES if (folder / place).is_dir()]
    taken = {place.relative_to(folder).parts[0] for place in reds}
    if (folder / _VIMEO).is_dir() and any(f.name.endswith("list.txt") for f in entries):
        clips += _vimeo_clips(folder)
        taken.add(_VIMEO)
    low = [f for f in folders if is_low_resolution(f.name) and f.name not in taken]
    if len(low) < len(folders):  # beside something that may be their ground truth
        taken.update(f.name for f in low)
        for f in low:
            log.warning("left out %s: low-resolution frames, by its name", f)
    if _name(folder) in _REDS_PARTS:
        clips += _reds_clips(folder, [folder])
    else:
        clips += _reds_clips(folder, reds)
        rest = [f for f in folders if f.name not in taken]
        clips += _frame_folders(folder, entries, rest)
        for truth in rest:
            if _TRUTH.fullmatch(truth.name) and not _pictures(truth):
                clips += _below(truth, _frame_folders(truth, [], _folders(truth)))
    for database in folders:
        if is_lmdb(database) and database.name not in taken:
            clips += _lmdb_clips(database, f"{database.name}/")
    if not clips:
        raise _unknown(folder, entries)
    return clips


def is_low_resolution(name: str) -> bool:
    """Whether a folder or an LMDB of this name holds low-resolution frames."""
    return _LOW.search(name.removesuffix(".lmdb")) is not None


def _folders(folder: Path) -> list[Path]:
    return [e for e in _entries(folder) if e.is_dir()]


def _below(part: Path, clips: list[ImageClip]) -> list[ImageClip]:
    """The clips of a sub-folder, by their names from the data folder."""
    return [replace(c, name=f"{part.name}/{c.name}", label=c.label) for c in clips]


def _vimeo_clips(folder: Path) -> list[ImageClip]:
    """The training clips of Vimeo-90K (Xue et al. 2019), by its own list."""
    lists = [folder / name for name in _VIMEO_LISTS if (folder / name).is_file()]
    if not lists:
        raise TecoError(
            f"{folder} looks like Vimeo-90K and has no {_VIMEO_LISTS[0]}, which says what is "
            "trained on and what is tested on",
            hint="take the list from the archive that the sequences came in",
            exit_code=USAGE,
        )
    try:
        names = dict.fromkeys(x.strip() for x in lists[0].read_text("ascii").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise TecoError(f"{lists[0]} cannot be read as a list of clips: {error}") from error
    clips: list[ImageClip] = []
    lacking: list[str] = []
    for name in names:
        if not name:
            continue
        if not re.fullmatch(r"\d{5}/\d{4}", name):
            raise TecoError(f"{lists[0]} lists {name[:40]!r}, expected a clip such as 00001/0001")
        place = folder / _VIMEO / name
        if files := _pictures(place) if place.is_dir() else ():
            clips.append(ImageClip(f"{_VIMEO}/{name}", f"vimeo/{name}", files, whole=True))
        else:
            lacking.append(name)
    if lacking:
        log.warning(
            "%d of %d clips of %s are not there, such as %s",
            len(lacking), len(names), lists[0].name, lacking[0],
        )  # fmt: skip
    log.info("Vimeo-90K: %d clips of %s; its test clips are left out", len(clips), lists[0].name)
    return clips


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without hidden files."""
    try:
        found = [e for e in folder.iterdir() if not e.name.startswith(".")]
    except OSError as error:
        raise TecoError(f"{folder} cannot be listed: {error.strerror}", exit_code=USAGE) from error
    return sorted(found, key=lambda e: natural_key(e.name))


def _name(folder: Path) -> str:
    """The folder's own name, also of "." and ".."."""
    return Path(os.path.abspath(folder)).name


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(e for e in _entries(folder) if e.suffix.lower() in PICTURE_SUFFIXES)


def _frame_folders(folder: Path, entries: list[Path], folders: list[Path]) -> list[ImageClip]:
    """Clips of the sub-folders that hold pictures, or of the folder's own pictures."""
    own = tuple(e for e in entries if e.suffix.lower() in PICTURE_SUFFIXES and e.is_file())
    found = [(sub, files) for sub in folders if (files := _pictures(sub))]
    if found and len(own) > 1:
        raise TecoError(
            f"--data {folder} holds {len(own)} pictures ({own[0].name}, ...) and {len(found)} "
            f"folders of pictures ({found[0][0].name}, ...); it is not clear what is a clip",
            hint="put the pictures into a folder of their own, or give --data for each folder",
            exit_code=USAGE,
        )
    near = Path(os.path.abspath(folder)).parts[-2:]
    said = any(_REDS.search(part) for part in near) and not re.search("val|test", near[-1], re.I)
    out = _reds4_by_name(folder, [sub.name for sub, _ in found], said)
    label = _name(folder)
    clips = [ImageClip(".", label, own, whole=False)] if own else []
    return clips + [
        ImageClip(sub.name, f"{label}/{sub.name}", files, whole=False)
        for sub, files in found
        if sub.name not in out
    ]


def _reds_clips(folder: Path, parts: list[Path]) -> list[ImageClip]:
    """Clips of REDS's sharp parts, under their names in the merged set of 270."""
    clips: dict[str, ImageClip] = {}
    out: list[str] = []
    for part in parts:
        numbered = [e for e in _entries(part) if re.fullmatch(r"\d{3}", e.name) and e.is_dir()]
        if not numbered:
            raise TecoError(
                f"{part} holds no clips: found {_some(_entries(part))}",
                hint=f"expected folders of three digits, such as {part / '000' / '00000000.png'}",
                exit_code=USAGE,
            )
        for sub in numbered:
            validation = part.name == "val_sharp"
            name = f"{int(sub.name) + REDS_TRAIN_CLIPS:03d}" if validation else sub.name
            if name in REDS4:
                out.append(name)
                continue
            if name in clips:
                raise TecoError(
                    f"REDS clip {name} is there twice: {clips[name].files[0].parent} and {sub}",
                    hint=f"remove one of them, or give --data {part} alone",
                    exit_code=USAGE,
                )
            files = _pictures(sub)
            if not files:
                raise TecoError(
                    f"{sub} holds no pictures: found {_some(_entries(sub))}",
                    hint=f"expected files such as {sub / '00000000.png'}; extract it again",
                    exit_code=USAGE,
                )
            place = sub.relative_to(folder).as_posix()
            clips[name] = ImageClip(place, f"REDS/{name}", files, whole=True)
    if out:
        log.info("left out REDS4 (%s), the test clips of REDS", ", ".join(sorted(out)))
    return [clips[name] for name in sorted(clips)]


def _reds4_by_name(folder: Path, names: list[str], said: bool) -> set[str]:
    """Which clips to leave out of a set that is not laid out as REDS but looks like its training
    clips: all names have three digits, and there are as many, or it is ``said`` to be REDS."""
    if not names or not all(re.fullmatch(r"\d{3}", name) for name in names):
        return set()
    if not said and len(names) < REDS_TRAIN_CLIPS - len(REDS4):
        return set()
    out = set(names) & set(REDS4)
    if out:
        log.info(
            "left out %s of %s: it looks like REDS, and these are its test clips REDS4",
            ", ".join(sorted(out)), folder,
        )  # fmt: skip
    return out


def _lmdb_clips(folder: Path, prefix: str) -> list[LmdbClip]:
    """Clips of an LMDB, without REDS4 if it is one of REDS."""
    title, sequences = read_sequences(folder)
    said = bool(_REDS.search(title) or _REDS.search(_name(folder)))
    out = _reds4_by_name(folder, [s.name for s in sequences], said)
    return [LmdbClip(f"{prefix}{s.name}", folder, s) for s in sequences if s.name not in out]


def _some(entries: list[Path]) -> str:
    """The first few names of a folder, sub-folders with a slash."""
    names = [e.name + "/" * e.is_dir() for e in entries[:3]]
    return ", ".join(names) + ", ..." * (len(entries) > 3) if names else "nothing"


def _unknown(folder: Path, entries: list[Path]) -> TecoError:
    """The error for a folder that fits no layout, with the nearest folder that does."""
    found = f"--data {folder} holds no clips (found {_some(entries)})"
    parts = [e.name for e in entries if _REDS_OTHERS.fullmatch(e.name) and e.is_dir()]
    if parts:
        found = f"--data {folder} is REDS without sharp frames (found {', '.join(parts)})"
        return TecoError(found, hint="expected train_sharp/000/00000000.png", exit_code=USAGE)
    for entry in (e for e in entries if e.is_dir() and not is_low_resolution(e.name)):
        below = _entries(entry)
        if any(b.name in _VIMEO_LISTS for b in below):
            return TecoError(found, hint=f"--data {entry} does hold clips", exit_code=USAGE)
        if any(b.suffix.lower() in VIDEO_SUFFIXES for b in below) or any(
            b.is_dir() and (is_lmdb(b) or b.name in _REDS_PARTS or _pictures(b)) for b in below
        ):
            return TecoError(found, hint=f"--data {entry} does hold clips", exit_code=USAGE)
    return TecoError(found, hint=_EXPECTED, exit_code=USAGE)
