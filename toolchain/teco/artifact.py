"""What a model file is: its manifest, its stream contract, its hashes; reading and checking them.

A manifest lies as JSON beside the file and, for ONNX, inside it as well (``metadata_props``), so
that a file which travels alone still says how to be driven.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teco.errors import USAGE, TecoError
from teco_models import zoo
from teco_models.errors import ModelError
from teco_models.variant import MIN_SIZE, SCALE, Variant

if TYPE_CHECKING:
    from teco.engines.manifest import EngineManifest
    from teco.quantise.record import Int8
    from teco_calibration.verdict import Verdict
    from teco_models.ports import Io

SCHEMA = 1
"""Version of the manifest's layout; a reader refuses what it does not know."""

METADATA_KEY = "teco.manifest"
DEFAULT_MODEL = "teco-x4-b3-c64-bp-lk"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
ENGINE_SUFFIX = ".plan"

DTYPES: dict[Io, str] = {"fp32": "float32", "fp16": "float16", "uint8": "uint8"}
"""Element type of frames and pictures by what ``teco export --io`` calls it."""

_SIZE = re.compile(r"dynamic|\d+x\d+")
_EXTENT = re.compile(r"(\d+|h|w)(\*(\d+|h|w))*")


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
        """The contract of a variant's deployed step (:mod:`teco_models.deploy`).

        Args:
            variant: what is deployed.
            io: its ports (:mod:`teco_models.ports`).
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


@dataclass(frozen=True)
class Parity:
    """How close the file comes to the float32 PyTorch step.

    Attributes:
        frames: recurrent frames compared.
        sizes: LR sizes, "HxW", at which they were.
        max_abs: largest difference of any value, pictures in [0, 1]; where pictures are 8-bit, of
            the float32 state (features relative to their largest).
        max_steps: the same in 8-bit steps after rounding.
        min_psnr: lowest PSNR of a frame in dB; None when all are equal.
    """

    frames: int
    sizes: tuple[str, ...]
    max_abs: float
    max_steps: int
    min_psnr: float | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a runtime or a person must know about a model file.

    Attributes:
        variant: canonical name.
        precision_asked: what the export was asked for.
        precision_found: what the file's own tensor types say, with their counts.
        size: static "HxW" or "dynamic".
        contract: how to drive it.
        rewrites: exact rewrites of the deploy form that were used.
        parity: measured against PyTorch; None inside a file that is still being verified.
        weights_sha256: of the weights it was made from, independent of their container.
        versions: of the programs that made it.
        sha256: of the file; "" inside the file itself.
        data_sha256: of each file beside it that holds weights of it, by name; usually none.
        gate: the temporal gate's verdict, for precisions that change the values; else None.
        gate_size: LR "HxW" at which the gate ran; "" where it did not.
        int8: how a file in int8 came to its integers, and how fast it is; else None.
        target: whose form it is, what ``teco export --for`` was told; "" in older manifests.
        schema: layout version.
    """

    variant: str
    precision_asked: str
    precision_found: dict[str, int]
    size: str
    contract: StreamContract
    rewrites: dict[str, bool]
    parity: Parity | None
    weights_sha256: str
    versions: dict[str, str]
    sha256: str = ""
    data_sha256: dict[str, str] = field(default_factory=dict[str, str])
    gate: Verdict | None = None
    gate_size: str = ""
    int8: Int8 | None = None
    target: str = ""
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the verdict with its judgement spelt out."""
        data = asdict(replace(self, gate=None)) | {"contract": self.contract.as_dict()}
        return data if self.gate is None else data | {"gate": self.gate.as_dict()}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Manifest:
        """Inverse of :meth:`to_json`.

        Raises:
            TecoError: no JSON, another schema version, or fields missing or of another kind.
        """
        again = "make it again with `teco export`"
        try:
            data: dict[str, Any] = json.loads(text)
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise TecoError(f"{source} is no teco manifest: {error!r}", hint=again) from error
        if schema != SCHEMA:
            raise TecoError(
                f"{source} has manifest schema {schema}, this teco reads {SCHEMA}", hint=again
            )
        try:
            contract: dict[str, Any] = data.pop("contract")
            states: list[dict[str, Any]] = contract.pop("states")
            for state in states:
                state["shape"] = tuple(state["shape"])
            contract["states"] = tuple(StatePort(**state) for state in states)
            contract["range"] = tuple(contract["range"])
            parity: dict[str, Any] | None = data.pop("parity")
            if parity is not None:
                parity["sizes"] = tuple(parity["sizes"])
            gate, int8 = data.pop("gate", None), data.pop("int8", None)
            manifest = cls(
                **data,
                gate=None if gate is None else _verdict(gate),
                int8=None if int8 is None else _int8(int8),
                contract=StreamContract(**contract),
                parity=None if parity is None else Parity(**parity),
            )
            manifest.check()
        except (TypeError, KeyError, ValueError, AttributeError, ModelError) as error:
            raise TecoError(f"{source} is not a complete manifest: {error}", hint=again) from error
        return manifest

    def check(self) -> None:
        """Raise TypeError, ValueError or ModelError for what its readers could not use."""
        for name, kind in (
            ("variant", str), ("size", str), ("sha256", str),
            ("precision_asked", str), ("precision_found", dict), ("versions", dict),
            ("data_sha256", dict), ("gate_size", str), ("target", str),
        ):  # fmt: skip
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        if bad := [name for name in self.data_sha256 if Path(name).name != name]:
            raise ValueError(f"data_sha256 names {bad[0]!r}, which is not beside the file")
        self._check_precision()
        ours = StreamContract.of(Variant.parse(self.variant), self.contract.io)
        if not _SIZE.fullmatch(self.size):
            raise ValueError(f"size is {self.size!r}")
        contract = self.contract
        if contract.scale != SCALE:
            raise ValueError(f"scale is {contract.scale!r}")
        for name in ("multiple_of", "minimum", "colour", "range", "layout"):
            # A runner that ignored these would give wrong pictures without a word.
            if getattr(contract, name) != getattr(ours, name):
                raise ValueError(
                    f"{name} is {getattr(contract, name)!r}, which this teco cannot do"
                )
        if bool(contract.check) != bool(ours.check):
            raise ValueError(f"check is {contract.check!r} with {contract.dtype} ports")
        sources = (contract.frame, contract.picture, *ours.carried)
        for state in contract.states:
            if state.source not in sources:
                raise ValueError(f"the source of state {state.input} is {state.source!r}")
            ported = state.source in (contract.frame, contract.picture) or contract.io == "fp16"
            if state.dtype != (contract.dtype if ported else "float32"):
                raise ValueError(f"the dtype of state {state.input} is {state.dtype!r}")
            if len(state.shape) != 4 or not all(_EXTENT.fullmatch(x) for x in state.shape):
                raise ValueError(f"the shape of state {state.input} is {list(state.shape)}")

    def _check_precision(self) -> None:
        """The label against the types it lies beside; a file may say nothing of its types."""
        half = self.precision_found.get("float16", 0)
        if self.precision_found and (self.precision_asked == "fp16") != bool(half):
            raise ValueError(
                f"precision_asked is {self.precision_asked!r} and {half or 'none'} of the file's "
                "tensors are float16"
            )
        whole = self.precision_found.get("int8", 0)
        if self.precision_found and (self.precision_asked == "int8") != bool(whole):
            raise ValueError(
                f"precision_asked is {self.precision_asked!r} and {whole or 'none'} of the file's "
                "tensors are int8"
            )
        if self.gate is not None and not self.gate.accepted:
            raise ValueError(f"the gate did not accept it: {self.gate.reasons[0]}")


def _verdict(data: object) -> Verdict:
    # Not at the top: NumPy and OpenCV come with it, which no command's help needs.
    from teco_calibration.verdict import Verdict

    return Verdict.from_dict(data)


def _int8(data: object) -> Int8:
    from teco.quantise.record import Int8

    return Int8.of(data)


@dataclass(frozen=True)
class Model:
    """A model as the user named it: what there is of it on disk.

    Attributes:
        name: to show.
        variant: what it is.
        onnx: ONNX file, for the runtimes that take one.
        weights: weights file, for PyTorch and export.
        manifest: of the ONNX file, or of the one that the engine was built from.
        engine: TensorRT or TensorRT-RTX plan, for those two.
        engine_manifest: of the plan.
    """

    name: str
    variant: Variant
    onnx: Path | None = None
    weights: Path | None = None
    manifest: Manifest | None = field(default=None, repr=False)
    engine: Path | None = None
    engine_manifest: EngineManifest | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """What there is of it, to end a sentence with."""
        if self.engine is not None:
            return "an engine"
        return "an ONNX file" if self.onnx is not None else "weights"

    @property
    def static_size(self) -> tuple[int, int] | None:
        """(h, w) that an ONNX file is limited to, None for any."""
        if self.manifest is None or self.manifest.size == "dynamic":
            return None
        h, w = self.manifest.size.split("x")
        return int(h), int(w)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_path(path: Path) -> Path:
    """``model.onnx`` -> ``model.json``."""
    return path.with_suffix(".json")


def as_json(record: Any) -> bytes:
    """A record as indented JSON; what is no finite number becomes null, which JSON can hold."""

    def finite(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return value

    return (json.dumps(finite(record), indent=2, allow_nan=False) + "\n").encode()


class WriteError(TecoError, OSError):
    """A file could not be written; an OSError as well, for those who can do without the file."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} could not be written: {error.strerror or error}")
        self.errno, self.strerror, self.filename = error.errno, error.strerror, str(path)

    def __str__(self) -> str:
        return self.message  # OSError's would be made of the three fields


