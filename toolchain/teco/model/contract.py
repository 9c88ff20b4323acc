"""The stream contract: how a model's step is driven, the same on every runtime."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from teco.core.planes import Layout
from teco_models.variant import MIN_SIZE, SCALE, SCALES, Variant

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io


PORTS: dict[tuple[str, str], Io] = {
    ("float32", "NCHW"): "fp32", ("float16", "NCHW"): "fp16", ("uint8", "NHWC"): "uint8",
    ("uint8", "NV12"): "nv12", ("uint8", "I420"): "i420",
}  # fmt: skip
"""What ``teco export --io`` calls ports of an element type and a layout."""

CHROMA: dict[Layout, tuple[tuple[str, int], ...]] = {
    "NV12": (("uv", 2),), "I420": (("u", 1), ("v", 1)),
}  # fmt: skip
"""Names, and samples of a place, of the planes after the luma."""

CONVERSION = (("to_rgb", "from_rgb"), ("3", "4"))
"""Inputs of a model with planes, and their shape: :class:`teco.model.conversion.Conversion`."""

MOST_STATES = 8
MOST_NAME = 63
"""Characters of a port's name."""

_EXTENT = re.compile(r"([1-9][0-9]{0,6}|h|w)(\*([1-9][0-9]{0,6}|h|w))*")
_MOST_FACTOR = 2**20

# What is in a contract's and in a state's JSON; a reader refuses what it does not know.
_FIELDS = {"frame", "picture", "states", "scale", "warm_up", "multiple_of", "minimum", "colour",
           "range"}  # fmt: skip
