"""A pool of clips that were degraded once, as whole frames, from which training draws crops.

Rendering a clip and sending it through a codec takes about a second of a core, and a training step
wants dozens of crops; so each clip is made once, kept, and looked at in many crops. Clip number i
is a function of the pool's options, its sources and i alone: a pool that was deleted or half made
is made again with the same bits.

On disk: ``NNNNNN-truth.npy`` and ``NNNNNN.npy``, what comes of it, each written beside its name and
renamed, in a folder named by everything that decides them. They are memory-mapped, so that a crop
costs what it reads.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from teco.core.errors import USAGE, TecoError
from teco.core.files import write_beside
from teco.core.log import Progress, no_progress
from teco.training.data import photo_clips, real_degradation
from teco.training.data.photo_clips import PhotoClipOptions, photo_clip
from teco.training.data.sequences import (
    BLUR_MARGIN,
    Sample,
    SampleOptions,
    Shot,
    of_batch,
    share,
)
from teco_models.variant import SCALE

VERSION = 1
"""To be raised when the same options give other clips than before."""

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """What the pool holds.

    Attributes:
        clips: how many.
        size: S, height and width of the truth, a multiple of 8.
        frames: T of each clip; sequences are cut out of it.
        photographs: share of clips that are photographs in motion where there are real clips too.
        seed: of everything random.
        scale: what the truth is made smaller by.
    """

    clips: int = 600
    size: int = 320
    frames: int = 14
    photographs: float = 0.75
    seed: int = 0
    scale: int = SCALE

    def __post_init__(self) -> None:
        if self.size % (2 * SCALE) or self.size < 64:
            raise TecoError(f"clips of {self.size} pixels: expected a multiple of 8 from 64 on")


class ClipPool:
    """Clips by their number.

    Args:
        options: what it holds.
        photographs: files that :func:`teco.training.data.photo_clips.usable_photographs` gives.
        shots: real clips, of which windows are taken; those too short or small are left out.
        folder: a folder below it holds the clips.

    Raises:
        TecoError: there is nothing to make clips of.
    """

    def __init__(
        self,
        options: PoolOptions,
        photographs: Sequence[Path],
        shots: Sequence[Shot],
        folder: Path,
    ) -> None:
        self.options = options
        self.photographs = tuple(photographs)
        self.shots = [
            s
            for s in shots
            if len(s.frames) >= options.frames and min(s.frames.shape[1:3]) >= options.size
        ]
        if not self.photographs and not self.shots:
            raise TecoError(
                f"no clip has {options.frames} frames of {options.size} pixels each way, and there "
                "are no photographs",
                hint="give --photos, longer or larger clips, or fewer --frames",
                exit_code=USAGE,
            )
        self.folder = folder / f"degraded-{self._key()}"

    def _key(self) -> str:
        """Of everything that decides a clip; how many there are does not."""
        facts = {
            "version": VERSION,
            "options": self._decisive_options(),
            "photographs": [(p.name, p.stat().st_size) for p in self.photographs],
            "shots": [(s.name, s.frames.shape, round(s.detail, 3)) for s in self.shots],
            "codecs": real_degradation.available(),
            "made by": [photo_clips.VERSION, *_libraries()],
        }
        return hashlib.sha256(json.dumps(facts, default=list).encode()).hexdigest()[:12]

    def _decisive_options(self) -> dict[str, Any]:
        options = asdict(replace(self.options, clips=0))
        if self.options.scale == SCALE:  # which nobody had to say once
            del options["scale"]
        return options

    def __len__(self) -> int:
        return self.options.clips

    def fill(self, threads: int, progress: Progress = no_progress) -> None:
        """Make the clips that are not there yet.

        Args:
            threads: that make clips side by side; they come out the same for any number.
            progress: told (clips, of how many).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lacking = [n for n in range(len(self)) if not self._files(n)[1].exists()]
        done = len(self) - len(lacking)
        with ThreadPoolExecutor(threads) as workers:
            for _ in workers.map(self._make, lacking):
                done += 1
                progress(done, len(self))

    def clip(self, number: int) -> tuple[_Pixels, _Pixels]:
        """(T, S, S, 3) truth and (T, S/s, S/s, 3) of scale s what came of it, memory-mapped; made
        if it is not there yet."""
        truth, given = self._files(number)
        try:
            return np.load(truth, mmap_mode="r"), np.load(given, mmap_mode="r")
        except (OSError, ValueError):  # not there, or cut off
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make(number)
            return np.load(truth, mmap_mode="r"), np.load(given, mmap_mode="r")

    def _files(self, number: int) -> tuple[Path, Path]:
        """Truth, and what came of it; the second is written last."""
        return self.folder / f"{number:06d}-truth.npy", self.folder / f"{number:06d}.npy"

    def _make(self, number: int) -> None:
        o = self.options
        rng = np.random.default_rng((o.seed, number, 2))
        rendered = bool(self.photographs) and (not self.shots or rng.random() < o.photographs)
        if rendered:
            asked = PhotoClipOptions(size=o.size, frames=o.frames, seed=o.seed)
            truth = photo_clip(self.photographs, number, asked)
        else:
            truth = self._window(rng)
        given = real_degradation.degrade(truth, rng, self.options.scale)
        for file, pixels in zip(self._files(number), (truth, given), strict=True):
            buffer = io.BytesIO()
            np.save(buffer, pixels)
            write_beside(file, buffer.getvalue())

    def _window(self, rng: np.random.Generator) -> _Pixels:
        """A window of a real clip, the sharpest of four, every frame or every second one."""
        o = self.options
        weights = np.array([max(s.detail, 1e-3) * np.sqrt(len(s.frames)) for s in self.shots])
        shot = self.shots[int(rng.choice(len(self.shots), p=weights / weights.sum()))]
        stride = 2 if len(shot.frames) >= 2 * o.frames and rng.random() < 0.25 else 1
        first = int(rng.integers(len(shot.frames) - stride * (o.frames - 1)))
        height, width = shot.frames.shape[1:3]
        middle = shot.frames[first + stride * (o.frames // 2)]
        corners = [
            (int(rng.integers(height - o.size + 1)), int(rng.integers(width - o.size + 1)))
            for _ in range(4)
        ]
        y, x = max(corners, key=lambda c: _sharpness(middle[c[0] :, c[1] :][: o.size, : o.size]))
        order = first + stride * np.arange(o.frames)
        return np.stack([shot.frames[i, y : y + o.size, x : x + o.size] for i in order])


class PoolDataset(Dataset[Sample]):
    """Batches of sequences cut out of a pool: what came of the truth, and the truth over it.

    Args:
        pool: where clips come from.
        options: crop, frames, batch, short_share, part and seed count.
        length: number of batches.

    Raises:
        TecoError: the sequences are longer or the crops larger than the pool's clips.
    """

    def __init__(self, pool: ClipPool, options: SampleOptions, length: int) -> None:
        o = pool.options
        if options.frames > o.frames or options.crop + 2 * BLUR_MARGIN > o.size:
            raise TecoError(
                f"sequences of {options.frames} frames and crops of {options.crop} do not fit the "
                f"pool's clips of {o.frames} frames and {o.size} pixels",
                hint="use fewer --frames or a smaller --crop",
                exit_code=USAGE,
            )
        self.pool = pool
        self.options = options
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        import cv2

        # Workers share the cores with the training itself; OpenCV's threads would get in its way.
        cv2.setNumThreads(1)
        o = of_batch(self.options, index)
        made = [
            self._sequence(o, np.random.default_rng((o.seed, index, i)))
            for i in share(o.batch, *o.part)
        ]
        k = o.crop // self.pool.options.scale
        return Sample(
            hr=torch.from_numpy(np.stack([truth for truth, _ in made])),
            flow=torch.full((len(made), o.frames - 1, 2, k, k), torch.nan),
            still=torch.zeros(len(made), dtype=torch.bool),
            lr=torch.from_numpy(np.stack([given for _, given in made])).float() / 255,
        )

    def _sequence(self, o: SampleOptions, rng: np.random.Generator) -> tuple[_Pixels, _Pixels]:
        """(T, 3, K + 8, K + 8) truth with the margin that samples have, (T, 3, k, k) input."""
        pool = self.pool.options
        truth, given = self.pool.clip(int(rng.integers(len(self.pool))))
        first = int(rng.integers(pool.frames - o.frames + 1))
        s = pool.scale
        k, margin = o.crop // s, BLUR_MARGIN // s
        # A sample has a margin of whole LR pixels. The sharper of two places.
        places = rng.integers(margin, pool.size // s - k - margin + 1, (2, 2))
        y, x = max(places.tolist(), key=lambda p: _slope(given[first, p[0] :, p[1] :][:k, :k]))
        top, left = s * y - BLUR_MARGIN, s * x - BLUR_MARGIN
        side = o.crop + 2 * BLUR_MARGIN
        times = slice(first, first + o.frames)
        pair: list[Any] = [
            truth[times, top : top + side, left : left + side],
            given[times, y : y + k, x : x + k],
        ]
        # One symmetry of the square and of time for the whole sequence; all keep centres.
        if rng.random() < 0.3:
            pair = [p[::-1] for p in pair]
        if rng.random() < 0.5:
            pair = [p[:, :, ::-1] for p in pair]
        if rng.random() < 0.5:
            pair = [p[:, ::-1] for p in pair]
        if rng.random() < 0.5:
            pair = [p.transpose(0, 2, 1, 3) for p in pair]
        hr, lr = (np.ascontiguousarray(p.transpose(0, 3, 1, 2)) for p in pair)
        return hr, lr


def _libraries() -> list[str]:
    """Versions of what encodes and draws: another one may give other bits."""
    import av
    import cv2

    return [av.__version__, cv2.__version__]


def _slope(pixels: _Pixels) -> float:
    """Mean absolute difference of neighbours, grey levels."""
    values = pixels.astype(np.int16)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def _sharpness(pixels: _Pixels) -> float:
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_16S)).mean())
