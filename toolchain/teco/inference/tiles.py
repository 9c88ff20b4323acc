"""Frames that are too large for the memory, in tiles whose seams cannot be seen.

What a network needs grows with the frame's area; an 8K frame takes tens of GiB. Windows of one size
are stepped one after the other and their middles put together. The recurrent state is put together
likewise, and each window is given its part of the whole state, not its own of the frame before: so
what a window gets wrong near its edge, where it sees less than the whole frame, is not carried on.
How far that reaches is :data:`OVERLAP`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError
from teco.core.pixels import Array, Pixels
from teco.core.planes import packed, planes_of
from teco.model.conversion import Conversion
from teco.runtimes.base import FrameSession, PlaneSession, Session, State, StateArrays
from teco.runtimes.ports import TakesPlanes

OVERLAP = 32
"""LR pixels that a window sees beyond the part that is kept of it, at each side."""

GRID = 16
"""Windows begin at multiples of this: networks shrink frames by it for their motion, and a window
must be shrunk on the same grid as the whole frame."""

LEAST = 4 * OVERLAP
"""Smallest side of a window, LR pixels; below, most of it would be overlap."""


@dataclass(frozen=True)
class _Window:
    """One side of a window: where it begins, and what of it is kept, on the frame's pixels."""

    at: int
    first: int
    last: int


