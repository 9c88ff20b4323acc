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
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from teco.errors import USAGE, TecoError
from teco.scenecut import SceneCutDetector
from teco.train.data import Shot, cached_shots
from teco_calibration.clips import VIDEO_SUFFIXES, open_source
from teco_calibration.degrade import shrink_by_area

DEFAULT_SHRINK = 2.0


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
        clips: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())["clips"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise TecoError(
            f"{path} cannot be read: {error}",
            hint='expected tables like [clips."city.mp4"] with shrink = 2 or frames = [0, 100]',
            exit_code=USAGE,
        ) from error
    options: dict[str, ClipOptions] = {}
    for name, fields in clips.items():
        unknown = set(fields) - {"shrink", "frames"}
        if unknown:
            raise TecoError(
                f"{path}: clip {name!r} has unknown key {sorted(unknown)[0]!r}",
                hint="known keys are shrink and frames",
                exit_code=USAGE,
            )
        if not (folder / name).exists():
            raise TecoError(f"{path} names {name!r}, which is not in {folder}", exit_code=USAGE)
        first, last = fields.get("frames", (0, None))
        options[name] = ClipOptions(float(fields.get("shrink", DEFAULT_SHRINK)), first, last)
    return options


def prepare(folders: list[Path], cache: Path, say: Callable[[str], None]) -> list[Shot]:
    """Shots of all clips in ``folders``, decoded into ``cache`` where they are not there yet.

    Args:
        folders: each holds video files, or is itself a folder of pictures.
        cache: a writable folder; one ``.npy`` of (N, H, W, 3) uint8 and one ``.json`` a clip.
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
        key = f"{file.stem}-{options.shrink:g}-{options.first}-{options.last}-{stat.st_size}"
        wanted.append(key)
        if not (cache / f"{key}.json").exists():
            say(f"decoding {file.name}, shrunk by {options.shrink:g}")
            _decode(file, options, cache / key)
    return cached_shots([cache / key for key in wanted])


def _decode(file: Path, options: ClipOptions, target: Path) -> None:
    """One clip into ``target``.npy and, last, ``target``.json, which makes it count."""
    detector = SceneCutDetector()
    frames: list[NDArray[np.uint8]] = []
    cuts: list[int] = []
    with open_source(file) as source:
        for frame in source:
            if options.last is not None and frame.index >= options.last:
                break
            if frame.index < options.first:
                continue
            if detector.is_cut(frame.pixels) and frames:
                cuts.append(len(frames))
            frames.append(shrink_by_area(frame.pixels, options.shrink))
    if len(frames) < 2:
        raise TecoError(f"{file} has {len(frames)} frames to train on, at least 2 are needed")
    part = target.with_name(f".{target.name}.{os.getpid()}.npy")
    array = open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(frames), *frames[0].shape))
    for i, pixels in enumerate(frames):
        array[i] = pixels
    array.flush()
    part.replace(target.with_name(target.name + ".npy"))
    record = json.dumps({"cuts": cuts, "source": file.name, "shrink": options.shrink})
    part.write_text(record)
    part.replace(target.with_name(target.name + ".json"))
