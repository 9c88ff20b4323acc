"""Files with planes beside sessions that take floats: the host path in float64, and RGB through it.

What a graph with planes is held against is the same conversion on the host in float64
(:mod:`teco.model.conversion`) around the float32 step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from teco.core.pixels import Array, Pixels
from teco.core.planes import Layout, chroma_of, planes_of, require_even
from teco.model.conversion import Conversion, exact_planes, exact_rgb
from teco.runtimes.base import PlaneSession, Session, State
from teco.runtimes.ports import TakesPlanes

USUAL = Conversion.of("bt709", full_range=False)
OTHER = Conversion.of("bt601", full_range=True)


class ExactPlanes(TakesPlanes):
    """A session with float ports as one that takes planes.

    Args:
        session: closed with this one.
        layout: of the planes.
        conversion: of the pictures to come; see :meth:`convert_by`.
    """

    def __init__(self, session: Session, layout: Layout, conversion: Conversion = USUAL) -> None:
        self._session = session
        self._layout: Layout = layout
        self._conversion = conversion
        self.runtime, self.details = session.runtime, session.details

    @property
    def layout(self) -> Layout:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        return self._layout

    def enlarge_planes(self, picture: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        assert self._conversion is not None
        rgb = exact_rgb(picture, self._layout, self._conversion)
        hr, state = self._session.step(rgb[None].astype(np.float32), state)
        if not np.isfinite(hr.sum()):
            raise FloatingPointError
        return exact_planes(hr[0], self._layout, self._conversion), state

    def close(self) -> None:
        """Close the session within."""
        self._session.close()


class ThroughPlanes:
    """A session that takes planes as one for RGB frames, for those who judge pictures: what 4:2:0
    loses is lost. See :class:`teco.runtimes.base.FrameSession`.

    Args:
        session: closed with this one.
        samples: give Y, Cb and Cr of each pixel in place of R, G and B, for comparing two of a
            kind: a step of a sample may be two of a colour.
    """

    def __init__(self, session: PlaneSession, *, samples: bool) -> None:
        session.convert_by(USUAL)
        self._session: Any = session  # a Session besides
        self._samples = samples
        self.runtime = self.details = "through planes"

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`.

        Raises:
            TecoError: a frame of odd sides.
        """
        layout = self._session.layout
        require_even(frame.shape[0], frame.shape[1], "the frame")
        given = exact_planes(frame.transpose(2, 0, 1) / 255, layout, USUAL)
        made, state = self._session.enlarge_planes(given, state)
        if self._samples:
            luma, chroma = planes_of(made, layout)[0], chroma_of(made, layout)
            return np.concatenate((luma, chroma.repeat(2, 0).repeat(2, 1)), axis=2), state
        rgb = exact_rgb(made, layout, USUAL)
        return np.rint(255 * rgb).astype(np.uint8).transpose(1, 2, 0).copy(), state

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        """Nobody asks for it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the session within."""
        self._session.close()


def even(size: tuple[int, int], layout: Layout | None) -> tuple[int, int]:
    """A size (h, w), or the next that has planes where there is a layout."""
    h, w = size
    return (h, w) if layout is None else (h + h % 2, w + w % 2)