def windows(length: int, window: int) -> list[_Window]:
    """Windows along one side of a frame.

    Args:
        length: of the side.
        window: of each window; at most ``length``, and less by a multiple of :data:`GRID`.
    """
    if window >= length:
        return [_Window(0, 0, length)]
    room = length - window
    count = 1 + -(-room // (window - 2 * OVERLAP - GRID))
    starts = [round(n * room / (count - 1) / GRID) * GRID for n in range(count - 1)] + [room]
    # Two neighbours meet in the middle of what both see.
    seams = [0, *((a + window + b) // 2 for a, b in pairwise(starts)), length]
    return [
        _Window(at, first, last) for at, first, last in zip(starts, seams, seams[1:], strict=False)
    ]


def window_side(length: int, most: int) -> int:
    """The longest window of at most ``most`` that :func:`windows` can lay along a side."""
    if most >= length:
        return length
    least = min(length, LEAST + GRID)
    return length - GRID * -(-(length - max(most, least)) // GRID)


def largest_window(h: int, w: int, fits: Callable[[int, int], bool]) -> tuple[int, int]:
    """The window (h, w) of the least overlap among those that fit.

    Args:
        h, w: of the frame.
        fits: whether there is memory for a window.

    Raises:
        TecoError: not even the smallest fits.
    """
    best: tuple[float, tuple[int, int]] | None = None
    for down in range(1, 65):
        for across in range(1, 65):
            size = tuple(
                window_side(length, -(-(length + 2 * OVERLAP * (n - 1)) // n) + GRID)
                for length, n in ((h, down), (w, across))
            )
            if not fits(*size):
                continue
            count = len(windows(h, size[0])) * len(windows(w, size[1]))
            work = count * size[0] * size[1]
            if best is None or work < best[0]:
                best = work, (size[0], size[1])
            break  # more columns would only overlap more
    if best is None:
        raise TecoError(
            f"not even a tile of a {w}x{h} frame fits into the memory that is free",
            hint="close other programs, or use a model with fewer channels",
            exit_code=MACHINE,
        )
    return best[1]


class TiledSession:
    """A session for whole frames over one that steps windows.

    Args:
        session: of a runtime whose state can be taken apart.
        window: LR (h, w); frames that are no larger are stepped whole.
    """

    def __init__(self, session: Session, window: tuple[int, int]) -> None:
        if not isinstance(session, StateArrays):
            raise TecoError(
                f"{session.runtime} cannot step a frame in tiles",
                hint="--runtime onnxruntime and --runtime openvino can",
                exit_code=MACHINE,
            )
        self._session = session
        self._arrays: StateArrays = session
        self.window = window
        self.runtime = session.runtime
        self.scale = session.contract.scale
        h, w = window
        self.details_below = session.details
        self.details = f"{session.details}, tiles of {w}x{h}"
        self._axes = {
            s.input: (_axis(s.shape, "h"), _axis(s.shape, "w")) for s in session.contract.states
        }

    def close(self) -> None:
        """Close the session below."""
        self._session.close()

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        """See :class:`teco.runtimes.base.Session`."""
        (picture,), state = self._whole((lr,), (2, 3), state, _alone(self._session.step))
        return picture, state

    def _whole(
        self,
        frames: tuple[NDArray[Any], ...],
        axes: tuple[int, int],
        state: dict[str, NDArray[Any]] | None,
        step: Callable[[tuple[Any, ...], State | None], tuple[tuple[Any, ...], State]],
    ) -> tuple[tuple[Any, ...], dict[str, NDArray[Any]]]:
        """Step every window of a frame, or of its planes, and put together what comes out."""
        h, w = (frames[0].shape[axis] for axis in axes)
        pictures: list[NDArray[Any]] = []
        following: dict[str, NDArray[Any]] = {}
        for y, x in self._places(h, w):
            sizes = (min(self.window[0], h), min(self.window[1], w))
            given = None
            if state is not None:
                given = self._arrays.from_arrays(
                    {
                        name: np.ascontiguousarray(
                            value[_seen(value, self._axes[name], (h, w), (y, x), sizes)]
                        )
                        for name, value in state.items()
                    }
                )
            seen = (
                np.ascontiguousarray(part[_seen(part, axes, (h, w), (y, x), sizes)])
                for part in frames
            )
            outs, after = step(tuple(seen), given)
            if not pictures:
                pictures = [_whole_like(out, axes, sizes, (h, w)) for out in outs]
            for picture, out in zip(pictures, outs, strict=True):
                _put(picture, out, axes, (h, w), (y, x))
            for name, value in self._arrays.to_arrays(after).items():
                if name not in following:
                    following[name] = _whole_like(value, self._axes[name], sizes, (h, w))
                _put(following[name], value, self._axes[name], (h, w), (y, x))
        return tuple(pictures), following

    def _places(self, h: int, w: int) -> Iterator[tuple[_Window, _Window]]:
        for y in windows(h, min(self.window[0], h)):
            for x in windows(w, min(self.window[1], w)):
                yield y, x


class TiledFrameSession(TiledSession):
    """The same for sessions that take and give 8-bit frames."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        assert isinstance(self._session, FrameSession)
        (picture,), state = self._whole((frame,), (0, 1), state, _alone(self._session.enlarge))
        return picture, state


class TiledPlaneSession(TakesPlanes, TiledSession):
    """The same for sessions that take and give planes, whose windows begin at even places."""

    def __init__(self, session: Session, window: tuple[int, int]) -> None:
        super().__init__(session, window)
        self._contract = self._arrays.contract

    def convert_by(self, conversion: Conversion) -> None:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        super().convert_by(conversion)
        assert isinstance(self._session, PlaneSession)
        self._session.convert_by(conversion)

    def enlarge_planes(self, picture: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        session, layout = self._session, self.layout
        assert isinstance(session, PlaneSession)

        def step(planes: tuple[Any, ...], state: State | None) -> tuple[tuple[Any, ...], State]:
            made, state = session.enlarge_planes(packed(*planes), state)
            return planes_of(made, layout), state

        planes, state = self._whole(planes_of(picture, layout), (0, 1), state, step)
        return packed(*planes), state


def window_of(asked: tuple[int, int], h: int, w: int) -> tuple[int, int]:
    """The window nearest to what was asked for, (h, w), that frames of LR (h, w) can be laid out
    in."""
    return window_side(h, asked[0]), window_side(w, asked[1])


def tiled(session: Session, window: tuple[int, int]) -> Session:
    """``session`` in windows of LR (h, w).

    Raises:
        TecoError: its runtime keeps a state that cannot be taken apart.
    """
    kind = TiledFrameSession if isinstance(session, FrameSession) else TiledSession
    kind = TiledPlaneSession if isinstance(session, PlaneSession) else kind
    return kind(session, window)


def _axis(shape: tuple[str, ...], name: str) -> int:
    """Which axis of a contract's shape grows with the frame's ``name``."""
    return next(n for n, text in enumerate(shape) if name in text.split("*"))


def _alone(
    step: Callable[[Any, State | None], tuple[Any, State]],
) -> Callable[[tuple[Any, ...], State | None], tuple[tuple[Any, ...], State]]:
    """A step on one array as one on a tuple of it."""

    def on_tuples(given: tuple[Any, ...], state: State | None) -> tuple[tuple[Any, ...], State]:
        out, after = step(given[0], state)
        return (out,), after

    return on_tuples


def _seen(
    array: NDArray[Any],
    axes: tuple[int, int],
    size: tuple[int, int],
    place: tuple[_Window, _Window],
    window: tuple[int, int],
) -> tuple[slice, ...]:
    """What a window sees of an array of the whole frame's ``size``, at any scale, that of chroma
    included: windows begin, and planes end, at even places."""
    index = [slice(None)] * array.ndim
    for a, s, p, n in zip(axes, size, place, window, strict=True):
        extent = array.shape[a]
        index[a] = slice(p.at * extent // s, (p.at + n) * extent // s)
    return tuple(index)


def _put(
    whole: NDArray[Any],
    part: NDArray[Any],
    axes: tuple[int, int],
    size: tuple[int, int],
    place: tuple[_Window, _Window],
) -> None:
    """Copy what is kept of a window's array into the whole frame's."""
    there, here = [slice(None)] * whole.ndim, [slice(None)] * part.ndim
    for a, s, p in zip(axes, size, place, strict=True):
        extent = whole.shape[a]
        first, last, at = (n * extent // s for n in (p.first, p.last, p.at))
        there[a], here[a] = slice(first, last), slice(first - at, last - at)
    whole[tuple(there)] = part[tuple(here)]


def _whole_like(
    part: NDArray[Any], axes: tuple[int, int], window: tuple[int, int], size: tuple[int, int]
) -> NDArray[Any]:
    """Room for the whole frame's array, of which ``part`` is a window's."""
    shape = list(part.shape)
    for a, s, n in zip(axes, window, size, strict=True):
        shape[a] = part.shape[a] * n // s
    return np.empty(shape, part.dtype)
