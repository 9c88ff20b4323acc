"""ONNX Runtime on NVIDIA GPUs: its CUDA and TensorRT providers, and the TensorRT-RTX plugin.

ONNX Runtime leaves to the CPU what a provider cannot run, and drops a provider that cannot load,
without a word (onnxruntime#12639, #18597). Here both are errors. The CUDA provider ran
in float32 on an NVIDIA H200 (onnxruntime-gpu 1.31), nothing else has yet run on a GPU; what needs
none (choice of options, checks, the order of bindings) is tested.

CUDA    runs float32 and float16; it has GridSample for float32 only, which teco's fp16 files keep
        in float32 anyway, and no QLinearConv (ONNX Runtime's OperatorKernels.md), so int8 files are
        refused. Static files run as two CUDA graphs.
TensorRT builds an engine from the ONNX file, which takes minutes the first time. It lets TensorRT
        choose types once fp16 is allowed, which the float32 parts of an fp16 file would not
        survive; so those files are refused.
RTX     the plugin package ``onnxruntime-ep-nv-tensorrt-rtx``, beside the plain ``onnxruntime``
        (NVIDIA's installation page); strongly typed, so every file keeps its types.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from teco.core import gpu
from teco.core.errors import MACHINE, TecoError
from teco.core.files import sha256_of
from teco.core.machine import missing_extra, version_of
from teco.model.opening import Model
from teco.runtimes.base import (
    PACKAGES_OF_ONNXRUNTIME,
    Precision,
    Session,
    SessionOptions,
    needs_onnx,
)
from teco.runtimes.nvidia import linked
from teco.runtimes.nvidia.onnxruntime_binding import (
    BoundFrameSession,
    BoundPlaneSession,
    BoundSession,
    Place,
    PluginPlace,
    plugin_devices,
)
from teco.runtimes.ports import shape_of
from teco_calibration.cache import cache_dir

log = logging.getLogger(__name__)

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rtx": "NvTensorRTRTXExecutionProvider",
}
"""Kind -> the name ONNX Runtime knows it by. The plugin says its own, which was another in 0.4."""

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_ONE_SEPARATOR = (0, 5)
"""The plugin that separates the inputs of a profile by semicolons, as its header
``tensorrt_rtx_provider_options.h`` says; 0.4 did by commas."""
_PLUGIN_SINCE = (1, 24)
"""ONNX Runtime that the plugin wants, by NVIDIA's installation page."""

