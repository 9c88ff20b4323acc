"""What it costs to say where chroma lies: RGB <-> 4:2:0 with and without, by turns.

    python scripts/time_siting.py [--size 1080x1920] [--rounds 60]

CPU time of one thread. Without, swscale centres chroma, as it does where nothing is said; so this
is the conversion before and after it was given. Prints medians and their ratio.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import av
import click
import numpy as np

from teco.video.colour import Colour, Converter

COLOUR = Colour("bt709", False)


def plain() -> Converter:
    """A converter that says nothing."""
    made = Converter(COLOUR)
    made._read = made._written = lambda frame: frame  # type: ignore[assignment]
    return made


def jobs(h: int, w: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """(what, with or without) -> one conversion of a frame of noise."""
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for pix_fmt, kind in (("yuv420p", np.uint8), ("yuv420p10le", np.uint16)):
        rgb = rng.integers(0, np.iinfo(kind).max + 1, (h, w, 3)).astype(kind)
        coded = Converter(COLOUR).from_rgb(rgb, pix_fmt)
        for how, converter in (("with", Converter(COLOUR)), ("without", plain())):
            found[f"{pix_fmt} to RGB", how] = _reading(converter, coded, kind is np.uint16)
            found[f"RGB to {pix_fmt}", how] = _writing(converter, rgb, pix_fmt)
    return found


def _reading(converter: Converter, frame: av.VideoFrame, deep: bool) -> Callable[[], Any]:
    return lambda: converter.to_rgb(frame, deep=deep)


def _writing(converter: Converter, rgb: Any, pix_fmt: str) -> Callable[[], Any]:
    return lambda: converter.from_rgb(rgb, pix_fmt)


@click.command()
@click.option("--size", default="1080x1920", show_default=True, help="HEIGHTxWIDTH.")
@click.option("--rounds", default=60, show_default=True)
def main(size: str, rounds: int) -> None:
    h, w = map(int, size.split("x"))
    work = jobs(h, w)
    took: dict[tuple[str, str], list[float]] = {name: [] for name in work}
    for n in range(rounds + 3):
        order = list(work)
        random.Random(n).shuffle(order)
        for name in order:
            began = time.thread_time()
            work[name]()
            if n >= 3:
                took[name].append(1000 * (time.thread_time() - began))
    for what in dict.fromkeys(what for what, _ in work):
        said, unsaid = (statistics.median(took[what, how]) for how in ("with", "without"))
        print(f"{what:20} {said:7.2f} ms, {unsaid:7.2f} without: {said / unsaid - 1:+.1%}")


if __name__ == "__main__":
    main()
