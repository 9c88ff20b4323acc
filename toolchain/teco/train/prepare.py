"""From clips to training shots: decode once, shrink, cut, keep as memory-mapped arrays.

Compressed video is no ground truth at its own size: shrinking by area averages its artefacts away.
How much is said per clip in a ``clips.toml`` beside the clips, and defaults to 2:

    [clips."city.mpg"]
    shrink = 1            # as it is
    frames = [0, 116]     # only these

    [clips."phone.mp4"]
    shrink = 4
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teco.artifact import write_beside
from teco.errors import USAGE, TecoError
from teco.scenecut import SceneCutDetector
from teco.train.data import Shot, cached_shots
from teco_calibration.clips import VIDEO_SUFFIXES, open_source
from teco_calibration.degrade import shrink_by_area

DEFAULT_SHRINK = 2.0

CACHE_VERSION = 1
"""To be raised when decoding, shrinking or cut detection gives other frames than before."""


@dataclass(frozen=True)
class ClipOptions:
    """How one clip is used: area shrink factor, and the range of frames."""

    shrink: float = DEFAULT_SHRINK
    first: int = 0
    last: int | None = None


def read_clip_options(folder: Path) -> dict[str, ClipOptions]:
    """The ``clips.toml`` of a folder, empty when there is none.

    Raises:
        TecoError: it is no TOML, names a clip that is not there, or has an unknown key.
    """
    path = folder / "clips.toml"
    if not path.exists():
        return {}
    try:
        clips: Any = tomllib.loads(path.read_text(encoding="utf-8"))["clips"]
        entries: dict[str, dict[str, Any]] = {name: dict(fields) for name, fields in clips.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TecoError(
            f"{path} cannot be read: {error}",
            hint='expected tables like [clips."city.mp4"] with shrink = 2 or frames = [0, 100]',
            exit_code=USAGE,
        ) from error
    return {name: _clip_options(folder, name, fields) for name, fields in entries.items()}


def _clip_options(folder: Path, name: str, fields: dict[str, Any]) -> ClipOptions:
    """One table of a ``clips.toml``."""
    where = f"{folder / 'clips.toml'}: clip {name!r}"
    unknown = set(fields) - {"shrink", "frames"}
    shrink, frames = fields.get("shrink", DEFAULT_SHRINK), fields.get("frames", [0, None])
    if unknown:
        problem = f"{where} has unknown key {sorted(unknown)[0]!r}, known are shrink and frames"
    elif not (folder / name).exists():
        problem = f"{where} is not in {folder}"
    elif not isinstance(shrink, int | float) or not shrink >= 1:
        problem = f"{where} has shrink {shrink!r}, expected a number from 1"
    elif "frames" in fields and not (
        isinstance(frames, list)
        and len(frames) == 2
        and all(isinstance(n, int) for n in frames)
        and 0 <= frames[0] < frames[1]
    ):
        problem = f"{where} has frames {frames!r}, expected [first, last] such as [0, 100]"
    else:
        return ClipOptions(float(shrink), frames[0], frames[1])
    raise TecoError(problem, exit_code=USAGE)


def prepare(folders: list[Path], cache: Path, say: Callable[[str], None]) -> list[Shot]:
    """Shots of all clips in ``folders``, decoded into ``cache`` where they are not there yet.

    Args:
        folders: each holds video files.
        cache: a writable folder; one ``.raw`` of (N, H, W, 3) uint8 and one ``.json`` a clip.
        say: told one line for each clip that is decoded.

    Raises:
        TecoError: a folder is missing or holds no clip.
        ClipError: a clip cannot be read.
    """
    clips: list[tuple[Path, ClipOptions]] = []
    for folder in folders:
        if not folder.is_dir():
            raise TecoError(
                f"--data {folder} is {'a file' if folder.exists() else 'missing'}, "
                "expected a folder of clips",
                exit_code=USAGE,
            )
        options = read_clip_options(folder)
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        if not files:
            found = sorted(p.name for p in folder.iterdir())[:3]
            raise TecoError(
                f"--data {folder} holds no video files (found {', '.join(found) or 'nothing'})",
                hint=f"expected files ending in {', '.join(sorted(VIDEO_SUFFIXES))}",
                exit_code=USAGE,
            )
        clips += [(file, options.get(file.name, ClipOptions())) for file in files]
    cache.mkdir(parents=True, exist_ok=True)
    wanted: list[str] = []
    for file, options in clips:
        stat = file.stat()
        marks = (options.shrink, options.first, options.last, stat.st_size, stat.st_mtime_ns)
        key = f"{file.name}-{'-'.join(str(mark) for mark in marks)}-{CACHE_VERSION}"
        wanted.append(key)
        if not (cache / f"{key}.json").exists():
            say(f"decoding {file.name}, shrunk by {options.shrink:g}")
            _decode(file, options, cache / key)
    return cached_shots([cache / key for key in wanted])


def _decode(file: Path, options: ClipOptions, target: Path) -> None:
    """One clip into ``target``.raw and, last, ``target``.json, which makes it count."""
    detector = SceneCutDetector()
    cuts: list[int] = []
    count, shape = 0, (0, 0, 0)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Written frame by frame: a long clip need not fit into memory, and a full disk is an error
        # of write() rather than of a memory access.
        with part.open("wb") as out, open_source(file) as source:
            for frame in source:
                if options.last is not None and frame.index >= options.last:
                    break
                if frame.index < options.first:
                    continue
                if detector.is_cut(frame.pixels) and count:
                    cuts.append(count)
                pixels = shrink_by_area(frame.pixels, options.shrink)
                shape = pixels.shape
                out.write(np.ascontiguousarray(pixels).tobytes())
                count += 1
        if count < 2:
            raise TecoError(f"{file} has {count} frames to train on, at least 2 are needed")
        part.replace(target.with_name(target.name + ".raw"))
    except OSError as error:
        raise TecoError(
            f"the frames of {file} could not be kept in {target.parent}: {error.strerror}",
            hint="free some space, or give another --out",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    record = {"shape": [count, *shape], "cuts": cuts, "source": file.name, "shrink": options.shrink}
    write_beside(target.with_name(target.name + ".json"), json.dumps(record).encode())