_LATER_FIELDS = {"reset", "dtype", "layout", "check", "chroma", "conversion"}
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
        frame: graph input for the frame, (1, 3, h, w) or, with layout NHWC, (1, h, w, 3); of
            planes, for its luma, (1, h, w, 1).
        picture: graph output, the same scaled; floats are not clamped.
        states: the recurrent state.
        scale: upsampling factor.
        reset: when the state must be replaced by zeros.
        warm_up: 0: every frame is shown, also the first one after a reset. Readers refuse anything
            else, since none drops frames by itself; how many a player runs before the frame it
            shows after a seek is the player's choice (pre-roll).
        multiple_of: h and w must be multiples of this; 2 for planes.
        minimum: smallest h and w.
        colour: channel order; YCbCr for planes.
        range: values of black and white.
        dtype: element type of the frame and the picture: float32, float16 or uint8.
        layout: order of their axes: NCHW, or NHWC for uint8, as screens have pictures; or NV12 or
            I420, which are several planes. A state's shape says its own.
        check: graph output, (1,) float32, that is finite exactly where the whole picture consists
            of numbers; for uint8, which cannot show it. "" where the picture itself does.
        chroma: of planes, graph input and output of each plane after the luma: (1, h/2, w/2, 2) of
            Cb and Cr for NV12; Cb, then Cr, (1, h/2, w/2, 1), for I420. Left-sited, as in H.264.
        conversion: of planes, the graph inputs of :class:`teco.model.conversion.Conversion`: to RGB
            and from it, (3, 4) float32.
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
    chroma: tuple[tuple[str, str], ...] = ()
    conversion: tuple[str, ...] = ()

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
        if io in ("nv12", "i420"):
            layout: Layout = "NV12" if io == "nv12" else "I420"
            return replace(
                plain,
                frame="y8",
                picture="hr_y8",
                multiple_of=2,
                colour="YCbCr",
                range=(0.0, 255.0),
                dtype="uint8",
                layout=layout,
                check="check",
                chroma=tuple((f"{name}8", f"hr_{name}8") for name, _ in CHROMA[layout]),
                conversion=CONVERSION[0],
            )
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
        for name in ("chroma", "conversion"):
            if not isinstance(found := fields.get(name, []), list):
                raise ValueError(f"{name} is no list")
            rows = cast("list[Any]", found)
            if name == "chroma" and not all(isinstance(x, list) for x in rows):
                raise ValueError("chroma holds something else than pairs")
            fields[name] = tuple(tuple(x) if name == "chroma" else x for x in rows)
        if isinstance(scale := fields["scale"], float) and scale.is_integer():
            fields["scale"] = int(scale)  # 4.0 is a whole number in JSON
        fields["states"], fields["range"] = tuple(ports), tuple(fields["range"])
        return cls(**fields)

    def check_drivable(self) -> None:
        """Raise ValueError, which names the field, where no player of teco's can drive it.

        C and JavaScript read contracts too (``players/c/src/contract.c``,
        ``players/web/page/contract.js``), by the same rules: ``tests/fixtures/contract``.
        """
        layouts = [layout for dtype, layout in PORTS if dtype == self.dtype]
        if not layouts:
            raise ValueError(f"dtype is {self.dtype!r}, which this teco cannot do")
        whole = self.dtype == "uint8"
        planes = self.planes if whole else None
        for name in ("frame", "picture"):
            if not _is_name(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a port's name")
        if self.picture == self.frame:
            raise ValueError(f"picture is {self.picture!r}, which is the name of the frame")
        # A runner that ignored these would give wrong pictures without a word.
        if self.scale not in SCALES or _has_bool(self.scale):
            raise ValueError(f"scale is {self.scale!r}, this teco can only do 2 and 4")
        for name, usual in (
            ("multiple_of", 2 if planes else 1), ("minimum", MIN_SIZE), ("warm_up", 0),
            ("colour", "YCbCr" if planes else "RGB"), ("range", (0.0, 255.0 if whole else 1.0)),
        ):  # fmt: skip
            found = getattr(self, name)
            if found != usual or _has_bool(found):
                raise ValueError(f"{name} is {found!r}, this teco can only do {usual!r}")
        if self.layout not in layouts:
            expected = " and ".join(map(repr, layouts))
            raise ValueError(f"layout is {self.layout!r}, this teco can only do {expected}")
        if not _is_name(self.check) if whole else self.check != "":
            raise ValueError(f"check is {self.check!r} with {self.dtype} ports")
        self._check_planes(planes)
        self._check_states()
        named = {*self.given, *self.pictures}
        named |= {name for state in self.states for name in (state.input, state.source)}
        if self.check in named:
            raise ValueError(f"check is {self.check!r}, which is the name of another port")

    def _check_planes(self, layout: Layout | None) -> None:
        count = len(CHROMA[layout]) if layout else 0
        if len(self.chroma) != count or not all(
            len(pair) == 2 and all(map(_is_name, pair)) for pair in self.chroma
        ):
            raise ValueError(f"chroma is {list(self.chroma)}, with the layout {self.layout}")
        if len(self.conversion) != (2 if layout else 0) or not all(map(_is_name, self.conversion)):
            raise ValueError(f"conversion is {list(self.conversion)} with {self.layout}")
        planes = [name for pair in self.chroma for name in pair]
        taken = (self.frame, self.picture, *planes, *self.conversion)
        if len(set(taken)) != len(taken):
            raise ValueError(f"chroma or conversion names a port twice: {', '.join(taken)}")

    def _check_states(self) -> None:
        taken = {*self.given, *self.pictures}
        for n, state in enumerate(self.states):
            if not _is_name(state.input) or not _is_name(state.source) or state.input in taken:
                raise ValueError(f"states[{n}] has no name of its own or no source")
            taken.add(state.input)
        # Of the graph's inputs, the frame alone is kept.
        others = taken - {*self.frames, *self.pictures}
        for n, state in enumerate(self.states):
            if state.source in others:
                raise ValueError(f"states[{n}] ({state.input}) is taken from {state.source!r}")
        # What a state is taken from must fit, since its bytes go over as they are.
        known = {
            name: (self.dtype, tuple(map(extent, shape)))
            for name, shape in (*self.frames.items(), *self.pictures.items())
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
        for (dtype, layout), io in PORTS.items():
            if (dtype, layout) == (self.dtype, self.layout):
                return io
        raise ValueError(f"{self.dtype!r} in {self.layout!r} is no port that this teco knows")

    @property
    def planes(self) -> Layout | None:
        """How planes lie; None where frames and pictures are one tensor each."""
        return next((layout for layout in CHROMA if layout == self.layout), None)

    @property
    def frames(self) -> dict[str, tuple[str, ...]]:
        """Shape of every graph input that takes the frame or a plane of it."""
        return self._pictures("1", (self.frame, *(given for given, _ in self.chroma)))

    @property
    def pictures(self) -> dict[str, tuple[str, ...]]:
        """The same of the outputs that are the picture."""
        return self._pictures(str(self.scale), (self.picture, *(made for _, made in self.chroma)))

    def _pictures(self, scale: str, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        h, w = (side if scale == "1" else f"{scale}*{side}" for side in "hw")
        if self.planes is None:
            return {names[0]: ("1", h, w, "3") if self.layout == "NHWC" else ("1", "3", h, w)}
        # Half of it: at the scale of 1 there is no number for that.
        half = {"1": "{}/2", "2": "{}", "4": "2*{}"}[scale]
        low, left = (half.format(side) for side in "hw")
        channels = [str(count) for _, count in CHROMA[self.planes]]
        shapes = [("1", h, w, "1"), *(("1", low, left, c) for c in channels)]
        return dict(zip(names, shapes, strict=False))

    @property
    def given(self) -> dict[str, tuple[str, ...]]:
        """Shape of every graph input but the state's, in the graph's order."""
        return {**self.frames, **dict.fromkeys(self.conversion, CONVERSION[1])}

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Shape of every graph input, in the graph's order."""
        return {**self.given, **{s.input: s.shape for s in self.states}}

    @property
    def dtypes(self) -> dict[str, str]:
        """Element type, a NumPy name, of every port that pictures and state pass."""
        found = dict.fromkeys((*self.frames, *self.pictures), self.dtype)
        found |= dict.fromkeys(self.conversion, "float32")
        for state in self.states:
            found |= {state.input: state.dtype, state.source: state.dtype}
        return found

    @property
    def carried(self) -> tuple[str, ...]:
        """Graph outputs that only become state."""
        known = (*self.frames, *self.pictures)
        return tuple(s.source for s in self.states if s.source not in known)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs a step must fetch: the picture, what only becomes state, the check."""
        return (*self.pictures, *self.carried, *((self.check,) if self.check else ()))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the later fields where they are what they always were."""
        data = asdict(self)
        usual = {"dtype": "float32", "layout": "NCHW", "check": "", "chroma": (), "conversion": ()}
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
