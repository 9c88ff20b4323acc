"""Clips made of photographs, kept on disk, as shots to train on beside real ones.

Clip number i is a function of the photographs, the seed and i alone, so a folder that was deleted
or half made is made again with the same bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.core.files import write_beside
from teco.core.log import Progress, no_progress
from teco.training.data.motion import (
    Motion,
    Photograph,
    PhotographError,
    find_photographs,
    read_photograph,
    render,
)
from teco.training.data.sequences import Shot, shot_of

log = logging.getLogger(__name__)

VERSION = 2
"""To be raised when the same photographs and options give other clips than before."""

_GROUP = 16
"""Clips in a row that are made of the same few photographs, because decoding one takes as long as
rendering a clip."""

_CHOSEN = 5
"""Photographs that a group of clips is made of."""


@dataclass(frozen=True, kw_only=True)
class PhotoClipOptions:
    """What is made of the photographs.

    Attributes:
        clips: how many; one takes a tenth of a second of a core (Zen 5), and 4 MB of the disk.
        size: height and width of a clip; twice that is looked at in a photograph.
        frames: of each clip.
        seed: of everything random.
    """

    clips: int = 200
    size: int = 320
    frames: int = 12
    seed: int = 0


def photo_shots(
    folder: Path,
    cache: Path,
    options: PhotoClipOptions | None = None,
    progress: Progress = no_progress,
) -> list[Shot]:
    """Shots of photographs in motion; those that are not in ``cache`` yet are made.

    Args:
        folder: of photographs. One that cannot be used is named and left out.
        cache: a folder that can be written; a folder below it holds one .npy a clip.
        options: how many clips, and how large.
        progress: told (clips, of how many).

    Raises:
        TecoError: there is no such folder, or it holds no photograph that can be used.
    """
    o = options or PhotoClipOptions()
    paths = usable_photographs(folder, o.size)
    place = cache / f"photographs-{_key(paths, o)}"
    place.mkdir(parents=True, exist_ok=True)
    shots: list[Shot] = []
    for number in range(o.clips):
        file = place / f"{number:06d}.npy"
        if not file.exists():
            buffer = io.BytesIO()
            np.save(buffer, photo_clip(paths, number, o))
            write_beside(file, buffer.getvalue())
        shots.append(shot_of(f"photograph {number}", np.load(file, mmap_mode="r")))
        progress(number + 1, o.clips)
    return shots


def usable_photographs(folder: Path, size: int) -> list[Path]:
    """The photographs of a folder that make clips of that size; each of the others is named.

    Raises:
        TecoError: there is no such folder, or it holds no photograph that can be used.
    """
    good: list[Path] = []
    for path in find_photographs(folder):
        try:
            read_photograph(path, size)
        except PhotographError as error:
            log.warning("note: %s; it is left out", error.message)
        else:
            good.append(path)
    if not good:
        raise TecoError(
            f"no photograph in {folder} can be used; expected JPEG, PNG, TIFF or WebP in RGB of at "
            f"least {2 * size + 40} pixels each way",
            hint="the lines above say what is wrong with each",
            exit_code=USAGE,
        )
    return good


HARD = Motion(still=0.45, fast=0.5, covered=0.85)
"""How every fourth group of clips moves: cameras that hardly do, and fast things in front of them,
which teach a network how far to trust its past."""


def photo_clip(paths: Sequence[Path], number: int, o: PhotoClipOptions) -> np.ndarray:
    """Clip ``number`` of photographs, (T, S, S, 3) uint8 RGB.

    Args:
        paths: from :func:`usable_photographs`.
        number: from 0.
        o: size, frames and seed count.
    """
    group = np.random.default_rng((o.seed, number // _GROUP, 1)).permutation(len(paths))[:_CHOSEN]
    found = [_photograph(paths[int(i)], o.size) for i in group]
    rng = np.random.default_rng((o.seed, number))
    motion = HARD if number // _GROUP % 4 == 3 else Motion()
    return render(found, rng, size=o.size, frames=o.frames, motion=motion).frames


@lru_cache(maxsize=2 * _CHOSEN)
def _photograph(path: Path, size: int) -> Photograph:
    return read_photograph(path, size)


def _key(paths: Sequence[Path], o: PhotoClipOptions) -> str:
    """Of everything that decides a clip; how many there are does not."""
    facts = [VERSION, o.size, o.frames, o.seed, [(p.name, p.stat().st_size) for p in paths]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
