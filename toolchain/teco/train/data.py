"""Training sequences: which crops of which frames, with their degraded twin and their motion.

Every sample is a pure function of (seed, index): nothing is remembered between samples, so a
resumed run sees exactly the data that an uninterrupted one would, with any number of workers.

Shape legend: B batch, T frames, K the HR crop's size, k = K/4 the LR crop's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from teco.errors import TecoError
from teco_calibration.degrade import BD_TAPS

BLUR_MARGIN = 4
"""HR pixels around a crop that the 9-tap blur reads."""


@dataclass(frozen=True)
class Shot:
    """Consecutive frames between two cuts.

    Attributes:
        frames: (N, H, W, 3) uint8 RGB, memory-mapped.
        detail: mean absolute Laplacian of some of its frames, grey levels; weighs the shot.
    """

    name: str
    frames: NDArray[np.uint8]
    detail: float


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What one training sample looks like.

    Attributes:
        crop: HR crop size K, a multiple of 32 (FNet halves the LR crop three times).
        frames: sequence length T.
        batch: sequences in a sample.
        still_share: share of sequences made by moving a window over one still frame, whose
            motion is known exactly (TecoGAN's "moving first frame", there 0.3).
        max_stride: largest step between the source frames used; slow clips need it to move.
        max_still_speed: largest speed of a moved still, HR pixels a frame.
        candidates: crops looked at, of which one is drawn in proportion to its detail.
        with_flow: also return the motion of every pair (exact for stills, DIS elsewhere).
        seed: of everything random.
    """

    crop: int = 128
    frames: int = 6
    batch: int = 4
    still_share: float = 0.3
    max_stride: int = 3
    max_still_speed: float = 10.0
    candidates: int = 4
    with_flow: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One batch.

    Attributes:
        hr: (B, T, 3, K + 8, K + 8) uint8; four pixels at each side are the blur's margin.
        flow: (B, T-1, 2, k, k) float32 LR pixels, from frame t+1 to frame t; NaN where unknown.
        still: (B,) bool, sequences whose flow is exact.
    """

    hr: Tensor
    flow: Tensor
    still: Tensor


def detail(gray: NDArray[Any]) -> float:
    """Mean absolute Laplacian of an (H, W) uint8 picture, grey levels."""
    import cv2

    return float(np.abs(cv2.Laplacian(gray, cv2.CV_16S, ksize=1)).mean())


def degrade_crop(hr: Tensor) -> Tensor:
    """BD on crops that carry their blur margin: (M, 3, K + 8, K + 8) -> (M, 3, K/4, K/4).

    Valid separable convolution, so no border is made up; LR[i] = blur[4i]; not rounded.
    """
    taps = torch.tensor(BD_TAPS, dtype=hr.dtype, device=hr.device)
    m, c, h, w = hr.shape
    x = hr.reshape(m * c, 1, h, w)
    x = F.conv2d(x, taps.view(1, 1, -1, 1), stride=(4, 1))
    x = F.conv2d(x, taps.view(1, 1, 1, -1), stride=(1, 4))
    return x.view(m, c, x.shape[-2], x.shape[-1])


class SequenceDataset(Dataset[Sample]):
    """Batches of sequences drawn from shots.

    Args:
        shots: where frames come from; each larger than the crop and its margin.
        options: what a sample looks like.
        length: number of batches (training iterations) it stands for.

    Raises:
        TecoError: no shot is large enough.
    """

    def __init__(self, shots: list[Shot], options: SampleOptions, length: int) -> None:
        self.options = options
        self.length = length
        self.window = options.crop + 2 * BLUR_MARGIN
        self.shots = [s for s in shots if min(s.frames.shape[1:3]) >= self.window]
        if not self.shots:
            largest = max((min(s.frames.shape[1:3]) for s in shots), default=0)
            raise TecoError(
                f"no training clip is at least {self.window} pixels high and wide "
                f"(the largest is {largest} after shrinking)",
                hint=f"use larger clips, a smaller shrink, or --crop {max(32, largest // 32 * 32)}",
            )
        # Long shots hold more to see, but not in proportion; flat ones teach little.
        weights = np.array([s.detail * np.sqrt(len(s.frames)) for s in self.shots])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        import cv2

        # Workers share the cores with the training itself; OpenCV's threads would get in its way.
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.options.seed, index))
        items = [self._sequence(rng) for _ in range(self.options.batch)]
        return Sample(
            hr=torch.from_numpy(np.stack([x[0] for x in items])),
            flow=torch.from_numpy(np.stack([x[1] for x in items])),
            still=torch.tensor([x[2] for x in items]),
        )

    def _sequence(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
        """((T, 3, K+8, K+8) pictures, (T-1, 2, k, k) flow, whether it is a moved still)."""
        o = self.options
        shot = self.shots[int(rng.choice(len(self.shots), p=self.weights))]
        still = bool(rng.random() < o.still_share)
        frames, shifts = self._moved_still(shot, rng) if still else (self._moving(shot, rng), None)
        # One symmetry of the square for the whole sequence. What it does to the motion vectors is
        # applied to known shifts; measured flow is measured after it.
        if rng.random() < 0.5:
            frames = frames[:, :, ::-1]
            shifts = None if shifts is None else shifts * (-1, 1)
        if rng.random() < 0.5:
            frames = frames[:, ::-1]
            shifts = None if shifts is None else shifts * (1, -1)
        if rng.random() < 0.5:
            frames = frames.transpose(0, 2, 1, 3)
            shifts = None if shifts is None else shifts[:, ::-1]
        k = o.crop // 4
        flow = np.full((o.frames - 1, 2, k, k), np.nan, np.float32)
        if shifts is not None:
            flow[:] = (shifts / 4)[:, :, None, None]
        elif o.with_flow:
            flow[:] = measured_flow(np.ascontiguousarray(frames), o.crop)
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), flow, still

    def _place(
        self, picture: NDArray[np.uint8], window: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Top-left corner of a window, drawn from some candidates in proportion to their detail."""
        import cv2

        h, w = picture.shape[:2]
        n = self.options.candidates
        corners = np.stack(
            (rng.integers(0, h - window + 1, n), rng.integers(0, w - window + 1, n)), axis=1
        )
        scores = np.empty(n)
        for i, (y, x) in enumerate(corners):
            crop = picture[y : y + window, x : x + window]
            scores[i] = detail(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY))
        scores += 0.1  # flat crops stay possible, and all-flat ones do not divide by zero
        y, x = corners[int(rng.choice(n, p=scores / scores.sum()))]
        return int(y), int(x)

    def _moving(self, shot: Shot, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(T, K+8, K+8, 3) of a real sequence, forwards or backwards in time."""
        t = self.options.frames
        n = len(shot.frames)
        stride = int(rng.integers(1, self.options.max_stride + 1))
        stride = max(1, min(stride, (n - 1) // max(t - 1, 1)))
        first = int(rng.integers(0, max(n - stride * (t - 1), 1)))
        order = first + stride * np.arange(t)
        # A shot shorter than the sequence is run back and forth.
        order = np.abs((order + n - 1) % max(2 * (n - 1), 1) - (n - 1))
        if rng.random() < 0.5:
            order = order[::-1]
        y, x = self._place(shot.frames[order[0]], self.window, rng)
        return np.stack([shot.frames[i, y : y + self.window, x : x + self.window] for i in order])

    def _moved_still(
        self, shot: Shot, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """(T, K+8, K+8, 3) and the (T-1, 2) steps in HR pixels (x, y) that are the flow.

        The window moves by d over the picture, so the content of frame t+1 at x lies in frame t
        at x + d: the step is the flow from the current frame to the previous one.
        """
        t = self.options.frames
        picture = shot.frames[int(rng.integers(len(shot.frames)))]
        h, w = picture.shape[:2]
        speed = rng.uniform(0, self.options.max_still_speed)
        angle = rng.uniform(0, 2 * np.pi)
        steps = speed * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 1, (t - 1, 2))
        path = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
        path = np.round(path).astype(int)
        path -= path.min(axis=0)
        # A small picture cannot hold a long path; what does not fit stands still at its edge.
        path = np.minimum(path, (w - self.window, h - self.window))
        extent = path.max(axis=0)
        y, x = self._place(picture[: h - extent[1], : w - extent[0]], self.window, rng)
        frames = np.stack(
            [
                picture[y + dy : y + dy + self.window, x + dx : x + dx + self.window]
                for dx, dy in path
            ]
        )
        return frames, np.diff(path, axis=0).astype(np.float64)


def measured_flow(frames: NDArray[np.uint8], crop: int) -> NDArray[np.float32]:
    """Classical flow of the HR truth, brought to LR: a teacher for real motion.

    Args:
        frames: (T, K+8, K+8, 3) uint8.
        crop: K.

    Returns:
        (T-1, 2, k, k) float32 LR pixels from frame t+1 to frame t: OpenCV's DIS (Kroeger et al.
        2016, preset "fast") both ways; NaN where the two disagree by over half an LR pixel plus
        5% of the motion, which is where things are covered or it is guessing.
    """
    import cv2

    # Its stubs do not know that the flow to start from may be None.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grays = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    size = grays[0].shape[0]
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    out = np.empty((len(frames) - 1, 2, crop // 4, crop // 4), np.float32)
    for t in range(len(frames) - 1):
        back = dis.calc(grays[t + 1], grays[t], None)
        forth = dis.calc(grays[t], grays[t + 1], None)
        returned = cv2.remap(
            forth,
            xx + back[..., 0],
            yy + back[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        miss = np.linalg.norm(back + returned, axis=-1)
        bad = miss > 2 + 0.05 * np.linalg.norm(back, axis=-1)
        back[bad] = np.nan
        # LR[i] is centred on HR[4i], and the margin comes before the crop.
        picked = back[BLUR_MARGIN : BLUR_MARGIN + crop : 4, BLUR_MARGIN : BLUR_MARGIN + crop : 4]
        out[t] = picked.transpose(2, 0, 1) / 4
    return out


def collate(samples: list[Sample]) -> Sample:
    """A data set's items are whole batches already; DataLoader wants to be told so."""
    return samples[0]


def cached_shots(clips: list[Path]) -> list[Shot]:
    """Shots of prepared clips (see :mod:`teco.train.prepare`).

    Args:
        clips: paths without endings; each has a ``.raw`` and a ``.json`` with shape and cuts.
    """
    shots: list[Shot] = []
    for clip in clips:
        record = json.loads(clip.with_name(clip.name + ".json").read_text())
        raw = clip.with_name(clip.name + ".raw")
        frames = np.memmap(raw, dtype=np.uint8, mode="r", shape=tuple(record["shape"]))
        bounds = [0, *record["cuts"], len(frames)]
        shots += [
            shot_of(f"{clip.name}[{a}:{b}]", frames[a:b]) for a, b in pairwise(bounds) if b - a > 1
        ]
    return shots


def shot_of(name: str, frames: NDArray[np.uint8]) -> Shot:
    """A shot with its detail measured on five of its frames."""
    import cv2

    looked = frames[:: max(1, len(frames) // 5)]
    grays = (cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in looked)
    return Shot(name, frames, float(np.mean([detail(gray) for gray in grays])))
