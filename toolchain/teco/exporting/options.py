"""What can be asked of an export to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from teco.core.errors import USAGE, TecoError
from teco.verification.parity import FRAMES

if TYPE_CHECKING:
    from teco.exporting.quantisation.clips import CalibrationSet
    from teco_models.deploy.ports import Io
    from teco_models.variant import Variant

Precision = Literal["fp32", "fp16", "int8"]
"""Of the convolutions: :mod:`teco_models.deploy.step` for the first two, for int8
:mod:`teco.exporting.quantisation`."""

Target = Literal["onnxruntime", "openvino", "tensorrt", "web"]
"""Runtimes that there is a form for: :data:`teco_models.deploy.step.TARGETS`."""

DEFAULT_TARGET = "onnxruntime"
"""The runtime of the base install."""

WEB = "web"
"""The target for browsers, whose graph is of another opset: :mod:`teco.exporting.web_graph`."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export.

    Attributes:
        size: (h, w) of a static LR frame, None for any size.
        precision: of the convolutions, see :data:`Precision`.
        calibration: of int8, None for the defaults.
        io: type of frames at the ports, see :mod:`teco_models.deploy.ports`.
        target: runtime whose fastest deploy form is written, see
            :data:`teco_models.deploy.step.TARGETS`; every form runs on every runtime.
        without: names of :class:`teco_models.deploy.step.Rewrites` fields to switch off besides.
        half_weights: store weights as float16 where that loses nothing, for half the file; a Cast
            to float32 follows each, and everything is computed in float32.
        frames: recurrent frames of the verification, at least 10.
        shared_with: a safetensors file in the folder of the result; weights that lie in it byte for
            byte are not stored again but referred to (ONNX's external data). For shipped models.
        name: file name without suffix; None for the variant's name and :attr:`suffix`.
    """

    size: tuple[int, int] | None = None
    precision: Precision = "fp32"
    calibration: CalibrationSet | None = None
    io: Io = "fp32"
    target: str = DEFAULT_TARGET
    without: tuple[str, ...] = ()
    half_weights: bool = False
    frames: int = FRAMES
    shared_with: Path | None = None
    name: str | None = None

    def check(self, variant: Variant) -> None:
        """Raise TecoError for what contradicts itself, or cannot be had of a variant."""
        h, w = self.size or (0, 0)
        if self.io in ("nv12", "i420") and (h % 2 or w % 2):
            raise TecoError(
                f"--size is {h}x{w}, and 4:2:0 planes (--io {self.io}) have even sizes",
                hint=f"--size {h + h % 2}x{w + w % 2}, or --io uint8",
                exit_code=USAGE,
            )
        if self.precision == "int8" and self.io in ("nv12", "i420"):
            raise TecoError(
                f"--int8 measures its ranges and its cost on RGB, and --io {self.io} takes planes",
                hint=f"leave --io {self.io} out, or --int8; --io uint8 goes with it",
                exit_code=USAGE,
            )
        if self.frames < 10:
            raise TecoError(f"verification needs at least 10 frames, got {self.frames}")
        if self.target == WEB and (self.precision != "fp32" or self.io != "fp32"):
            asked = f"--{self.precision}" if self.precision != "fp32" else f"--io {self.io}"
            raise TecoError(
                f"--for web is float32 with float32 ports, and {asked} was asked for: WebGPU runs "
                "neither 8-bit integers nor, on every machine, float16",
                hint=f"leave {asked} out; --half-weights halves the download all the same",
                exit_code=USAGE,
            )

    @property
    def inner(self) -> Literal["fp32", "fp16"]:
        """What convolutions compute in that are not in int8.

        float32 on runtimes of CPUs, which have no faster float16; in an engine float32 would move
        twice the bytes of float16 between every two layers in int8.
        """
        if self.precision == "int8":
            return "fp16" if self.target == "tensorrt" else "fp32"
        return self.precision

    @property
    def rounds_to_float16(self) -> bool:
        """Whether float16 is what changes values most, so that the gate judges by its bounds."""
        return self.precision != "int8" and "fp16" in (self.precision, self.io)

    @property
    def label(self) -> str:
        """What a file that rounds to float16 is called in messages."""
        return "fp16" if self.precision == "fp16" else "fp32 with float16 ports"

    @property
    def without_float16(self) -> str:
        """A hint for those whose network does not bear float16."""
        return f"export it without {'--fp16' if self.precision == 'fp16' else '--io fp16'}"

    @property
    def size_text(self) -> str:
        """The size as a manifest has it, "HxW" or "dynamic"."""
        return f"{self.size[0]}x{self.size[1]}" if self.size else "dynamic"

    @property
    def suffix(self) -> str:
        """What a file name says of these: "-180x320-fp16-uint8io-openvino" at most."""
        words = [self.size_text] if self.size else []
        words += [self.precision] if self.precision != "fp32" else []
        words += [f"{self.io}io"] if self.io != "fp32" else []
        words += [self.target] if self.target != DEFAULT_TARGET else []
        return "".join(f"-{word}" for word in words)
