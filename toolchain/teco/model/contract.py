"""The stream contract: how a model's step is driven, the same on every runtime."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from teco_models.variant import MIN_SIZE, SCALE, SCALES, Variant

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io


DTYPES: dict[Io, str] = {"fp32": "float32", "fp16": "float16", "uint8": "uint8"}
"""Element type of frames and pictures by what ``teco export --io`` calls it."""


MOST_STATES = 8
MOST_NAME = 63
"""Characters of a port's name."""

_EXTENT = re.compile(r"([1-9][0-9]{0,6}|h|w)(\*([1-9][0-9]{0,6}|h|w))*")
_MOST_FACTOR = 2**20

# What is in a contract's and in a state's JSON; a reader refuses what it does not know.
_FIELDS = {"frame", "picture", "states", "scale", "warm_up", "multiple_of", "minimum", "colour",
           "range"}  # fmt: skip
_LATER_FIELDS = {"reset", "dtype", "layout", "check"}
_STATE_FIELDS = {"input", "source", "shape"}
_LATER_STATE_FIELDS = {"zero", "dtype"}


def extent(text: object) -> tuple[int, int, int] | None:
    """A product such as ``4*h`` as (4, 1, 0): factor, powers of h and of w; None where it is none.

    Areas are the most: h and w come twice at most.
    """
    if not isinstance(text, str) or not _EXTENT.fullmatch(text):
        return None
    parts = text.split("*")
    factor = math.prod(int(part) for part in parts if part not in "hw")
    high, wide = parts.count("h"), parts.count("w")
    return (factor, high, wide) if factor <= _MOST_FACTOR and high + wide <= 2 else None


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
    zero: str = ""
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
        warm_up: 0: every frame is shown, also the first one after a reset. Readers refuse anything
            else, since none drops frames by itself; how many a player runs before the frame it
            shows after a seek is the player's choice (pre-roll).
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
        plain = replace(cls._of_floats(variant), scale=variant.scale)
        if io == "fp32":
            return plain
        if io == "fp16":
            states = tuple(replace(s, dtype="float16") for s in plain.states)
            return replace(plain, dtype="float16", states=states)
        previous = StatePort("lr8_prev", "lr8", ("1", "h", "w", "3"), "no previous frame", "uint8")
        # Where the frame itself is state, it stays the 8-bit frame that it was.
        states = tuple(previous if s.source == plain.frame else s for s in plain.states)
        return replace(
            plain,
            frame="lr8",
            picture="hr8",
            states=states,
            range=(0.0, 255.0),
            dtype="uint8",
            layout="NHWC",
            check="check",
        )

    @classmethod
    def _of_floats(cls, variant: Variant) -> StreamContract:
        if variant.computed_alignment:
            hr = (f"{variant.scale}*h", f"{variant.scale}*w")
            latent = ("1", str(variant.latent), "h", "w")
            states = (
                StatePort("luma_prev", "luma", ("1", "1", "h", "w"), "no previous frame"),
                StatePort("hr_luma_prev", "hr_luma", ("1", "1", *hr), "no previous output"),
                StatePort("latent_prev", "latent", latent, "no past"),
            )
            return cls(states=states if variant.latent else states[:2])
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

    @classmethod
    def from_dict(cls, data: object) -> StreamContract:
        """Inverse of :meth:`as_dict`; whether it can be driven is :meth:`check`'s to say.

        Raises:
            ValueError: a field is missing, of another kind, or not known; the message names it.
        """
        fields = _record(data, "contract", _FIELDS, _LATER_FIELDS)
        if not isinstance(fields["states"], list) or not isinstance(fields["range"], list):
            raise ValueError("states or range is no list")
        if len(states := cast("list[object]", fields["states"])) > MOST_STATES:
            raise ValueError(f"there are {len(states)} states, expected {MOST_STATES} at most")
        ports: list[StatePort] = []
        for state in states:
            port = _record(state, "one of states", _STATE_FIELDS, _LATER_STATE_FIELDS)
            if not isinstance(port["shape"], list):
                raise ValueError(f"states has {port['input']!r} without a shape")
            port["shape"] = tuple(port["shape"])
            ports.append(StatePort(**port))
        if isinstance(scale := fields["scale"], float) and scale.is_integer():
            fields["scale"] = int(scale)  # 4.0 is a whole number in JSON
        fields["states"], fields["range"] = tuple(ports), tuple(fields["range"])
        return cls(**fields)

    def check_drivable(self) -> None:
        """Raise ValueError, which names the field, where no player of teco's can drive it.

        C and JavaScript read contracts too (``players/c/src/contract.c``,
        ``players/web/page/contract.js``), by the same rules: ``tests/fixtures/contract``.
        """
        whole = self.io == "uint8"
        for name in ("frame", "picture"):
            if not _is_name(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a port's name")
        # A runner that ignored these would give wrong pictures without a word.
        if self.scale not in SCALES or _has_bool(self.scale):
            raise ValueError(f"scale is {self.scale!r}, this teco can only do 2 and 4")
        for name, usual in (
            ("multiple_of", 1), ("minimum", MIN_SIZE), ("warm_up", 0),
            ("colour", "RGB"), ("range", (0.0, 255.0 if whole else 1.0)),
            ("layout", "NHWC" if whole else "NCHW"),
        ):  # fmt: skip
            found = getattr(self, name)
            if found != usual or _has_bool(found):
                raise ValueError(f"{name} is {found!r}, this teco can only do {usual!r}")
        if not _is_name(self.check) if whole else self.check != "":
            raise ValueError(f"check is {self.check!r} with {self.dtype} ports")
        self._check_states()

    def _check_states(self) -> None:
        h, w = (f"{self.scale}*{side}" for side in "hw")
        enlarged = ("1", h, w, "3") if self.layout == "NHWC" else ("1", "3", h, w)
        taken = {self.frame}
        for n, state in enumerate(self.states):
            if not _is_name(state.input) or not _is_name(state.source) or state.input in taken:
                raise ValueError(f"states[{n}] has no name of its own or no source")
            taken.add(state.input)
        # What a state is taken from must fit, since its bytes go over as they are.
        known = {
            self.frame: (self.dtype, tuple(map(extent, self.inputs[self.frame]))),
            self.picture: (self.dtype, tuple(map(extent, enlarged))),
        }
        carried = "float16" if self.dtype == "float16" else "float32"
        for n, state in enumerate(self.states):
            shape = tuple(map(extent, state.shape))
            if len(shape) != 4 or None in shape:
                raise ValueError(f"states[{n}] ({state.input}) has the shape {list(state.shape)}")
            usual = known.setdefault(state.source, (carried, shape))
            if (state.dtype, shape) != usual:
                raise ValueError(
                    f"states[{n}] ({state.input}) is {state.dtype} {list(state.shape)}, which is "
                    f"not what {state.source} is"
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


def _record(data: object, what: str, needed: set[str], later: set[str]) -> dict[str, Any]:
    """The fields of a JSON object, which has all that are needed and none that is not known."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {data!r}, expected an object")
    fields = dict(cast("dict[str, Any]", data))
    for name in sorted(needed - fields.keys()):
        raise ValueError(f"{what} has no {name}")
    for name in sorted(fields.keys() - needed - later):
        raise ValueError(f"{what} has {name}, which this teco does not know")
    return fields


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_NAME


def _has_bool(value: object) -> bool:
    return any(isinstance(x, bool) for x in (value if isinstance(value, tuple) else (value,)))
