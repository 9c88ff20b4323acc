"""The viewer: pictures of one moment side by side, lossless, with dividers and a magnifier.

What moves is ``viewer.js``; everything in it is done by keyboard too.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, Self

import numpy as np

from teco.core.errors import TecoError
from teco.core.pixels import Pixels
from teco.page.document import picker

SCRIPT = files("teco.page").joinpath("viewer.js").read_text(encoding="utf-8")
"""Reads what :func:`data` gives from the block with the id "shown"."""

_DIVIDERS = ("first", "second")


@dataclass(frozen=True)
class Crop:
    """What is cut out of each picture, in pixels, and of what."""

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int

    @classmethod
    def middle(cls, height: int, width: int, pixels: int) -> Self:
        """The middle of a picture, of its shape and at most so many pixels; the whole if it has no
        more."""
        scale = min(1.0, math.sqrt(pixels / (height * width)))
        h, w = int(height * scale), int(width * scale)
        return cls((height - h) // 2, (width - w) // 2, h, w, height, width)

    @property
    def is_whole(self) -> bool:
        return (self.height, self.width) == (self.full_height, self.full_width)

    def of(self, pixels: Pixels) -> Pixels:
        """(full_height, full_width, 3) -> a view of (height, width, 3)."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Shown:
    """What the viewer shows.

    Attributes:
        frames: of the clip.
        crop: what of them.
        images: method -> a ``data:`` URI for each frame.
    """

    frames: tuple[int, ...]
    crop: Crop
    images: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Pane:
    """One of the pictures side by side.

    Attributes:
        name: such as "left"; the id of its list of methods ends so.
        methods: (method, label) to choose from; one alone is no choice.
        chosen: the method at first; "" for the first one.
    """

    name: str
    methods: Sequence[tuple[str, str]]
    chosen: str = ""

    @property
    def is_fixed(self) -> bool:
        return len(self.methods) == 1


def data(
    shown: Shown, panes: Sequence[Pane], psnr: Mapping[str, Sequence[float | None]] | None = None
) -> dict[str, Any]:
    """What the script reads.

    Args:
        shown: the pictures.
        panes: two or three.
        psnr: method -> that of each frame, where it was measured.
    """
    return {
        "width": shown.crop.width,
        "height": shown.crop.height,
        "images": shown.images,
        "panes": [
            {"name": p.name, "method": p.methods[0][0] if p.is_fixed else None} for p in panes
        ],
        "labels": {method: label for p in panes for method, label in p.methods},
        "psnr": psnr or {},
    }


def viewer(panes: Sequence[Pane], frames: Sequence[tuple[str, str]], text: str) -> str:
    """The viewer's elements.

    Args:
        panes: two or three, as :func:`data` has them.
        frames: (number, label) of each frame.
        text: HTML that says what is shown.
    """
    names = [p.name for p in panes]
    pickers = "".join(
        picker(f"view-{p.name}", p.name.capitalize(), p.methods, p.chosen)
        for p in panes
        if not p.is_fixed
    )
    sliders = "".join(
        f'<label><span>{one} | {other}</span><input type="range" id="view-{divider}" min="0" '
        f'max="100" step="0.5" value="{round(100 * n / len(panes))}"></label>'
        for n, (divider, one, other) in enumerate(
            zip(_DIVIDERS, names, names[1:], strict=False), start=1
        )
    )
    zooms = "".join(
        f'<figure><canvas id="zoom-{n}" role="img" aria-label="{name}, magnified"></canvas>'
        "<figcaption></figcaption></figure>"
        for n, name in enumerate(names)
    )
    all_names = f"{', '.join(names[:-1])} and {names[-1]}"
    move = "divider with the slider" if len(panes) == 2 else "dividers with the sliders"
    return (
        f"<p>{text} Move the {move} or by dragging; the pointer, or the arrow keys on the frame "
        "(with Shift in larger steps), move the magnifier.</p>"
        '<div class="viewer"><div class="controls">'
        + picker("view-frame", "Frame", frames)
        + pickers
        + picker("view-zoom", "Magnify", [(n, f"{n} times") for n in "248"], "4")
        + f'</div><canvas id="view" tabindex="0" role="img" aria-label="{escape(all_names)} side '
        'by side; arrow keys move the magnifier"></canvas>'
        f'<div class="sliders">{sliders}</div>'
        f'<div class="zooms" style="--panes: {len(panes)}">{zooms}</div></div>'
    )


def data_uri(pixels: Pixels) -> str:
    """(H, W, 3) uint8 RGB as a lossless WebP in a ``data:`` URI."""
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    # Above 100 is lossless.
    done, coded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])
    if not done:
        raise TecoError("OpenCV could not make a WebP of a frame")
    return "data:image/webp;base64," + base64.b64encode(coded.tobytes()).decode()
