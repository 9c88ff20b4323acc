"""From folders of training data to shots: find clips, shrink, cut, keep what must be kept.

Layouts are told apart in :mod:`teco.training.data.layouts`. Compressed video is no ground truth at
its own
size: shrinking by area averages its artefacts away. How much is said per clip in a ``clips.toml``
in the data folder, and defaults to 2 for videos and for frames in JPEG or WebP, 1 for others:

    [clips."city.mpg"]
    shrink = 1            # as it is
    frames = [0, 116]     # only these

    [clips."walk"]        # a folder of frames; "train_sharp/001" in REDS, a sequence in an LMDB
    shrink = 4

Where a sample's pixels come from:

- Videos are decoded into the cache once: frames inside a group of pictures cannot be had alone.
- Folders of frames are decoded too if all of them together come to at most
  ``StoreOptions.decoded_limit``; then a sample costs the copy of its pixels.
- More than that (REDS: 66 GB) is read when asked for. Training starts at once and the disk stays
  empty, but a 1280x720 PNG costs 15 to 20 ms of a core: 24 frames, the default batch, take about as
  long as the two-core training step they are for, so half of a small machine would be decoding.
  With a GPU, count eight to twelve ``--workers`` for each.
- ``StoreOptions.crops`` is for the machine without those cores: of each clip that many windows are
  cut out once, drawn by their detail, and kept decoded. One pass over REDS takes about 8 minutes
  of a core, after which nothing is decoded again; four windows of 256x256 are 21 GB. The price is
  variety: crops come from these windows only.
- An LMDB holds raw pixels and is its own cache; it is the best store for eight GPUs.

Opening costs the listing of all folders and one decoded frame of each clip, four where frames are
read when asked for (REDS: half a minute of a core); sizes, detail and cuts are kept in the cache,
so that the next opening costs the listing (a second). Frames that are not decoded now are checked
when they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError
from teco.core.files import content_stamp, write_beside, writing
from teco.core.machine import usable_cores
from teco.inference.scene_cuts import SceneCutDetector
from teco.training.data import frame_store
from teco.training.data.frame_store import ImageFrames, LazyFrames, mixed_sizes, read_picture
from teco.training.data.layouts import Clip, ImageClip, LmdbClip, VideoClip, find_clips
from teco.training.data.lmdb_store import DATA, LmdbFrames
from teco.training.data.sequences import Shot, cached_shots, mean_detail
from teco.video.clips import open_source
from teco_calibration.degrade import shrink_by_area

log = logging.getLogger(__name__)

LOSSY_SHRINK = 2.0
_LOSSY_PICTURES = frozenset({".jpg", ".jpeg", ".webp"})

CACHE_VERSION = 3
"""To be raised when decoding, shrinking or cut detection gives other frames than before."""

_LOOKED_AT = 3
"""Frames of a clip that its detail is measured on where each has to be decoded for it."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_Window = tuple[slice, slice]
_Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where the pixels of picture folders come from.

    Attributes:
        decoded_limit: bytes up to which all of them together are decoded into the cache.
        crops: windows cut from each clip of a larger set; 0 reads whole frames when asked for.
        crop_size: height and width of these windows. They must hold the training crop, the blur's
            margin of 8 pixels and the path of a moved still, so twice the crop is a good size.
    """

    decoded_limit: int = 4 * 2**30
    crops: int = 0
    crop_size: int = 256


@dataclass(frozen=True)
class ClipOptions:
    """How one clip is used: area shrink factor (None: as its kind), and the range of frames."""

    shrink: float | None = None
    first: int = 0
    last: int | None = None

    def of(self, clip: Clip) -> _Options:
        """These options with the default shrink of the clip's kind."""
        lossy = isinstance(clip, VideoClip) or (
            isinstance(clip, ImageClip)
            and any(f.suffix.lower() in _LOSSY_PICTURES for f in clip.files)
        )
        default = LOSSY_SHRINK if lossy else 1.0
        return _Options(self.shrink or default, self.first, self.last)