def write_beside(path: Path, data: bytes) -> None:
    """Write a small file under a temporary name and rename it, so that it is never half there.

    Raises:
        WriteError: it cannot be written; the error names ``path``, not the temporary name.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):  # where the folder is none, the error above has said so
            part.unlink(missing_ok=True)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise TecoError where a model file and its manifest cannot or should not be written."""
    folder = path.parent
    if not folder.is_dir():
        message, hint = f"the output folder {folder} does not exist", f"mkdir -p {folder}"
        if folder.exists():
            message, hint = f"-o {folder} is a file, expected a folder", "give another -o"
    elif not os.access(folder, os.W_OK):
        message, hint = f"the output folder {folder} cannot be written", "give another -o"
    elif not overwrite and (taken := [p for p in (path, manifest_path(path)) if p.exists()]):
        message, hint = f"{taken[0]} exists already", "add --force to replace it"
    else:
        return
    raise TecoError(message, hint=hint, exit_code=USAGE)


def open_model(spec: str) -> Model:
    """Find the model a user named: a zoo name, an ONNX file, a weights file or an engine.

    Raises:
        TecoError: there is no such thing, the manifest is missing or belongs to another file.
        ModelError: a weights file cannot be read.
    """
    path = Path(spec)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _open_onnx(path)
    if suffix == ENGINE_SUFFIX and path.exists():
        return _open_engine(path)
    if suffix in WEIGHTS_SUFFIXES:
        if not path.is_file():
            raise TecoError(f"no weights file at {path}", hint="check the path", exit_code=USAGE)
        return Model(path.name, weights_variant(path), weights=path)
    entry = zoo.find(spec)
    if entry is None:
        if path.exists() or os.sep in spec:
            state = "is not a model file" if path.exists() else "does not exist"
            raise TecoError(
                f"{spec} {state}; expected .onnx, {ENGINE_SUFFIX} or "
                f"{', '.join(WEIGHTS_SUFFIXES)}, or a name",
                hint=f"shipped models: {', '.join(e.name for e in zoo.entries())}",
                exit_code=USAGE,
            )
        raise TecoError(
            f"no model is called {spec!r}",
            hint=f"shipped models: {', '.join(e.name for e in zoo.entries())}; "
            "or give an .onnx or .safetensors file",
            exit_code=USAGE,
        )
    shipped = _open_onnx(entry.onnx)
    return Model(entry.name, shipped.variant, entry.onnx, entry.weights, shipped.manifest)


