"""What a model file is: its manifest, its stream contract, its hashes; reading and checking them.

A manifest lies as JSON beside the file and, for ONNX, inside it as well (``metadata_props``), so
that a file which travels alone still says how to be driven.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from teco.core.errors import USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.names import did_you_mean
from teco.core.planes import Layout, require_even
from teco.model.external_data import external_files
from teco.model.manifest import METADATA_KEY, Manifest, manifest_path
from teco_models import zoo
from teco_models.variant import SCALE, Variant

if TYPE_CHECKING:
    from teco.model.engine.manifest import EngineManifest


DEFAULT_MODEL = "real-cpu"
"""For ordinary clips, on a processor."""
DEFAULT_OF_SCALE = {4: DEFAULT_MODEL, 2: "real-cpu-x2"}
"""The same by how many times it enlarges."""
FORMS = ("openvino", "web")
"""Targets whose form a runtime takes where a shipped model has it."""
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
ENGINE_SUFFIX = ".plan"
_CLIPS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".y4m")


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
        forms: other ONNX files of a shipped model, by the target of ``teco export --for`` that they
            were written for.
    """

    name: str
    variant: Variant
    onnx: Path | None = None
    weights: Path | None = None
    manifest: Manifest | None = field(default=None, repr=False)
    engine: Path | None = None
    engine_manifest: EngineManifest | None = field(default=None, repr=False)
    forms: Mapping[str, Path] = field(default_factory=dict[str, Path], repr=False)

    def form(self, target: str) -> Model:
        """The same model with the file that was written for a target; itself where there is none.

        Raises:
            TecoError: that file or its manifest is damaged.
        """
        path = self.forms.get(target)
        if path is None:
            return self
        return replace(self, onnx=path, manifest=_open_onnx(path).manifest, forms={})

    @property
    def kind(self) -> str:
        """What there is of it, to end a sentence with."""
        if self.engine is not None:
            return "an engine"
        return "an ONNX file" if self.onnx is not None else "weights"

    @property
    def planes(self) -> Layout | None:
        """How the planes lie that it takes; None where it takes RGB."""
        return None if self.manifest is None else self.manifest.contract.planes

    @property
    def static_size(self) -> tuple[int, int] | None:
        """(h, w) that an ONNX file is limited to, None for any."""
        if self.manifest is None or self.manifest.size == "dynamic":
            return None
        h, w = self.manifest.size.split("x")
        return int(h), int(w)


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
    names = [e.name for e in zoo.entries()]
    if entry is None:
        if path.exists() or os.sep in spec or suffix == ENGINE_SUFFIX:
            state = "is not a model file" if path.exists() else "does not exist"
            hint = f"check the path; {shipped_models()}"
            if path.exists() and suffix in _CLIPS:
                hint = f"it is a clip: `teco upscale {spec} OUT`, or `teco bench --clip {spec}`"
            raise TecoError(
                f"{spec} {state}; expected .onnx, {ENGINE_SUFFIX} or "
                f"{', '.join(WEIGHTS_SUFFIXES)}, or a name",
                hint=hint,
                exit_code=USAGE,
            )
        raise TecoError(
            f"no model is called {spec!r}",
            hint=f"{did_you_mean(spec, names)}{shipped_models()}; or give an .onnx or .safetensors "
            "file",
            exit_code=USAGE,
        )
    shipped = _open_onnx(entry.onnx)
    return Model(
        entry.name,
        shipped.variant,
        entry.onnx,
        entry.weights,
        shipped.manifest,
        forms={target: path for target in FORMS if (path := entry.form(target)).exists()},
    )


def shipped_models() -> str:
    """ "shipped models: real-cpu, ..." for a hint: those for ordinary clips by name."""
    names = [e.name for e in zoo.entries()]
    first = [n for n in names if n.startswith("real-")]
    return (
        f"shipped models: {', '.join(first)}, and {len(names) - len(first)} for papers "
        "(teco models --all)"
    )


