"""Training sequences: which crops of which frames, with their degraded copies and their motion.

Every sequence is a pure function of (seed, index of the batch, number in the batch): nothing is
remembered between samples, so a resumed run sees exactly the data that an uninterrupted one would,
with any number of workers; and processes that make parts of a batch make together exactly the batch
that one process would.

Shape legend: B batch, T frames, K the HR crop's size, k = K/4 the LR crop's.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from teco.core.errors import USAGE, TecoError
from teco.training.data.frame_store import Frames
from teco.training.data.realworld import RealWorld, corrupt
from teco_calibration.degrade import BD_TAPS
from teco_calibration.errors import ClipError

BLUR_MARGIN = 4
"""HR pixels around a crop that the 9-tap blur reads."""


@dataclass(frozen=True)
class Shot:
    """Consecutive frames between two cuts.

    Attributes:
        frames: (N, H, W, 3) uint8 RGB, memory-mapped or read when asked for.
        detail: mean absolute Laplacian of some of its frames, grey levels; weighs the shot.
    """

    name: str
    frames: Frames
    detail: float


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What one training sample looks like.

    Attributes:
        crop: HR crop size K, a multiple of 32 (FNet halves the LR crop three times).
        frames: sequence length T.
        batch: sequences in a sample, in those of all processes together.
        still_share: share of sequences made by moving a window over one still frame, whose
            motion is known exactly (TecoGAN's "moving first frame", there 0.3).
        max_stride: largest step between the source frames used; slow clips need it to move.
        max_still_speed: largest speed of a moved still, HR pixels a frame.
        candidates: crops looked at, of which one is drawn in proportion to its detail.
        short_share: share of batches that have four times the sequences, of a quarter of the
            length.
        with_flow: also return the motion of every pair (exact for stills, DIS elsewhere).
        realworld: noise and compression of the LR frames; None leaves them to be made from ``hr``.
        part: (rank, world): make only this one of ``world`` equal runs of the batch, which is that
            of all processes together. The frames of the others are not even read.
        seed: of everything random, from 0.
    """

    crop: int = 128
    frames: int = 6
    batch: int = 4
    still_share: float = 0.3
    max_stride: int = 3
    max_still_speed: float = 10.0
    candidates: int = 4
    short_share: float = 0.0
    with_flow: bool = True
    realworld: RealWorld | None = None
    part: tuple[int, int] = (0, 1)
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One batch.

    Attributes:
        hr: (B, T, 3, K + 8, K + 8) uint8; four pixels at each side are the blur's margin.
        flow: (B, T-1, 2, k, k) float32 LR pixels, from frame t+1 to frame t; NaN where unknown.
        still: (B,) bool, sequences whose flow is exact.
        lr: (B, T, 3, k, k) float32 in [0, 1], degraded and corrupted; None where nothing is to be
            corrupted: it is then :func:`degrade_crop` of ``hr``, which the training device makes
            faster than it is sent there.
    """

    hr: Tensor
    flow: Tensor
    still: Tensor
    lr: Tensor | None = None

    def pin_memory(self) -> Sample:
        """The same in page-locked memory; DataLoader calls it."""
        return Sample(
            hr=self.hr.pin_memory(),
            flow=self.flow.pin_memory(),
            still=self.still.pin_memory(),
            lr=None if self.lr is None else self.lr.pin_memory(),
        )


def of_batch(options: SampleOptions, index: int) -> SampleOptions:
    """The options of one batch: as they are, or of more and shorter sequences."""
    # A stream of its own, so that all processes decide alike.
    if np.random.default_rng((options.seed, index, 0, 1)).random() >= options.short_share:
        return options
    return replace(options, frames=max(1, options.frames // 4), batch=4 * options.batch)


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
        TecoError: no shot is large enough, or the batch cannot be divided.
    """

    def __init__(self, shots: list[Shot], options: SampleOptions, length: int) -> None:
        if options.seed < 0:
            raise TecoError(f"the seed is {options.seed}, expected 0 or more", exit_code=USAGE)
        self.options = options
        self.length = length
        share(options.batch, *options.part)
        self.window = options.crop + 2 * BLUR_MARGIN
        self.shots = [s for s in shots if min(s.frames.shape[1:3]) >= self.window]
        if not self.shots:
            largest = max((min(s.frames.shape[1:3]) for s in shots), default=0)
            raise TecoError(
                f"no training clip is at least {self.window} pixels high and wide "
                f"(the largest is {largest} after shrinking)",
                hint=f"use larger clips, a smaller shrink, or --crop {max(32, largest // 32 * 32)}",
            )
        # Long shots hold more to see, but not in proportion; flat ones teach little, and where all
        # are flat one is as good as another.
        weights = np.array([max(s.detail, 1e-3) * np.sqrt(len(s.frames)) for s in self.shots])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        import cv2

        # Workers share the cores with the training itself; OpenCV's threads would get in its way.
        cv2.setNumThreads(1)
        o = of_batch(self.options, index)
        numbers = share(o.batch, *o.part)
        items = [
            self._sequence(o, np.random.default_rng((o.seed, index, item))) for item in numbers
        ]
        hr = torch.from_numpy(np.stack([x[0] for x in items]))
        lr = None
        if o.realworld is not None and not o.realworld.clean:
            clean = degrade_crop(hr.flatten(0, 1).float() / 255).view(
                *hr.shape[:3], o.crop // 4, -1
            )
            lr = corrupt(clean, o.realworld, o.seed, index, first=numbers.start)
        return Sample(
            hr=hr,
            flow=torch.from_numpy(np.stack([x[1] for x in items])),
            still=torch.tensor([x[2] for x in items]),
            lr=lr,
        )

    def _sequence(
        self, o: SampleOptions, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
        """((T, 3, K+8, K+8) pictures, (T-1, 2, k, k) flow, whether it is a moved still)."""
        shot = self.shots[int(rng.choice(len(self.shots), p=self.weights))]
        still = bool(rng.random() < o.still_share)
        if still:
            frames, shifts = self._moved_still(shot, o.frames, rng)
        else:
            frames, shifts = self._moving(shot, o.frames, rng), None
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

    def _moving(self, shot: Shot, t: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(T, K+8, K+8, 3) of a real sequence, forwards or backwards in time."""
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
        self, shot: Shot, t: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """(T, K+8, K+8, 3) and the (T-1, 2) steps in HR pixels (x, y) that are the flow.

        The window moves by d over the picture, so the content of frame t+1 at x lies in frame t
        at x + d: the step is the flow from the current frame to the previous one.
        """
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
        2016), preset "medium" down to single pixels; NaN where the way back, preset "fast",
        disagrees by over half an LR pixel plus 5% of the motion, which is where things are covered
        or it is guessing. On windows moved by whole pixels "fast" errs by 0.10 HR pixels, "medium"
        by 0.04 and this by 0.001, in 0.5, 1.9 and 7.2 ms a pair of 136x136 (one Zen 4 core).
    """
    import cv2

    # Its stubs do not know that the flow to start from may be None.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    fast: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grays = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    size = grays[0].shape[0]
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    out = np.empty((len(frames) - 1, 2, crop // 4, crop // 4), np.float32)
    for t in range(len(frames) - 1):
        back = dis.calc(grays[t + 1], grays[t], None)
        forth = fast.calc(grays[t], grays[t + 1], None)
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


def share(batch: int, rank: int, world: int) -> range:
    """Which sequences of a batch one of ``world`` processes has: equal runs, in order of rank.

    Raises:
        TecoError: the batch cannot be divided, or there is no such rank.
    """
    if not 0 <= rank < world:
        raise TecoError(f"rank {rank} of {world} processes, expected 0 to {world - 1}")
    if batch % world:
        nearest = max(world, round(batch / world) * world)
        raise TecoError(
            f"a batch of {batch} cannot be divided among {world} processes",
            hint=f"give a multiple of {world}, such as {nearest}",
            exit_code=USAGE,
        )
    each = batch // world
    return range(rank * each, (rank + 1) * each)


def slice_batch(sample: Sample, rank: int, world: int) -> Sample:
    """One process's part of a whole batch; see :func:`share`. Views, not copies.

    ``SampleOptions.part`` makes the same without making the rest.
    """
    part = share(len(sample.hr), rank, world)
    cut = slice(part.start, part.stop)
    return Sample(
        hr=sample.hr[cut],
        flow=sample.flow[cut],
        still=sample.still[cut],
        lr=None if sample.lr is None else sample.lr[cut],
    )


def collate(samples: list[Sample]) -> Sample:
    """A data set's items are whole batches already; DataLoader wants to be told so."""
    return samples[0]


# --- data processes --------------------------------------------------------------------------

_FORK = "fork" in multiprocessing.get_all_start_methods()


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a data process. DataLoader would send it as a traceback."""

    message: str
    hint: str
    exit_code: int


class Batches(Protocol):
    """Samples that are whole batches, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class _ReadGuard(Dataset[Sample | _Failure]):
    """The rest of a data set, whose errors for users are items."""

    def __init__(self, data: Batches, start: int) -> None:
        self.data = data
        self.start = start

    def __len__(self) -> int:
        return len(self.data) - self.start

    def __getitem__(self, index: int) -> Sample | _Failure:
        try:
            return self.data[self.start + index]
        except (TecoError, ClipError) as error:
            return _Failure(error.message, error.hint, error.exit_code)


def _only(items: list[Sample | _Failure]) -> Sample | _Failure:
    return items[0]


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; a worker that died of it would be reported as a crash
    before the parent has saved its checkpoint. Workers end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches(
    data: Batches, start: int = 0, *, workers: int = 0, pin_memory: bool = False
) -> Generator[Sample]:
    """The batches from number ``start`` on, in order, made by ``workers`` processes.

    Each worker is four batches ahead. They are the same for any number of workers.

    Args:
        data: what to draw.
        start: number of the first batch.
        workers: processes; 0 makes batches in this one, between the iterations. One keeps up with
            two CPU cores that train; beside a GPU, see :mod:`teco.training.data.prepare`.
        pin_memory: hand out page-locked tensors, which go to a GPU faster.

    Raises:
        TecoError: a frame cannot be read, or a worker was killed.
    """
    if workers and _FORK:
        import cv2

        # A forked worker that set this for itself would wait for the threads of a pool that its
        # parent may have started and that the fork left behind.
        cv2.setNumThreads(1)
    with warnings.catch_warnings():
        # It would suggest one worker a core, also where they mostly wait for the disk.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            _ReadGuard(data, start),
            batch_size=1,
            num_workers=workers,
            collate_fn=_only,
            worker_init_fn=_leave_signals_to_parent,
            prefetch_factor=4 if workers else None,
            pin_memory=pin_memory,
            # Forked workers share the memory-mapped clips; others would be sent copies of them.
            multiprocessing_context="fork" if workers and _FORK else None,
        )
        iterator: Any = iter(loader)
    _iterators.add(iterator)
    if workers:
        _tell_of_deaths_in_a_sentence()
    try:
        while True:
            try:
                item = next(iterator, None)
            except (RuntimeError, OSError, EOFError) as error:
                if not workers or not _tells_of_a_death(error):
                    raise
                raise _death(error) from error
            if item is None:
                return
            if isinstance(item, _Failure):
                raise TecoError(item.message, hint=item.hint, exit_code=item.exit_code)
            yield item
    finally:
        _end_workers(iterator)


def _tells_of_a_death(error: Exception) -> bool:
    """Whether it comes from torch's watch over its workers or from the pipe to one that is gone,
    and not from a worker's own fault, which is passed on with "Caught" before it."""
    if str(error).startswith("Caught "):
        return False
    return not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)


def _death(error: Exception) -> TecoError:
    return TecoError(
        f"a data process ended: {(str(error) or type(error).__name__).splitlines()[0]}",
        hint="it may have run out of memory; try fewer --workers",
    )


def _tell_of_deaths_in_a_sentence() -> None:
    """When a worker dies, torch's handler of SIGCHLD raises wherever the program is at that moment;
    let that be an error for users. Nothing where torch has set none."""
    if threading.current_thread() is not threading.main_thread():
        return
    theirs = signal.getsignal(signal.SIGCHLD)
    if not callable(theirs) or isinstance(theirs, _Sentence):
        return
    signal.signal(signal.SIGCHLD, _Sentence(theirs))


class _Sentence:
    """A signal handler that turns torch's report of a dead worker into :func:`_death`."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise _death(error) from error


_iterators: weakref.WeakSet[Any] = weakref.WeakSet()


def _end_workers(iterator: Any) -> None:
    """What DataLoader does when its iterator is collected. An exception may keep that alive."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


@atexit.register
def _end_all_workers() -> None:
    """Before multiprocessing's own exit, which would send them SIGTERM and wait for ever."""
    for iterator in list(_iterators):
        _end_workers(iterator)


# --- shots -----------------------------------------------------------------------------------


def cached_shots(clips: Mapping[Path, str]) -> list[Shot]:
    """Shots of prepared clips (see :mod:`teco.training.data.prepare`).

    Args:
        clips: path without ending -> name of the clip; each has a ``.raw`` and a ``.json`` with
            shape and cuts.
    """
    shots: list[Shot] = []
    for clip, name in clips.items():
        record = json.loads(clip.with_name(clip.name + ".json").read_text())
        raw = clip.with_name(clip.name + ".raw")
        frames = np.memmap(raw, dtype=np.uint8, mode="r", shape=tuple(record["shape"]))
        bounds = [0, *record["cuts"], len(frames)]
        shots += [
            shot_of(f"{name}[{a}:{b}]", frames[a:b]) for a, b in pairwise(bounds) if b - a > 1
        ]
    return shots


def shot_of(name: str, frames: NDArray[np.uint8]) -> Shot:
    """A shot with its detail measured on five of its frames."""
    return Shot(name, frames, mean_detail(frames[:: max(1, len(frames) // 5)]))


def mean_detail(frames: Iterable[NDArray[np.uint8]]) -> float:
    """Mean :func:`detail` of (H, W, 3) uint8 RGB pictures."""
    import cv2

    grays = (cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in frames)
    return float(np.mean([detail(gray) for gray in grays]))


def notices(shots: list[Shot], options: SampleOptions) -> list[str]:
    """What a user should know of shots that do not quite fit: one sentence for each kind."""
    window = options.crop + 2 * BLUR_MARGIN
    small = [s.name for s in shots if min(s.frames.shape[1:3]) < window]
    short = [s.name for s in shots if len(s.frames) < options.frames and s.name not in small]

    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + ", ..." * (len(names) > 3)

    said: list[str] = []
    if small:
        said.append(
            f"{len(small)} of {len(shots)} shots are left out: they are smaller than the "
            f"{window} pixels of a crop with its margin ({some(small)})"
        )
    if short:
        said.append(
            f"{len(short)} of {len(shots)} shots are shorter than the {options.frames} frames of a "
            f"sequence and are run back and forth ({some(short)})"
        )
    return said