def check_frame_size(model: Model, h: int, w: int) -> None:
    """Raise TecoError where a model was not exported or built for frames of (h, w)."""
    if model.engine_manifest is not None:
        from teco.engines.preflight import check_size

        check_size(model.engine_manifest, model.name, (h, w))
        return
    size = model.static_size
    if size is not None and size != (h, w):
        raise TecoError(
            f"{model.name} was exported for {size[0]}x{size[1]} frames (height x width), "
            f"these are {h}x{w}",
            hint=f"export one for this size: `teco export --size {h}x{w}`, or --size dynamic",
            exit_code=USAGE,
        )


def weights_variant(path: Path) -> Variant:
    """The variant of a weights file.

    Raises:
        TecoError: torch is not installed.
        ModelError: the file cannot be read.
    """
    from teco.machine import require_extra

    require_extra("torch", "train", f"reading {path}")
    from teco_models.checkpoint import load_weights

    return load_weights(path).variant


def _open_onnx(path: Path) -> Model:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TecoError(
            f"{path} {what}, expected an ONNX file", hint="check the path", exit_code=USAGE
        )
    beside = manifest_path(path)
    if beside.exists():
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TecoError(
                f"{beside} cannot be read as a manifest: {error}",
                hint="make it again with `teco export`",
            ) from error
        manifest = Manifest.from_json(text, source=str(beside))
        found = sha256_of(path)
        if found != manifest.sha256:
            raise TecoError(
                f"{path} is not the file that {beside.name} describes: its sha256 is "
                f"{found[:12]}..., the manifest says {manifest.sha256[:12]}...",
                hint=f"export it again, or delete {beside.name} if you changed the file on purpose",
            )
        _check_data(path, manifest)
    else:
        manifest = manifest_inside(path)
    return Model(path.stem, Variant.parse(manifest.variant), onnx=path, manifest=manifest)


