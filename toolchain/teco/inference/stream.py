"""Frames through the recurrence: in order, or any frame of a clip when it is asked for.

One class for every runtime and every player. :class:`teco.inference.recurrence.Recurrence` below it
knows state, scenes and repeats; here are order, jumps, deadlines and threads.

    with Stream.open("live") as stream:
        for frame in frames:
            show(stream.push(frame))            # the next one
        show(stream.at(120, clip.__getitem__))  # frame 120, and what leads up to it
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from teco.core.errors import USAGE, TecoError
from teco.core.pixels import Pixels, to_pixels, to_tensor
from teco.core.planes import frame_size
from teco.inference.deadline import Deadline
from teco.inference.recurrence import Kind, Recurrence, StreamStats
from teco.inference.segments import FramePlace, SegmentPlan
from teco.model.opening import DEFAULT_MODEL
from teco.runtimes.base import Session
from teco.video.frames import Closing
from teco_models.variant import SCALE

CATCH_UP = 8
"""Frames that may be missing before the one asked for and are still stepped, not jumped over:
what several threads ask for out of order lies closer together than this."""

CACHE = 16
"""HR frames kept for whoever asks again; more than CATCH_UP, so that catching up is not in vain."""

JUMP = 1.0
"""Seconds between two timestamps that are taken for a seek; less is dropped or held frames."""


class Stream(Closing):
    """Frames through one session. Every method may be called from any thread.

    A frame that repeats the one before it, bit for bit, is not stepped: what was shown is shown
    again, and the state stays as if the repeat had not been there. So held frames cost nothing, do
    not flicker, and do not make the flow of the next movement zero.

    Args:
        session: the model. Of one that takes planes (:class:`teco.runtimes.base.PlaneSession`),
            which was told their colours, frames are packed pictures wherever pixels are spoken of.
        scene_cuts: start a new scene where :class:`teco.inference.scene_cuts.SceneCutDetector`
            finds a cut. Without it the last shot's frame is warped into the next one.
        reverse_warm_up: at the start of a scene, first run so many of the coming frames backwards
            and drop what comes out (TecoGAN-PyTorch does it with 5). Only :meth:`run` and
            :meth:`feed` can wait for them.
        pre_roll: after a jump, first run so many of the frames that lead up to the one asked for
            and drop what comes out. Only :meth:`at` can fetch them.
        recurrent: False zeroes the state before every frame, to see what the past is worth.
        catch_up: see :data:`CATCH_UP`.
        cache: see :data:`CACHE`; 0 keeps none.
        jump: see :data:`JUMP`.
        deadline: tells late frames; for tests, which have a clock of their own.
        check_size: raises an error for frames (h, w) that the model does not take.
        owns: close the session with the stream.
        centred: the network's frames lie about pixel centres (all but those of BD networks), and
            so must what is shown in place of a late one.
        scale: of the model, for those.
        warm_up: the older name of ``reverse_warm_up``.

    Raises:
        TecoError: a number is negative.
    """

    def __init__(
        self,
        session: Session,
        *,
        scene_cuts: bool = True,
        reverse_warm_up: int = 0,
        pre_roll: int = 0,
        recurrent: bool = True,
        catch_up: int = CATCH_UP,
        cache: int = CACHE,
        jump: float = JUMP,
        deadline: Deadline | None = None,
        check_size: Callable[[int, int], None] | None = None,
        owns: bool = False,
        centred: bool = False,
        scale: int = SCALE,
        warm_up: int = 0,
    ) -> None:
        reverse_warm_up = reverse_warm_up or warm_up
        for name, value in (
            ("reverse_warm_up", reverse_warm_up), ("pre_roll", pre_roll), ("catch_up", catch_up),
            ("cache", cache), ("jump", jump),
        ):  # fmt: skip
            if value < 0:
                raise TecoError(f"{name} is {value}, expected 0 or more", exit_code=USAGE)
        self.session = session
        self.reverse_warm_up = reverse_warm_up
        self.pre_roll = pre_roll
        self.catch_up = catch_up
        self.jump = jump
        self._core = Recurrence(
            session, scene_cuts=scene_cuts, recurrent=recurrent, centred=centred, scale=scale
        )
        self._deadline = deadline or Deadline()
        self._check_size = check_size
        self._owns = owns
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, Pixels] = OrderedDict()
        self._room = cache
        # Of the last frame that :meth:`at` stepped; -1 before the first, None where it is unknown.
        self._index: int | None = -1
        self._moment: float | None = None  # of the last frame that :meth:`at_time` was given
        # The beginning of a scene that waits for its reverse warm-up, in order, with tags.
        self._held: list[tuple[Pixels, Any, Kind]] = []

    @classmethod
    def open(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        runtime: str = "auto",
        threads: int | None = None,
        **options: Any,
    ) -> Self:
        """A stream with a session of its own.

        Args:
            model: a shipped model's name, an ONNX file, weights or an engine.
            runtime: ``auto`` measures once which is fastest here; or a name of ``teco doctor``.
            threads: CPU threads of a step; None for all.
            options: as the constructor takes them.

        Raises:
            TecoError: there is no such model or runtime, or it cannot be opened here.
        """
        from teco.model.opening import check_frame_size, open_model
        from teco.runtimes import SessionOptions, open_session

        opened = open_model(model)
        session = open_session(opened, runtime, SessionOptions(threads=threads))
        try:
            return cls(
                session,
                check_size=lambda h, w: check_frame_size(opened, h, w),
                owns=True,
                centred=opened.variant.centred,
                scale=opened.variant.scale,
                **options,
            )
        except BaseException:
            session.close()
            raise

    @property
    def stats(self) -> StreamStats:
        """What was done so far."""
        return self._core.stats

    @property
    def expected_seconds(self) -> float:
        """How long the next step should take; 0 before the first."""
        return self._deadline.expected

    def reset(self) -> None:
        """Start a new scene with the next frame; forget every index and timestamp, and drop what
        :meth:`feed` holds."""
        with self._lock:
            self._core.reset()
            self._cache.clear()
            self._held.clear()
            self._index = -1
            self._moment = None

    def push(self, frame: Pixels, *, cut: bool | None = None, due: float | None = None) -> Pixels:
        """The next frame, enlarged at once and so without reverse warm-up.

        Args:
            frame: (h, w, 3) uint8 RGB, at least 8x8; it may be changed afterwards.
            cut: whether a scene begins with it, where that is known; None leaves it to the
                detector.
            due: when it must be there, in seconds of ``time.perf_counter``. If a step would end
                later, the frame is enlarged without the network
                (:func:`teco.inference.deadline.cheap`) and ``stats.fallbacks`` counts it. The state
                remains that of the last step; after more than
                :data:`teco.inference.recurrence.STALE` such frames the scene starts afresh.

        Returns:
            (scale * h, scale * w, 3) uint8 RGB, read-only: held frames are the same array again.

        Raises:
            ModelError: the frame is smaller than 8x8.
            TecoError: the frame is of another kind (RGBA, grey, channels first, floats), the model
                does not take this size, or gave values that are not finite.
        """
        with self._lock:
            self._index = self._moment = None
            return self._next(frame, cut, due)

    def run(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        """All frames in order, with reverse warm-up; holds at most ``reverse_warm_up + 1``."""
        self._held.clear()  # of a run that was given up
        for frame in frames:
            for _, out in self._feed(frame):
                yield out
        for _, out in self._drain():
            yield out

    def run_in_segments(
        self, frames: Iterable[Pixels], plan: SegmentPlan
    ) -> Iterator[tuple[bool, Pixels]]:
        """All frames in order, as :meth:`run`, in parts that do not depend on each other.

        Args:
            frames: from the clip's first one, whatever the plan skips.
            plan: where parts begin.

        Yields:
            Whether a part begins with the frame, and the frame enlarged; of the frames that are not
            skipped.
        """
        self._held.clear()  # of a run that was given up
        for frame in frames:
            kind = self._look(frame, None)
            begins = plan.takes(frame, kind)
            if begins is FramePlace.SKIPPED:
                continue
            if begins is FramePlace.BEGINS_WITHIN_A_SCENE:
                for tag, out in self._drain():
                    yield tag, out
                with self._lock:
                    self._core.begin_with(plan.lead_in)
            for tag, out in self._take(frame, begins is not FramePlace.GOES_ON, kind):
                yield tag, out
        for tag, out in self._drain():
            yield tag, out

    def feed(
        self, frame: Pixels, tag: Any = None, *, due: float | None = None
    ) -> list[tuple[Any, Pixels]]:
        """The next frame, for players that hand over frames one by one; with reverse warm-up.

        At the start of a scene frames are held until there are enough to be run backwards; within
        it each is answered at once.

        Args:
            frame: as :meth:`push`, but not to be changed while it is held.
            tag: anything that belongs to it.
            due: as :meth:`push`; not heeded for frames that are held.

        Returns:
            What can be shown now, in order: each tag with its HR frame.
        """
        with self._lock:
            return list(self._feed(frame, tag, due))

    def drain(self) -> list[tuple[Any, Pixels]]:
        """What :meth:`feed` holds, however little: at the end of a clip or before a scene."""
        with self._lock:
            return list(self._drain())

    def _feed(
        self, frame: Pixels, tag: Any = None, due: float | None = None
    ) -> Iterator[tuple[Any, Pixels]]:
        yield from self._take(frame, tag, self._look(frame, None), due)

    def _take(
        self, frame: Pixels, tag: Any, kind: Kind, due: float | None = None
    ) -> Iterator[tuple[Any, Pixels]]:
        if kind is Kind.STARTS:
            yield from self._drain()
        if self._held or (kind is Kind.STARTS and self.reverse_warm_up):
            self._held.append((frame, tag, kind))
            if len(self._held) > self.reverse_warm_up:
                yield from self._drain()
        else:
            yield tag, self._enlarge(frame, kind, due)

    def _drain(self) -> Iterator[tuple[Any, Pixels]]:
        held, self._held = self._held, []
        with self._lock:
            if held:
                self._core.begin()
            # Mirrored: frame k, ..., 2, 1, then the scene itself from frame 0.
            for frame, _, kind in reversed(held[1:]):
                if kind is not Kind.REPEATS:
                    self._core.step(frame)
        for frame, tag, kind in held:
            yield tag, self._enlarge(frame, Kind.GOES_ON if kind is Kind.STARTS else kind)

    def at(
        self,
        index: int,
        fetch: Callable[[int], Pixels],
        *,
        cut_at: Callable[[int], bool | None] | None = None,
    ) -> Pixels:
        """Frame ``index`` of a clip, enlarged, whichever was asked for before.

        The frame after the last one is the next step. Up to ``catch_up`` frames further on, those
        between are fetched and stepped, so that the result is that of sequential play. Anything
        else is a jump: a new scene begins ``pre_roll`` frames earlier. Recent HR frames are kept.

        Args:
            index: from 0.
            fetch: gives frame i of the clip, (h, w, 3) uint8 RGB. It is called under the stream's
                lock, for indices up to ``index``, ascending.
            cut_at: tells whether a scene begins with frame i, None where it is not known.

        Raises:
            TecoError: ``index`` is negative; and as :meth:`push`.
        """
        if index < 0:
            raise TecoError(f"frame {index} was asked for, the first is 0", exit_code=USAGE)
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
            last = self._index
            reach = max(self.catch_up, self.pre_roll + 1)
            goes_on = last is not None and 0 < index - last <= reach
            self._index = self._moment = None  # an error leaves no place to go on from
            if goes_on and last is not None:
                first = last + 1
            else:
                first = max(0, index - self.pre_roll)
                self._core.reset()
            for i in range(first, index):
                out = self._next(fetch(i), cut_at(i) if cut_at else None)
                if goes_on:
                    self._keep(i, out)
            out = self._next(fetch(index), cut_at(index) if cut_at else None)
            self._keep(index, out)
            self._index = index
            return out

    def at_time(
        self,
        seconds: float,
        frame: Pixels,
        *,
        cut: bool | None = None,
        due: float | None = None,
    ) -> Pixels:
        """The frame of a moment, enlarged, for players that know timestamps and cannot fetch.

        Later by at most ``jump`` goes on, whatever was dropped between; earlier, or later by more,
        starts a scene. The same moment and frame again are a repeat.

        Args:
            seconds: its timestamp.
            frame, cut, due: as :meth:`push` takes them.
        """
        with self._lock:
            if self._moment is not None and not 0 <= seconds - self._moment <= self.jump:
                self._core.reset()
            self._index, self._moment = None, seconds
            return self._next(frame, cut, due)

    def close(self) -> None:
        """Close the session, where the stream has opened it."""
        with self._lock:
            self.reset()
            if self._owns:
                self.session.close()

    def _next(self, frame: Pixels, cut: bool | None, due: float | None = None) -> Pixels:
        return self._enlarge(frame, self._look(frame, cut), due)

    def _look(self, frame: Pixels, cut: bool | None) -> Kind:
        with self._lock:
            kind = self._core.look(frame, cut)
            if kind is Kind.STARTS and self._check_size is not None:
                try:
                    self._check_size(*frame_size(frame))
                except Exception:
                    self._core.reset()  # the same frame again is no repeat of one that was shown
                    raise
            return kind

    def _enlarge(self, frame: Pixels, kind: Kind, due: float | None = None) -> Pixels:
        with self._lock:
            if due is not None and self._core.needs_step(kind) and self._deadline.misses(due):
                return self._core.pass_over(frame, kind)
            stats = self.stats
            seconds, steps = stats.step_seconds, stats.steps
            out = self._core.emit(frame, kind)
            if stats.steps > steps:
                self._deadline.took(stats.step_seconds - seconds)
            if due is not None and self._deadline.clock() > due:
                stats.late += 1
            return out

    def _keep(self, index: int, frame: Pixels) -> None:
        if not self._room:
            return
        self._cache[index] = frame
        self._cache.move_to_end(index)
        while len(self._cache) > self._room:
            self._cache.popitem(last=False)


__all__ = ["Pixels", "Stream", "StreamStats", "to_pixels", "to_tensor"]
