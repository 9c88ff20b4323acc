"""Whether a clip's frames fit into the memory that is free, and in what tiles they would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from teco.core.errors import MACHINE, TecoError
from teco.core.memory import free_bytes, taken_bytes
from teco.estimates import records as measured
from teco.estimates.memory import memory
from teco.estimates.runtimes import fit
from teco.estimates.tensors import Precision
from teco.inference.segments import LEAD_IN
from teco.inference.tiles import largest_window, tiled, window_of
from teco.model.opening import Model
from teco.runtimes import Session, SessionOptions, Wish, choose
from teco.video.clips import PICTURE_SUFFIXES, is_folder_target
from teco.video.file.encoders import EncoderSettings, encoder_bytes, lookahead_within
from teco.video.frames import FrameSource
from teco.video.overlap import QUEUE
from teco_models.variant import Variant

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io

_SPREAD = 0.75
"""Measured growth is at least so much of what is predicted (95% of the records in measured.json
are above 0.73 of it): below that a frame does not fit, whatever the prediction is worth."""


@dataclass(frozen=True)
class Encoding:
    """What beside the network decides on memory.

    Attributes:
        codec: encoder; "" where frames are not encoded.
        preset: speed.
        frames: of the clip, None where that is not known.
        deep: frames have 16 bits on their way.
        held: frames of the clip that wait at the start of a scene (reverse warm-up).
        written: width and height of the picture that is encoded; None for the enlarged frame's.
    """

    codec: str = "libx264"
    preset: str = "medium"
    frames: int | None = None
    deep: bool = False
    held: int = 0
    written: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        target: str,
        settings: EncoderSettings,
        clip: FrameSource,
        held: int = 0,
        written: tuple[int, int] | None = None,
    ) -> Self:
        """Of an output by its name, as :func:`teco.video.clips.open_sink` takes it."""
        suffix = Path(target).suffix.lower()
        pictures = is_folder_target(target) or suffix in PICTURE_SUFFIXES
        encoded = not (target == "-" or suffix == ".y4m" or pictures)
        codec = settings.codec_for(suffix) if encoded else ""
        return cls(codec, settings.preset, clip.count, clip.depth > 8, held, written)

    def bytes(self, h: int, w: int, scale: int, free: int) -> int:
        """What frames of LR (h, w) take beside the network where so much is free: RGB on their way
        out, and the encoder (see :func:`teco.video.file.encoders.lookahead_within`)."""
        width, height = self.written or (scale * w, scale * h)
        under_way = QUEUE + 3
        if self.frames is not None:
            under_way = min(under_way, self.frames + 1)
        bytes_a_pixel = 6 if self.deep else 3
        took = bytes_a_pixel * width * height * under_way
        # What a part of a long job may begin with, and the frames of a scene that wait.
        took += bytes_a_pixel * h * w * (LEAD_IN + self.held)
        if self.codec != "":
            codec = self.codec
            ahead = lookahead_within(codec, self.preset, width, height, free // 3)
            if self.frames is not None:
                ahead = min(ahead, self.frames)
            took += encoder_bytes(codec, self.preset, width, height, ahead)
        return took


def growth(variant: Variant, h: int, w: int, runtime: str, io: Io = "fp32") -> int | None:
    """Bytes by which a process grows that steps LR (h, w) frames on a runtime, as fitted to what
    was measured, with float32 ports; None where nothing was."""
    fitted = fit([r for r in measured.read() if r.runtime == runtime])
    if fitted is None:
        return None
    precision: Precision = "fp16" if runtime.endswith("bf16") else "fp32"
    return fitted(memory(variant, h, w, precision, dynamic=True, io=io))


def need(
    variant: Variant,
    h: int,
    w: int,
    runtime: str,
    encoding: Encoding,
    window: tuple[int, int] | None = None,
    free: int | None = None,
    io: Io = "fp32",
) -> int | None:
    """Bytes by which a process grows that enlarges a clip of LR (h, w); None where nothing is known
    of the runtime's memory.

    Args:
        variant, h, w, runtime, encoding, free: as :func:`tiles_for` takes them.
        window: LR (h, w) of the tiles, None for whole frames.
        io: the ports of the model's file.
    """
    step = growth(variant, *(window or (h, w)), runtime, io)
    if step is None:
        return None
    free = free_bytes() if free is None else free
    took = step + encoding.bytes(h, w, variant.scale, free)
    # Of tiles, the frame, the picture, and the state before and after a step are there as a whole.
    return took if window is None else took + _whole(variant, h, w, io)


def _whole(variant: Variant, h: int, w: int, io: Io) -> int:
    return memory(variant, h, w, dynamic=True, io=io).ports


def tiles_for(
    variant: Variant,
    h: int,
    w: int,
    runtime: str,
    encoding: Encoding,
    free: int | None = None,
    io: Io = "fp32",
) -> tuple[int, int] | None:
    """The windows in which a clip's frames are to be stepped.

    Args:
        variant: of the model.
        h, w: LR size.
        runtime: its name; "auto" is judged as ONNX Runtime.
        encoding: what else takes memory.
        free: bytes; None asks the system.
        io: the ports of the model's file.

    Returns:
        None where the whole frame fits, or nothing is known of the runtime's memory; else LR (h, w)
        for :func:`teco.inference.tiles.tiled`.

    Raises:
        TecoError: neither fits, or the network cannot be run in tiles.
    """
    runtime = "onnxruntime" if runtime == "auto" else runtime
    free = free_bytes() if free is None else free
    whole = need(variant, h, w, runtime, encoding, free=free, io=io)
    if whole is None or whole <= free:
        return None
    if variant.has_flow:
        if whole - (1 - _SPREAD) * (growth(variant, h, w, runtime, io) or 0) <= free:
            return None
        raise _too_large(
            h, w, whole, free,
            f"{variant.name} reads the brightness of the whole frame, so that it cannot be run in "
            "tiles; --model real-cpu can",
        )  # fmt: skip

    def fits(tile_h: int, tile_w: int) -> bool:
        took = need(variant, h, w, runtime, encoding, (tile_h, tile_w), free, io)
        return took is not None and took <= free

    if not fits(8, 8):
        beside = encoding.bytes(h, w, variant.scale, free)
        raise _too_large(
            h, w, beside + _whole(variant, h, w, io), free,
            f"a picture of {variant.scale * w}x{variant.scale * h} takes that without the network; "
            "use a faster --preset, which holds fewer frames, or shrink the clip",
        )  # fmt: skip
    return largest_window(h, w, fits)


def open_in_room(
    model: Model,
    runtime: str,
    options: SessionOptions,
    size: tuple[int, int],
    encoding: Encoding,
    tile: tuple[int, int] | Literal["auto"] | None = "auto",
    *,
    wish: Wish = "float32",
    among: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Session, Model, int | None]:
    """A session for frames of one size, in tiles where the whole frame does not fit.

    Args:
        model, runtime, options, wish, among: as :func:`teco.runtimes.choose` takes them.
        size: LR (h, w) of the frames.
        encoding: what else takes memory.
        tile: LR (h, w) to step frames in, None for whole frames, "auto" for what fits.
        tell: told why "auto" took what it took, where that is a question.

    Returns:
        The session; the model that it runs, which may be a form of the one given; and bytes that
        the process will have, None where nothing is known of the runtime's memory.

    Raises:
        TecoError: the model cannot be opened there, or nothing fits.
    """
    h, w = size
    chosen = choose(model, runtime, options, wish, size=size, among=among)
    session = chosen.runtime.open(chosen.model, options)
    try:
        if chosen.why:
            tell(chosen.why)
        # What is free is asked when the runtime's libraries are there.
        already = taken_bytes()
        io = "fp32" if model.manifest is None else model.manifest.contract.io
        if tile == "auto":
            window = tiles_for(model.variant, h, w, session.runtime, encoding, io=io)
        else:
            window = None if tile is None else window_of(tile, h, w)
        grows = need(model.variant, h, w, session.runtime, encoding, window, io=io)
        if window is not None:
            session = tiled(session, window)
    except BaseException:
        session.close()
        raise
    return session, chosen.model, None if grows is None else already + grows


def _too_large(h: int, w: int, need: int, free: int, hint: str) -> TecoError:
    return TecoError(
        f"frames of {w}x{h} need about {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} "
        "GiB are free",
        hint=hint,
        exit_code=MACHINE,
    )