def _open_engine(path: Path) -> Model:
    """An engine and its manifest agree; whether it fits this machine is asked when it is opened."""
    # Not at the top: engines stand on this file. Only the manifest is read, no runtime.
    from teco.engines.preflight import read

    built = read(path)
    return Model(
        path.stem,
        Variant.parse(built.model.variant),
        manifest=built.model,
        engine=path,
        engine_manifest=built,
    )


def _check_data(path: Path, manifest: Manifest) -> None:
    """The weights that a shipped ONNX file shares with the safetensors file beside it."""
    for name, expected in manifest.data_sha256.items():
        data = path.with_name(name)
        if not data.is_file():
            raise TecoError(
                f"{path} keeps its weights in {name}, which is not beside it",
                hint="keep both files together, or make one of its own with `teco export`",
            )
        if sha256_of(data) != expected:
            raise TecoError(
                f"{data} is not the file that {path.name} was made with: its sha256 differs",
                hint="install teco again, or make a file of its own with `teco export`",
            )


def manifest_inside(path: Path) -> Manifest:
    """The manifest in an ONNX file's own metadata.

    Raises:
        TecoError: it is no ONNX file, or not one of ours.
    """
    text = onnx_metadata(path).get(METADATA_KEY)
    if text is None:
        raise TecoError(
            f"{path} was not exported by teco: it has no manifest beside it ({path.stem}.json) and "
            "none inside, so nothing says what its inputs are",
            hint="export from the weights: `teco export --weights FILE`",
        )
    return Manifest.from_json(text, source=str(path))


def onnx_metadata(path: Path) -> Mapping[str, str]:
    """``metadata_props`` of an ONNX file, read by ONNX Runtime with optimisation off.

    Raises:
        TecoError: ONNX Runtime cannot load it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but Exception
        raise TecoError(
            f"{path} cannot be loaded as ONNX: {str(error).splitlines()[0][:200]}",
            hint="the file is damaged or no ONNX file; export it again with `teco export`",
        ) from error
    return session.get_modelmeta().custom_metadata_map