def open_for_scale(spec: str | None, scale: int | None) -> Model:
    """The model that a user named, or the default one of a scale.

    Args:
        spec: as :func:`open_model` takes it; None for the default.
        scale: how many times the picture is to be enlarged; None where nothing was said.

    Raises:
        TecoError: there is no network of that scale, or the model's is another; and as
            :func:`open_model`.
    """
    if scale is not None and scale not in DEFAULT_OF_SCALE:
        raise TecoError(
            f"no network enlarges {scale} times, expected "
            + " or ".join(str(s) for s in sorted(DEFAULT_OF_SCALE)),
            hint="take the larger one and shrink what comes out",
            exit_code=USAGE,
        )
    if spec is None:
        return open_model(DEFAULT_OF_SCALE[scale or SCALE])
    model = open_model(spec)
    if scale is not None and model.variant.scale != scale:
        raise TecoError(
            f"{model.name} enlarges {model.variant.scale} times, and --scale says {scale}",
            hint=f"--model {DEFAULT_OF_SCALE[scale]} does; or leave --scale out",
            exit_code=USAGE,
        )
    return model


def ordinary_models(scale: int) -> list[Model]:
    """Shipped models of a scale for ordinary clips on a processor, the default one first.

    Their names say both (``real-cpu-...``); others are for those who ask for them.
    """
    default = DEFAULT_OF_SCALE[scale]
    names = [e.name for e in zoo.entries() if e.name.startswith("real-cpu")]
    models = [open_model(name) for name in sorted(names, key=lambda name: name != default)]
    return [m for m in models if m.variant.scale == scale]


def common_scale(models: Iterable[Model], hint: str) -> int:
    """What all of these models enlarge by, so that one clip can be made small for them; the usual
    scale where there are none.

    Raises:
        TecoError: they differ, with this hint; exit code 2.
    """
    scales = {m.variant.scale: m.name for m in models}
    if len(scales) > 1:
        said = ", ".join(f"{name} enlarges {scale} times" for scale, name in scales.items())
        raise TecoError(
            f"one clip cannot be made small for all of these models: {said}",
            hint=hint,
            exit_code=USAGE,
        )
    return next(iter(scales), SCALE)


def identity_of(model: Model) -> str:
    """What tells a model from every other, whatever its file is called: the hash of what runs."""
    path = model.engine or model.onnx or model.weights
    assert path is not None
    return f"{model.name} {sha256_of(path)[:16]}"


def for_papers(model: Model) -> str:
    """What to tell somebody who enlarges an ordinary clip by a network of the papers' protocol.

    Empty for a network that is meant for ordinary clips.
    """
    how = model.variant.degradation
    if how == "real":
        return ""
    shift = "; on an ordinary clip its output lies 1.5 pixels up and left" if how == "bd" else ""
    return (
        f"{model.name} is for papers, trained on frames shrunk by {how.upper()}{shift}; "
        f"for ordinary clips use {DEFAULT_MODEL}"
    )


def check_frame_size(model: Model, h: int, w: int) -> None:
    """Raise TecoError where a model was not exported or built for frames of (h, w)."""
    if model.planes is not None:
        require_even(h, w, "the frame")
    if model.engine_manifest is not None:
        from teco.model.engine.preflight import check_size

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
    from teco.core.machine import require_extra

    require_extra("torch", "torch", f"reading {path}")
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
    elif outside := external_files(path):
        raise TecoError(
            f"{path} reads its weights from {sorted(outside)[0]!r}, and has no manifest beside it "
            "that says which file that is",
            hint="keep the .json beside it, or make one of its own with `teco export`",
        )
    else:
        manifest = manifest_inside(path)
    return Model(path.stem, Variant.parse(manifest.variant), onnx=path, manifest=manifest)


def _open_engine(path: Path) -> Model:
    """An engine and its manifest agree; whether it fits this machine is asked when it is opened."""
    # Not at the top: engines stand on this file. Only the manifest is read, no runtime.
    from teco.model.engine.preflight import read

    built = read(path)
    return Model(
        path.stem,
        Variant.parse(built.model.variant),
        manifest=built.model,
        engine=path,
        engine_manifest=built,
    )


def _check_data(path: Path, manifest: Manifest) -> None:
    """The weights that a shipped ONNX file shares with the safetensors file beside it.

    Before any runtime opens the file, because runtimes open what it names.
    """
    if unnamed := external_files(path) - manifest.data_sha256.keys():
        raise TecoError(
            f"{path} reads its weights from {sorted(unnamed)[0]!r}, which its manifest does not "
            "name",
            hint="do not use it unless you made it; `teco export` makes files of their own",
        )
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
        TecoError: ONNX Runtime is not installed or cannot load it.
    """
    from teco.core.machine import require_extra

    require_extra("onnxruntime", "cpu", f"reading {path}")
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
