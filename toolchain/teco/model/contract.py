"""The stream contract: how a model's step is driven, the same on every runtime."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from teco_models.variant import MIN_SIZE, SCALE, Variant

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io


DTYPES: dict[Io, str] = {"fp32": "float32", "fp16": "float16", "uint8": "uint8"}
"""Element type of frames and pictures by what ``teco export --io`` calls it."""


EXTENT = re.compile(r"(\d+|h|w)(\*(\d+|h|w))*")


@dataclass(frozen=True)
class StatePort:
    """One tensor of the recurrent state.

    Attributes:
        input: the graph input that takes it.
        source: the graph input or output whose value of this step it is at the next. Outputs that
            are no picture exist only for this.
        shape: four entries, numbers or expressions in h and w (the LR frame's size).
        zero: what zeros mean.
        dtype: element type at the port, a NumPy name: float32, float16 or uint8.
    """

    input: str
    source: str
    shape: tuple[str, str, str, str]
    zero: str
    dtype: str = "float32"


@dataclass(frozen=True)
class StreamContract:
    """How the step is driven, the same on every runtime.

    What is not said in an older manifest has the value that is the default here, and defaults are
    not written: float files say what they always said, and a teco that knows no other ports refuses
    a file that has them, for fields it does not know.

    Attributes:
        frame: graph input for the frame, (1, 3, h, w) or, with layout NHWC, (1, h, w, 3).
        picture: graph output, the same scaled; floats are not clamped.
        states: the recurrent state.
        scale: upsampling factor.
        reset: when the state must be replaced by zeros.
        warm_up: frames to run and drop after a reset before output is shown; 0 shows all.
        multiple_of: h and w must be multiples of this.
        minimum: smallest h and w.
        colour: channel order.
        range: values of black and white.
        dtype: element type of the frame and the picture: float32, float16 or uint8.
        layout: order of their axes: NCHW, or NHWC for uint8, as decoders and screens have pictures.
            A state's shape says its own.
        check: graph output, (1,) float32, that is finite exactly where the whole picture consists
            of numbers; for uint8, which cannot show it. "" where the picture itself does.
    """

    frame: str = "lr"
    picture: str = "hr"
    states: tuple[StatePort, ...] = (
        StatePort("lr_prev", "lr", ("1", "3", "h", "w"), "no previous frame"),
        StatePort("hr_prev", "hr", ("1", "3", f"{SCALE}*h", f"{SCALE}*w"), "no previous output"),
    )
    scale: int = SCALE
    reset: str = "at the first frame, a scene cut, a seek or a change of size"
    warm_up: int = 0
    multiple_of: int = 1
    minimum: int = MIN_SIZE
    colour: str = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    dtype: str = "float32"
    layout: str = "NCHW"
    check: str = ""

    @classmethod
    def of(cls, variant: Variant, io: Io = "fp32") -> StreamContract:
        """The contract of a variant's deployed step (:mod:`teco_models.deploy.step`).

        Args:
            variant: what is deployed.
            io: its ports (:mod:`teco_models.deploy.ports`).
        """
        plain = cls._of_floats(variant)
        if io == "fp32":
            return plain
        if io == "fp16":
            states = tuple(replace(s, dtype="float16") for s in plain.states)
            return replace(plain, dtype="float16", states=states)
        previous = StatePort("lr8_prev", "lr8", ("1", "h", "w", "3"), "no previous frame", "uint8")
        return replace(
            plain,
            frame="lr8",
            picture="hr8",
            states=(previous, *plain.states[1:]),
            range=(0.0, 255.0),
            dtype="uint8",
            layout="NHWC",
            check="check",
        )

    @classmethod
    def _of_floats(cls, variant: Variant) -> StreamContract:
        if variant.has_flow:
            return cls()
        phases, channels = str(3 * SCALE * SCALE), str(variant.channels)
        return cls(
            states=(
                StatePort("lr_prev", "lr", ("1", "3", "h", "w"), "no previous frame"),
                StatePort("phases_prev", "phases", ("1", phases, "h", "w"), "no previous output"),
                StatePort("latent_prev", "latent", ("1", channels, "h", "w"), "no past"),
            )
        )

    @property
    def io(self) -> Io:
        """The ports as ``teco export --io`` calls them.

        Raises:
            ValueError: no teco writes such.
        """
        for io, dtype in DTYPES.items():
            if dtype == self.dtype:
                return io
        raise ValueError(f"dtype is {self.dtype!r}, which this teco cannot do")

    @property
    def inputs(self) -> dict[str, tuple[str, str, str, str]]:
        """Shape of every graph input, in the graph's order."""
        frame = ("1", "h", "w", "3") if self.layout == "NHWC" else ("1", "3", "h", "w")
        return {self.frame: frame, **{s.input: s.shape for s in self.states}}

    @property
    def dtypes(self) -> dict[str, str]:
        """Element type, a NumPy name, of every port that pictures and state pass."""
        found = {self.frame: self.dtype, self.picture: self.dtype}
        for state in self.states:
            found |= {state.input: state.dtype, state.source: state.dtype}
        return found

    @property
    def carried(self) -> tuple[str, ...]:
        """Graph outputs that only become state."""
        known = (self.frame, self.picture)
        return tuple(s.source for s in self.states if s.source not in known)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs a step must fetch: the picture, what only becomes state, the check."""
        return (self.picture, *self.carried, *((self.check,) if self.check else ()))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the later fields where they are what they always were."""
        data = asdict(self)
        usual = {"dtype": "float32", "layout": "NCHW", "check": ""}
        for part in (data, *data["states"]):
            for name, value in usual.items():
                if part.get(name) == value:
                    del part[name]
        return data
