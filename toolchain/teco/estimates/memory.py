"""Memory of one deployed step, added up from its list of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from teco.core.errors import USAGE, TecoError
from teco.estimates.tensors import FLOAT, WIDTHS, P, Precision, deployed, peak
from teco_models.variant import MIN_SIZE, SCALE, Variant

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
        ports: the frame, the picture and the state, in float32; the state twice, as it is read and
            as it is written.
        activations: most bytes alive at once beside the ports, see
            :func:`teco.estimates.tensors.peak`.
        peak_at: operation at which that is.
        workspace: assumed, not computed: the largest tensor once more, for a runtime that needs it
            in another layout.
        frame_in, picture_out: what crosses to and from the host in each frame in float32; a quarter
            of it with 8-bit ports.
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
) -> MemoryEstimate:
    """Memory of one step; arguments and errors as of :func:`teco.estimates.tensors.deployed`."""
    ops = deployed(variant, h, w, precision, form, dynamic=dynamic)
    width = WIDTHS[precision]
    weights = sum(op.weights * width + op.constants * FLOAT for op in ops)
    activations, where = peak(ops)
    pixels = h * w
    past = 3 * P if variant.has_flow else 3 * P + variant.channels
    held = 3 + 3 + past + past if variant.has_flow else 3 + 3 + past + past + 3 * P
    phases = variant.phases
    if variant.computed_alignment:  # the frame, both states, and the frame that comes out
        held = 3 + 2 * (1 + phases + variant.latent) + 3 * phases
    return MemoryEstimate(
        weights=weights,
        ports=held * pixels * FLOAT,
        activations=activations,
        peak_at=where,
        workspace=max(op.size for op in ops),
        frame_in=3 * pixels * FLOAT,
        picture_out=3 * phases * pixels * FLOAT,
    )
