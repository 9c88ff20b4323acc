"""Frames that stay in their files until a sample asks for them.

A set such as REDS is 9 GB as PNG and 66 GB decoded; it is neither held in memory nor written out
decoded before training can start. What samples are cut from is anything that behaves like a
(N, H, W, 3) uint8 array in the few ways listed at :class:`Frames`: a memory map of decoded frames,
:class:`ImageFrames` here, or :class:`teco.training.data.lmdb_store.LmdbFrames`.
"""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco_calibration.degrade import shrink_by_area

FRAME_CACHE = 256 * 2**20
"""Bytes of decoded frames that one process keeps: 97 at 1280x720. It is for the frames of the
sequence at hand, which are looked at several times; clips are drawn at random, so a larger one
would seldom be hit."""


class Frames(Protocol):
    """What a shot's frames can do; every NumPy array can.

    ``frames[i]`` is the picture (H, W, 3), ``frames[i, y0:y1, x0:x1]`` a crop of it and
    ``frames[a:b]`` the frames of a range. Nothing that is returned may be written to.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class FrameCache:
    """The decoded frames used last, up to a number of bytes.

    Args:
        limit: bytes; a frame larger than that is never kept.
    """

    def __init__(self, limit: int = FRAME_CACHE) -> None:
        self.limit = limit
        self.size = 0
        self._frames: OrderedDict[object, NDArray[np.uint8]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def get(self, key: object) -> NDArray[np.uint8] | None:
        """The frame kept under a key, which becomes the one used last."""
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
        return frame

    def put(self, key: object, frame: NDArray[np.uint8]) -> None:
        """Keep a frame and, if need be, drop those not used for longest."""
        with self._lock:
            if frame.nbytes > self.limit or key in self._frames:
                return
            self._frames[key] = frame
            self.size += frame.nbytes
            while self.size > self.limit:
                _, dropped = self._frames.popitem(last=False)
                self.size -= dropped.nbytes

    def clear(self) -> None:
        """Drop all frames."""
        with self._lock:
            self._frames.clear()
            self.size = 0


CACHE = FrameCache()
"""That of this process. Forked workers start with a copy that costs nothing until it changes."""


class LazyFrames(ABC):
    """(N, H, W, 3) uint8 RGB of which pixels are read when asked for; see :class:`Frames`.

    Holds plain data only, so that it can be pickled for workers that are not forked.

    Args:
        count, height, width: N, H and W, after shrinking.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self._which = range(count)
        self._size = (height, width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._which), *self._size, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._which)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._read(i, ()) for i in self._which)

    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, slice):
            part = copy.copy(self)
            part._which = self._which[key]
            return part
        first, *window = key if isinstance(key, tuple) else (key,)
        return self._read(self._which[operator.index(first)], tuple(window))

    @abstractmethod
    def _read(self, index: int, window: tuple[Any, ...]) -> NDArray[np.uint8]:
        """``frame[window]`` of the frame with this number in the clip; not to be written to."""


class ImageFrames(LazyFrames):
    """The pictures of one folder, decoded when asked for and kept in :data:`CACHE`.

    Decoding a 1280x720 PNG costs 15 to 20 ms of one core whatever part of it is wanted.

    Args:
        files: one picture a frame, in order.
        height, width: of each, after shrinking.
        shrink: area shrink factor, see :func:`teco_calibration.degrade.shrink_by_area`.
    """

    def __init__(
        self, files: tuple[Path, ...], height: int, width: int, shrink: float = 1.0
    ) -> None:
        super().__init__(len(files), height, width)
        self._files = files
        self._shrink = shrink

    def _read(self, index: int, window: tuple[Any, ...]) -> NDArray[np.uint8]:
        file = self._files[index]
        key = (file, self._shrink)
        frame = CACHE.get(key)
        if frame is None:
            frame = shrink_by_area(read_picture(file), self._shrink)
            if frame.shape[:2] != self._size:
                raise mixed_sizes(file, frame.shape, self._files[0], self._size)
            frame.flags.writeable = False
            CACHE.put(key, frame)
        return frame[window]


def mixed_sizes(
    file: Path, shape: tuple[int, ...], other: Path, size: tuple[int, ...]
) -> TecoError:
    """The error for a picture of another (height, width) than its folder's first."""
    return TecoError(
        f"{file} is {shape[1]}x{shape[0]}, expected {size[1]}x{size[0]} as {other.name} beside it",
        hint="put pictures of one size into one folder",
    )


def read_picture(file: Path) -> NDArray[np.uint8]:
    """A picture file as uint8 (H, W, 3) RGB.

    16-bit pictures are read as 8-bit ones, grey ones as RGB, an alpha channel is dropped.

    Raises:
        TecoError: it is missing, empty, damaged, no picture or one of floating-point samples.
    """
    import cv2

    def unreadable(reason: str) -> TecoError:
        return TecoError(
            f"the frame {file} cannot be read: {reason}",
            hint="download or extract it again, or remove it",
        )

    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise unreadable(str(error.strerror)) from error
    if not data.size:
        raise unreadable("the file is empty")
    try:
        # Any: OpenCV's stubs promise a picture where None is possible.
        bgr: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise unreadable(str(error.err)) from error
    if bgr is None or bgr.dtype != np.uint8:
        raise unreadable("it is damaged or no picture")
    return np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