SHAPE_OPS = frozenset(
    (
        "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor",
        "Gather", "Identity", "Mul", "Range", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub",
        "Unsqueeze", "Where",
    )
)  # fmt: skip
"""What may be left to the CPU where sizes are dynamic: arithmetic on the sizes themselves, which
ONNX Runtime puts there on purpose because its results are wanted there (onnxruntime#17930)."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeGpu:
    """One of ONNX Runtime's providers for NVIDIA GPUs."""

    name: str
    kind: Literal["cuda", "tensorrt", "rtx"]
    suffixes: tuple[str, ...] = (".onnx",)
    precision: Precision = "fp32"
    device: Literal["cuda"] = "cuda"
    packages: tuple[str, ...] = PACKAGES_OF_ONNXRUNTIME
    module: str = "onnxruntime"

    @property
    def form(self) -> str:
        return ""

    @property
    def slow_to_open(self) -> str:
        return "builds an engine of each file for minutes" if self.kind == "tensorrt" else ""

    @property
    def exact(self) -> bool:
        # TF32 is switched off for CUDA; the other two leave that to TensorRT.
        return self.kind == "cuda"

    @property
    def provider(self) -> str:
        if self.kind == "rtx" and importlib.util.find_spec(PLUGIN) is not None:
            return str(importlib.import_module(PLUGIN).get_ep_name())
        return PROVIDERS[self.kind]

    def why_unavailable(self) -> str | None:
        extra = "ort-rtx" if self.kind == "rtx" else "nvidia"
        if missing := missing_extra("onnxruntime", extra, self.name):
            return missing
        import onnxruntime as ort

        if self.kind == "rtx":
            reason = self._why_no_plugin(ort)
        elif self.provider not in ort.get_available_providers():
            reason = (
                f"{self.name} needs an ONNX Runtime with CUDA; the installed {ort.__version__} has "
                f"{', '.join(ort.get_available_providers())}: {install_for_gpus()}"
            )
        else:
            reason = linked.why_tensorrt_provider_cannot_load() if self.kind == "tensorrt" else None
            reason = reason and f"{self.name}: {reason}"
        if reason is None and not gpu.find():
            # The providers are there whether or not there is something to run them on.
            return f"{self.name} needs an NVIDIA GPU and driver; nvidia-smi finds none"
        return reason

    def _why_no_plugin(self, ort: Any) -> str | None:
        if importlib.util.find_spec(PLUGIN) is None:
            return (
                f"{self.name} needs {PLUGIN}, which is not installed: pip install 'teco[ort-rtx]'"
            )
        version = tuple(int(x) for x in re.findall(r"\d+", ort.__version__)[:2])
        if version < _PLUGIN_SINCE or not hasattr(ort, "register_execution_provider_library"):
            return f"{self.name} needs onnxruntime 1.24 or later, {ort.__version__} is installed"
        return None

    def why_not(self, model: Model) -> str | None:
        if missing := needs_onnx(model, self.name):
            return missing
        manifest = model.manifest
        if self.kind == "tensorrt" and manifest and manifest.precision_asked == "fp16":
            return (
                f"{self.name} would let TensorRT choose types, and {model.name} is an fp16 file "
                "with parts that must stay float32: `teco export --fp16 --formats tensorrt` "
                "builds an engine that keeps them"
            )
        if self.kind == "cuda" and manifest and manifest.precision_asked == "int8":
            return (
                f"{self.name} has no kernels for 8-bit convolutions, and {model.name} is an int8 "
                "file: `teco export --int8 --formats rtx` builds an engine that has them"
            )
        return None

    def open(self, model: Model, options: SessionOptions) -> Session:
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if reason := self.why_not(model):
            raise TecoError(reason, hint="`teco export` makes an ONNX file of it")
        import onnxruntime as ort

        if self.kind != "rtx":
            load_libraries(ort, tensorrt=self.kind == "tensorrt")
        assert model.onnx is not None
        assert model.manifest is not None
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        for key, value in session_entries(self.kind, static=model.static_size is not None).items():
            settings.add_session_config_entry(key, value)
        chosen = provider_options(self.kind, model)
        place: Place = Place()
        arguments: dict[str, Any] = {}
        if self.kind == "rtx":
            settings.add_provider_for_devices([first_gpu()], chosen)
            place = PluginPlace(vendor=int(ort.OrtDeviceVendorId.NVIDIA))
        else:
            arguments["providers"] = [(self.provider, chosen)]
        try:
            # Without its Python-side fallback, which would open the file again on the CPU.
            session: Any = ort.InferenceSession(
                str(model.onnx), settings, enable_fallback=0, **arguments
            )
        except Exception as error:  # its exceptions share no base but Exception
            raise self._cannot_open(model, error) from error
        self._check_placement(session, static=model.static_size is not None)
        graphs = self.kind == "cuda" and model.static_size is not None
        contract = model.manifest.contract
        bound = BoundFrameSession if contract.dtype == "uint8" else BoundSession
        bound = BoundPlaneSession if contract.planes is not None else bound
        asked = model.manifest.precision_asked
        label = "" if asked == "fp32" else f", {asked}"
        return bound(
            self.name,
            f"{self.provider}, device 0{label}" + (", two CUDA graphs" if graphs else ""),
            session,
            contract,
            place,
            graphs=graphs,
        )

    def _cannot_open(self, model: Model, error: Exception) -> TecoError:
        text = " ".join(str(error).split())
        if "fallback to CPU EP has been explicitly disabled" in text:
            return TecoError(
                f"{self.name} cannot run all of {model.name}: some of it would be left to the CPU",
                hint="`teco export --for tensorrt` makes a file that it can",
                exit_code=MACHINE,
            )
        return TecoError(
            f"{self.name} cannot load {model.onnx}: {text[:200]}",
            hint="`teco doctor` says which libraries are missing",
            exit_code=MACHINE,
        )

    def _check_placement(self, session: Any, *, static: bool) -> None:
        """Raise TecoError where the provider was not obtained, or where the CPU has its work."""
        got = session.get_providers()
        if self.provider not in got:
            raise TecoError(
                f"{self.name} was asked for and ONNX Runtime gave {', '.join(got)}",
                hint="check the CUDA, cuDNN and TensorRT versions that this ONNX Runtime wants",
                exit_code=MACHINE,
            )
        allowed = frozenset[str]() if static else SHAPE_OPS
        others = nodes_on_other_providers(session, self.provider, allowed)
        if others:
            raise TecoError(
                f"{self.name} was asked for and ONNX Runtime left {', '.join(others)} to others",
                hint="`teco export --for tensorrt` makes a file that it can run",
                exit_code=MACHINE,
            )


def install_for_gpus() -> str:
    """What to type for an ONNX Runtime with CUDA in place of one without.

    ``onnxruntime`` and ``onnxruntime-gpu`` bring the same folder, and taking one away takes files
    of the other along.
    """
    if version_of("onnxruntime-gpu") is None:
        return "pip uninstall onnxruntime, then pip install 'teco[nvidia]'"
    return "pip uninstall onnxruntime, then pip install --force-reinstall --no-deps onnxruntime-gpu"


