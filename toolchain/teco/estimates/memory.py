"""Memory of one deployed step, added up from its list of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.estimates.tensors import FLOAT, WIDTHS, Precision, deployed, peak
from teco.model.contract import StreamContract
from teco.runtimes.ports import shape_of, shapes_of
from teco_models.variant import MIN_SIZE, SCALE, Variant

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io

PICTURES = {
    "540p": (540, 960), "720p": (720, 1280), "1080p": (1080, 1920), "1440p": (1440, 2560),
    "2160p": (2160, 3840), "4k": (2160, 3840),
}  # fmt: skip
"""Names of sizes: (height, width) of the picture that comes out."""


def parse_size(text: str, scale: int = SCALE) -> tuple[int, int]:
    """LR (h, w) of "1080p", the picture that comes out, or of "270x480", the frame that goes in.

    Raises:
        TecoError: neither; exit code 2.
    """
    if (picture := PICTURES.get(text.lower())) is not None:
        return picture[0] // scale, picture[1] // scale
    h, _, w = text.partition("x")
    digits = all(x.isascii() and x.isdecimal() and len(x) < 6 for x in (h, w))
    if not digits or min(int(h), int(w)) < MIN_SIZE:
        raise TecoError(
            f"{text!r} is no size; expected {', '.join(PICTURES)} for the picture that comes out, "
            f"or the LR frame as HEIGHTxWIDTH, at least {MIN_SIZE}x{MIN_SIZE}",
            hint="for example --size 1080p, which is --size 270x480",
            exit_code=USAGE,
        )
    return int(h), int(w)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one stream takes where it is computed.

    Attributes:
        weights: trained weights in the precision asked, fixed kernels and tables in float32.
        ports: the frame, the picture and the state, in the types that they have; the state twice,
            as it is read and as it is written.
        activations: most bytes alive at once beside the ports, see
            :func:`teco.estimates.tensors.peak`.
        peak_at: operation at which that is.
        workspace: assumed, not computed: the largest tensor once more, for a runtime that needs it
            in another layout.
        frame_in, picture_out: what crosses to and from the host in each frame.
    """

    weights: int
    ports: int
    activations: int
    peak_at: str
    workspace: int
    frame_in: int
    picture_out: int

    @property
    def device(self) -> int:
        """All together."""
        return self.weights + self.ports + self.activations + self.workspace


def memory(
    variant: Variant,
    h: int,
    w: int,
    precision: Precision = "fp32",
    form: Mapping[str, bool] | None = None,
    *,
    dynamic: bool = False,
    io: Io = "fp32",
) -> MemoryEstimate:
    """Memory of one step; arguments and errors as of :func:`teco.estimates.tensors.deployed`.

    Args:
        io: the file's ports, as ``teco export --io`` calls them. Whatever they are, the network
            computes floats; those of the frame and the picture are then tensors like others.
    """
    ops = deployed(variant, h, w, precision, form, dynamic=dynamic)
    width = WIDTHS[precision]
    weights = sum(op.weights * width + op.constants * FLOAT for op in ops)
    activations, where = peak(ops)
    contract = StreamContract.of(variant, io)
    outputs = shapes_of(contract)
    sizes = {
        name: prod(shape_of(shape, h, w)) * np.dtype(contract.dtypes.get(name, "float32")).itemsize
        for name, shape in (contract.inputs | outputs).items()
    }

    def together(names: Iterable[str]) -> int:
        return sum(sizes[name] for name in names)

    converted, at = _of_conversions(variant, h, w, io)
    if converted:
        # The frame in floats is there for the whole step, the picture when the network is done.
        frame = 3 * h * w * FLOAT
        activations, where = max((activations + frame, where), (converted + frame, at))
    return MemoryEstimate(
        weights=weights,
        ports=together(contract.inputs) + together(outputs),
        activations=activations,
        peak_at=where,
        workspace=max(op.size for op in ops),
        frame_in=together(contract.frames),
        picture_out=together(contract.pictures),
    )


def _of_conversions(variant: Variant, h: int, w: int, io: Io) -> tuple[int, str]:
    """Most bytes of floats beside the frame's in what makes a port's picture of the network's, and
    where that is; 0 of float32 ports. See :mod:`teco_models.deploy.planes` and ``ports``."""
    picture = 3 * variant.phases * h * w * FLOAT
    if io == "fp32":
        return 0, ""
    # A picture that is state is an output in floats as well, and counted there.
    own = 0 if variant.has_flow and io != "fp16" else picture
    if io in ("nv12", "i420"):
        # Clipped, padded for the filter of chroma, and of half the height after it.
        return own + picture + picture + picture // 2, "chroma of the picture"
    return own + picture, "levels of the picture"