@dataclass(frozen=True)
class _Options:
    """:class:`ClipOptions` with everything decided."""

    shrink: float
    first: int
    last: int | None


def read_clip_options(folder: Path, clips: Collection[str] = ()) -> dict[str, ClipOptions]:
    """The ``clips.toml`` of a folder, empty when there is none.

    Args:
        folder: a data folder.
        clips: names that may occur besides those of files and folders in it.

    Raises:
        TecoError: it is no TOML, names a clip that is not there, or has an unknown key.
    """
    path = folder / "clips.toml"
    if not path.exists():
        return {}
    try:
        tables: Any = tomllib.loads(path.read_text(encoding="utf-8"))["clips"]
        entries: dict[str, dict[str, Any]] = {name: dict(fields) for name, fields in tables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TecoError(
            f"{path} cannot be read: {error}",
            hint='expected tables like [clips."city.mp4"] with shrink = 2 or frames = [0, 100]',
            exit_code=USAGE,
        ) from error
    return {name: _clip_options(folder, clips, name, fields) for name, fields in entries.items()}


def _clip_options(
    folder: Path, clips: Collection[str], name: str, fields: dict[str, Any]
) -> ClipOptions:
    """One table of a ``clips.toml``."""
    where = f"{folder / 'clips.toml'}: clip {name!r}"
    unknown = set(fields) - {"shrink", "frames"}
    shrink, frames = fields.get("shrink"), fields.get("frames", [0, None])
    if unknown:
        problem = f"{where} has unknown key {sorted(unknown)[0]!r}, known are shrink and frames"
    elif name not in clips and not (folder / name).exists():
        problem = f"{where} is not in {folder}"
    elif "shrink" in fields and not (isinstance(shrink, int | float) and 1 <= shrink < 1000):
        problem = f"{where} has shrink {shrink!r}, expected a number from 1"
    elif "frames" in fields and not (
        isinstance(frames, list)
        and len(frames) == 2
        and all(isinstance(n, int) for n in frames)
        and 0 <= frames[0] < frames[1]
    ):
        problem = f"{where} has frames {frames!r}, expected [first, last] such as [0, 100]"
    else:
        return ClipOptions(None if shrink is None else float(shrink), frames[0], frames[1])
    raise TecoError(problem, exit_code=USAGE)


def prepare(
    folders: list[Path],
    cache: Path,
    *,
    store: StoreOptions | None = None,
) -> list[Shot]:
    """Shots of all clips in ``folders``; what must be decoded first is kept in ``cache``.

    Args:
        folders: of training data, see :mod:`teco.training.data.layouts`. A clip that lies in two of
            them is used once.
        cache: a writable folder; one ``.raw`` of (N, H, W, 3) uint8 and one ``.json`` a clip.
        store: where the pixels of picture folders come from.

    Raises:
        TecoError: a folder fits no layout, a clip has fewer than two frames in the range asked for,
            a picture cannot be read or has another size than its clip, or the disk is full.
        ClipError: a video cannot be read.
    """
    store = store or StoreOptions()
    clips = _clips(folders)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TecoError(f"{cache} cannot be made: {error.strerror}", exit_code=USAGE) from error
    videos = [(clip, options) for clip, options in clips if isinstance(clip, VideoClip)]
    pictures = [(clip, options) for clip, options in clips if isinstance(clip, ImageClip)]
    databases = [(clip, options) for clip, options in clips if isinstance(clip, LmdbClip)]
    shots = cached_shots(dict(_decoded_video(clip, options, cache) for clip, options in videos))
    shots += _picture_shots(pictures, cache, store)
    shots += _lmdb_shots(databases, cache)
    frame_store.CACHE.clear()  # opening has looked at frames that no sample is about to need
    if not shots:
        raise TecoError(
            f"--data {', '.join(map(str, folders))}: no clip has two frames to train on",
            exit_code=USAGE,
        )
    return shots


def _clips(folders: list[Path]) -> list[tuple[Clip, _Options]]:
    """All clips, each once, with their options; those of a single frame left out."""
    clips: dict[object, tuple[Clip, _Options]] = {}
    for folder in folders:
        found = find_clips(folder)
        options = read_clip_options(folder, {clip.name for clip in found})
        for clip in found:
            given = options.get(clip.name, ClipOptions())
            match clip:
                case VideoClip():
                    identity, count = clip.path.resolve(), None
                case ImageClip():
                    identity, count = clip.files[0].resolve(), len(clip.files)
                case LmdbClip():
                    identity = (clip.folder.resolve(), clip.sequence.name)
                    count = clip.sequence.count
            if identity in clips:
                log.info("left out %s of %s: it is there already", clip.name, folder)
                continue
            if count is not None:
                used = len(range(count)[given.first : given.last])
                if used < 2 and given == ClipOptions(given.shrink):
                    name = clip.name
                    if isinstance(clip, ImageClip) and name == ".":
                        name = clip.files[0].name
                    log.info(
                        "left out %s of %s: it has %d frame, 2 are needed", name, folder, count
                    )
                    continue
                if used < 2:
                    raise TecoError(
                        f"{folder / 'clips.toml'}: frames of {clip.name!r} leave {used} of its "
                        f"{count} frames to train on, at least 2 are needed",
                        exit_code=USAGE,
                    )
            clips[identity] = clip, given.of(clip)
    return list(clips.values())


# --- videos ------------------------------------------------------------------------------------


def _decoded_video(clip: VideoClip, options: _Options, cache: Path) -> tuple[Path, str]:
    """Where in the cache a video is, without ending, decoded if it was not there; and its name."""
    file = clip.path
    name = _name(file.name, (options, content_stamp(file), CACHE_VERSION))
    target = cache / _key(name, file.parent)
    if not _is_kept(target):
        log.info("decoding %s, shrunk by %g", file.name, options.shrink)
        _keep(_video_frames(file, options), {target: None}, str(file), options.shrink, cuts=True)
    return target, name


def _video_frames(file: Path, options: _Options) -> Iterator[_Picture]:
    with open_source(file) as source:
        for frame in source:
            if options.last is not None and frame.index >= options.last:
                break
            if frame.index >= options.first:
                yield frame.pixels


# --- folders of pictures -----------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageSet:
    """One picture clip with what is known of it.

    Attributes:
        name: of its shots; changes with any of its pictures.
        key: of its files in the cache; changes with the folder too.
        files: those in the range asked for.
        size: (height, width) of the first picture, not shrunk.
    """

    clip: ImageClip
    options: _Options
    name: str
    key: str
    files: tuple[Path, ...]
    size: tuple[int, int]

    @property
    def shrunk(self) -> tuple[int, int]:
        height, width = (max(1, round(side / self.options.shrink)) for side in self.size)
        return (height, width) if self.options.shrink != 1 else self.size

    @property
    def decoded_bytes(self) -> int:
        height, width = self.shrunk
        return len(self.files) * height * width * 3

    def lazy(self) -> ImageFrames:
        return ImageFrames(self.files, *self.shrunk, self.options.shrink)

    def decoded(self) -> Iterator[_Picture]:
        """Every picture, not shrunk, each checked to be of the first one's size."""
        for file in self.files:
            pixels = read_picture(file)
            if pixels.shape[:2] != self.size:
                raise mixed_sizes(file, pixels.shape, self.files[0], self.size)
            yield pixels


def _picture_shots(
    clips: list[tuple[ImageClip, _Options]],
    cache: Path,
    store: StoreOptions,
) -> list[Shot]:
    """Shots of the picture folders, all of them kept in the same way."""
    sets = _in_parallel(lambda item: _sized(*item, cache), clips)
    total = sum(s.decoded_bytes for s in sets)
    if total <= store.decoded_limit:
        _check_space(cache, sum(s.decoded_bytes for s in sets if not _is_kept(cache / s.key)))
        for s in sets:
            if not _is_kept(cache / s.key):
                shrunk = f", shrunk by {s.options.shrink:g}" if s.options.shrink != 1 else ""
                log.info("decoding the %d frames of %s%s", len(s.files), s.clip.label, shrunk)
                _keep(
                    s.decoded(), {cache / s.key: None}, s.clip.label, s.options.shrink,
                    cuts=not s.clip.whole,
                )  # fmt: skip
        return cached_shots({cache / s.key: s.name for s in sets})
    size = f"{total / 2**30:.1f} GiB when decoded"
    if store.crops:
        log.info(
            "%d folders of frames, %s: %d crops of each are kept decoded",
            len(sets), size, store.crops,
        )  # fmt: skip
        return _crop_shots(sets, cache, store)
    log.info("%d folders of frames, %s: each is decoded when it is needed", len(sets), size)
    unknown = [
        s for s in sets
        if not s.clip.whole and _lazy_record(_record(cache, s.key), len(s.files)) is None
    ]  # fmt: skip
    if unknown:
        log.info("looking for cuts in the %d frames, once", sum(len(s.files) for s in unknown))
    shots = _in_parallel(
        lambda s: _lazy_shots(
            s.lazy(), None if s.clip.whole else s.decoded(), s.name, _record(cache, s.key)
        ),
        sets,
    )
    return [shot for several in shots for shot in several]


def _sized(clip: ImageClip, options: _Options, cache: Path) -> _ImageSet:
    """The clip's key and size; the first picture is decoded if the cache does not know them."""
    files = clip.files[options.first : options.last]
    facts: list[object] = [str(options.shrink), clip.whole, CACHE_VERSION]
    for file in files:
        try:
            facts.append((file.name, content_stamp(file)))
        except OSError as error:
            raise TecoError(f"the frame {file} cannot be read: {error.strerror}") from error
    name = _name(clip.label, facts)
    key = _key(name, files[0].parent)
    path = cache / f"{key}.size.json"
    match _read_record(path):
        case [int(height), int(width)] if min(height, width) > 0:
            pass
        case _:
            height, width = read_picture(files[0]).shape[:2]
            _write_record(path, [height, width])
    return _ImageSet(clip, options, name, key, files, (height, width))


def _crop_shots(sets: list[_ImageSet], cache: Path, store: StoreOptions) -> list[Shot]:
    """Shots of windows cut from each clip; see :class:`StoreOptions`."""

    def targets(s: _ImageSet) -> list[Path]:
        stem = f"{s.key}-{store.crop_size}-{store.crops}"
        grid = _grid(s.shrunk, store.crop_size)
        return [cache / f"{stem}-{n}" for n in range(min(store.crops, len(grid)))]

    def cut(s: _ImageSet) -> None:
        windows = _drawn_windows(s, store)
        outputs: dict[Path, _Window | None] = dict(zip(targets(s), windows, strict=True))
        _keep(s.decoded(), outputs, s.clip.label, s.options.shrink, cuts=not s.clip.whole)

    missing = [s for s in sets if not all(map(_is_kept, targets(s)))]
    side = store.crop_size
    _check_space(cache, sum(len(s.files) * len(targets(s)) * side * side * 3 for s in missing))
    step = max(1, usable_cores()) * 4
    for begin in range(0, len(missing), step):
        _in_parallel(cut, missing[begin : begin + step])
        done = min(begin + step, len(missing))
        log.info("cut crops from %d of %d clips", done, len(missing))
    return cached_shots(
        {
            target: f"{s.name}-{store.crop_size}-{store.crops}-{n}"
            for s in sets
            for n, target in enumerate(targets(s))
        }
    )


def _grid(size: tuple[int, int], side: int) -> list[_Window]:
    """Windows of a picture (height, width) that do not overlap, spread to its borders."""
    height, width = size
    tall, wide = min(side, height), min(side, width)
    tops = np.linspace(0, height - tall, height // tall).astype(int)
    lefts = np.linspace(0, width - wide, width // wide).astype(int)
    return [
        (slice(int(y), int(y) + tall), slice(int(x), int(x) + wide)) for y in tops for x in lefts
    ]


def _drawn_windows(s: _ImageSet, store: StoreOptions) -> list[_Window]:
    """Windows of the grid, drawn in proportion to their detail; the same wherever the clip and its
    frames have the same names and pixels."""
    frames = s.lazy()
    looked = [frames[i] for i in _spread(len(frames))]
    grid = _grid(s.shrunk, store.crop_size)
    scores = np.array([mean_detail([f[window] for f in looked]) for window in grid]) + 0.1
    named = hashlib.sha256(repr((s.clip.label, [f.name for f in s.files])).encode()).digest()
    rng = np.random.default_rng(list(named))
    drawn = rng.choice(
        len(grid), min(store.crops, len(grid)), replace=False, p=scores / scores.sum()
    )
    return [grid[i] for i in sorted(drawn)]


# --- LMDB --------------------------------------------------------------------------------------


def _lmdb_shots(clips: list[tuple[LmdbClip, _Options]], cache: Path) -> list[Shot]:
    shots: list[Shot] = []
    for clip, options in clips:
        label = f"{clip.folder.name}/{clip.sequence.name}"
        facts = (clip.sequence, options, content_stamp(clip.folder / DATA), CACHE_VERSION)
        frames = LmdbFrames(clip.folder, clip.sequence, options.first, options.last, options.shrink)
        name = _name(label, facts)
        shots += _lazy_shots(frames, None, name, _record(cache, _key(name, clip.folder)))
    return shots


# --- what is kept ------------------------------------------------------------------------------


def _lazy_shots(
    frames: LazyFrames, decoded: Iterable[_Picture] | None, name: str, path: Path
) -> list[Shot]:
    """Shots of frames that stay where they are; cuts and detail are kept in the cache.

    Args:
        frames: of the whole clip.
        decoded: the same, to look for cuts in; None if there are none.
        name: of the clip.
        path: of its record in the cache.
    """
    record = _lazy_record(path, len(frames))
    if record is None:
        cuts = _cuts(decoded) if decoded is not None else []
        bounds = [0, *cuts, len(frames)]
        details = [
            mean_detail([frames[a + i] for i in _spread(b - a)]) for a, b in pairwise(bounds)
        ]
        record = {"bounds": bounds, "details": details}
        _write_record(path, record)
    return [
        Shot(f"{name}[{a}:{b}]", frames[a:b], detail)
        for (a, b), detail in zip(pairwise(record["bounds"]), record["details"], strict=True)
        if b - a > 1
    ]


def _cuts(frames: Iterable[_Picture]) -> list[int]:
    detector = SceneCutDetector()
    return [n for n, frame in enumerate(frames) if detector.is_cut(frame) and n]


def _spread(count: int) -> list[int]:
    """A few frames of ``count``, from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, _LOOKED_AT)})


def _is_kept(target: Path) -> bool:
    """Whether a clip's frames and their record are there, whole, as :func:`_keep` left them."""
    match _read_record(target.with_name(target.name + ".json")):
        case {"shape": [int(n), int(h), int(w), 3], "cuts": [*cuts]} if min(n, h, w) > 0:
            bounds: list[object] = [0, *cuts, n]
        case _:
            return False
    try:
        size = target.with_name(target.name + ".raw").stat().st_size
    except OSError:
        return False
    return size == n * h * w * 3 and _rising(bounds)


def _lazy_record(path: Path, count: int) -> dict[str, Any] | None:
    """Bounds and details of the shots of ``count`` frames; None where they are not known."""
    record = _read_record(path)
    match record:
        case {"bounds": [0, *cuts, end], "details": [*details]} if end == count:
            known = len(details) == len(cuts) + 1 and _rising([0, *cuts, end])
            return record if known and all(isinstance(d, int | float) for d in details) else None
        case _:
            return None


def _rising(numbers: Sequence[object]) -> bool:
    whole = [n for n in numbers if isinstance(n, int)]
    return len(whole) == len(numbers) and all(a < b for a, b in pairwise(whole))


def _record(cache: Path, key: str) -> Path:
    return cache / f"{key}.lazy.json"


def _read_record(path: Path) -> Any | None:
    """What a record of the cache holds; None where there is none or it is damaged, so that it is
    made again."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _name(label: str, facts: Sequence[object]) -> str:
    """A clip's name: readable, and another one when a fact changes. Shots are called after it, and
    a run is resumed on shots of the same names, so the folder, which may be moved, is not in it."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', label)[-80:]}-{_digest(facts)}"


def _key(name: str, folder: Path) -> str:
    """A name for a clip's files in the cache: clips of equal names, sizes and times in two folders
    are not one."""
    return f"{name}-{_digest(str(folder.resolve()))}"


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _keep(
    frames: Iterator[_Picture],
    outputs: dict[Path, _Window | None],
    label: str,
    shrink: float,
    *,
    cuts: bool,
) -> None:
    """Shrink frames, cut windows from them (None: all) and write each window's to its
    ``output``.raw and, last, ``output``.json, which makes it count."""
    detector = SceneCutDetector() if cuts else None
    found: list[int] = []
    count = 0
    shapes: dict[Path, tuple[int, ...]] = {}
    folder = next(iter(outputs)).parent
    try:
        # Written frame by frame: a long clip need not fit into memory, and a full disk is an error
        # of write() rather than of a memory access.
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}
            for target in outputs:
                # Each file is closed, and then gets its name, when the stack unwinds.
                part = stack.enter_context(writing(target.with_name(f"{target.name}.raw")))
                files[target] = stack.enter_context(part.open("wb"))
            for pixels in frames:
                if detector is not None and detector.is_cut(pixels) and count:
                    found.append(count)
                shrunk = shrink_by_area(pixels, shrink)
                for target, window in outputs.items():
                    cut = shrunk if window is None else shrunk[window]
                    shapes[target] = cut.shape
                    files[target].write(np.ascontiguousarray(cut).tobytes())
                count += 1
            if count < 2:
                raise TecoError(
                    f"{label} has {count} frames to train on, at least 2 are needed",
                    exit_code=USAGE,
                )
    except OSError as error:
        raise TecoError(
            f"the frames of {label} could not be kept in {folder}: {error.strerror}",
            hint="free some space, or give another --out",
        ) from error
    for target, shape in shapes.items():
        record = {"shape": [count, *shape], "cuts": found, "source": label, "shrink": shrink}
        _write_record(target.with_name(target.name + ".json"), record)


def _write_record(path: Path, record: object) -> None:
    try:
        write_beside(path, json.dumps(record).encode())
    except OSError as error:
        raise TecoError(
            f"{path} cannot be written: {error.strerror}",
            hint="free some space, or give another --out",
        ) from error


def _check_space(cache: Path, needed: int) -> None:
    """Raise before hours of decoding if the disk cannot take it."""
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise TecoError(
            f"decoded frames would take {needed / 2**30:.1f} GiB in {cache}, where "
            f"{free / 2**30:.1f} GiB are free",
            hint="free some space, or give another --out",
        )


def _in_parallel(work: Callable[[_T], _R], items: list[_T]) -> list[_R]:
    """``work`` of every item, in order, on all cores; decoding and writing let threads run."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