def load_libraries(ort: Any, *, tensorrt: bool) -> None:
    """Load CUDA and cuDNN, and TensorRT, from NVIDIA's wheels, where the dynamic linker does not
    look. What is not there as a wheel is left to the linker.

    Args:
        ort: the module ``onnxruntime``; ``preload_dlls`` is in it from 1.21 on.
        tensorrt: also import ``tensorrt``, which loads its own libraries.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it does not find
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    for line in said.getvalue().splitlines():
        log.debug("onnxruntime.preload_dlls: %s", line)
    if tensorrt and importlib.util.find_spec("tensorrt") is not None:
        with contextlib.suppress(ImportError):  # of another CUDA; the provider says what it lacks
            importlib.import_module("tensorrt")


def session_entries(kind: str, *, static: bool) -> dict[str, str]:
    """Settings that make a silent fallback an error.

    With sizes fixed, and in the two that take a whole graph or none of it, nothing at all may be
    left to the CPU. The CUDA provider's dynamic graphs compute their sizes there, so the placement
    of each node is asked for instead (:func:`nodes_on_other_providers`).
    """
    entries = {"session.record_ep_graph_assignment_info": "1"}
    if static or kind != "cuda":
        entries["session.disable_cpu_ep_fallback"] = "1"
    return entries


def provider_options(kind: str, model: Model) -> dict[str, str]:
    """Options of one provider, all of them strings as ONNX Runtime wants.

    Sources: ONNX Runtime's pages on the CUDA and TensorRT providers, and
    ``tensorrt_rtx_provider_options.h`` of NVIDIA's plugin. From Python, TensorRT's switches are the
    words True and False and nothing else (``onnxruntime_pybind_state.cc``), the others' 1 and 0.
    """
    assert model.manifest is not None
    if kind == "cuda":
        # TF32 would be a lower precision under the name of float32.
        return {"use_tf32": "0", "enable_cuda_graph": "0" if model.static_size is None else "1"}
    folder = engine_cache(kind, model)
    if kind == "rtx":
        separator = ";" if _plugin_version() >= _ONE_SEPARATOR else ","
        return {"nv_runtime_cache_path": str(folder), **shape_profile("nv", model, separator)}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "False",
        # Q/DQ nodes only; without them it changes nothing.
        "trt_int8_enable": str(model.manifest.precision_asked == "int8"),
        **shape_profile("trt", model),
    }


def engine_cache(kind: str, model: Model) -> Path:
    """A folder for this ONNX file alone.

    The TensorRT provider names a cached engine after the graph, and takes it for a file of the same
    graph with another static size (onnxruntime#32254). The file's own hash differs there.
    """
    assert model.onnx is not None
    assert model.manifest is not None
    digest = model.manifest.sha256 or sha256_of(model.onnx)
    folder = cache_dir() / f"onnxruntime-{kind}" / f"{digest[:16]}-{model.manifest.size}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TecoError(
            f"the cache folder {folder} cannot be made: {error.strerror or error}",
            hint="set TECO_CACHE to a folder that can be written",
        ) from error
    return folder


def _plugin_version() -> tuple[int, ...]:
    return tuple(
        int(x) for x in re.findall(r"\d+", importlib.import_module(PLUGIN).__version__)[:2]
    )


def shape_profile(prefix: str, model: Model, separator: str = ",") -> dict[str, str]:
    """``{prefix}_profile_min_shapes`` and so on of a dynamic file; nothing for a static one.

    The sizes are those of teco's own engines. Without them an engine is built again at every size.
    """
    if model.static_size is not None or model.manifest is None:
        return {}
    from teco.model.engine.profile import profile_of

    shapes = model.manifest.contract.inputs
    sizes = profile_of(model.manifest, None)
    return {
        f"{prefix}_profile_{which}_shapes": separator.join(
            f"{name}:{'x'.join(str(x) for x in shape_of(shape, *size))}"
            for name, shape in shapes.items()
        )
        for which, size in zip(("min", "opt", "max"), sizes, strict=True)
    }


def nodes_on_other_providers(session: Any, provider: str, allowed: frozenset[str]) -> list[str]:
    """Operators that run on another provider, such as "GridSample on CPUExecutionProvider".

    Args:
        session: made with ``session.record_ep_graph_assignment_info``.
        provider: name of what was asked for.
        allowed: operators that may.

    Returns:
        Sorted, each once. Empty too where this ONNX Runtime cannot tell, which leaves
        ``disable_cpu_ep_fallback``.
    """
    try:
        parts: Sequence[Any] = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):
        return []
    found = {
        f"{node.op_type} on {part.ep_name}"
        for part in parts
        for node in part.get_nodes()
        if part.ep_name != provider and node.op_type not in allowed
    }
    return sorted(found)


def first_gpu() -> Any:
    """The first GPU that the TensorRT-RTX plugin offers.

    Raises:
        TecoError: it cannot be loaded, or offers none; exit code 3.
    """
    _, devices = plugin_devices(PLUGIN)
    if not devices:
        raise TecoError(
            "the TensorRT-RTX plugin of ONNX Runtime offers no GPU here",
            hint="it wants an RTX GPU of compute capability 8.0 or later and a recent driver",
            exit_code=MACHINE,
        )
    return devices[0]
