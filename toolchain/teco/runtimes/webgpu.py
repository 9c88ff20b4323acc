"""ONNX Runtime's WebGPU plugin: any GPU that the system's Vulkan, Direct3D 12 or Metal drives.

The package ``onnxruntime-ep-webgpu`` goes beside the plain ``onnxruntime`` and brings Dawn. It has
not yet been run on a GPU; the tests run plugin 0.4.0 on a Vulkan made of software, where shipped
models in their form for browsers came within 2e-6 of ONNX Runtime's CPU over recurrent frames.
``live`` in its usual form came out wrong by a sixth of the range; a convolution of 6 channels is
known to (onnxruntime#29651). So it takes the form for browsers alone, which avoids that. State
stays where it computes.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import Any, Literal

from teco.core.errors import MACHINE, TecoError
from teco.core.machine import missing_extra
from teco.model.opening import Model
from teco.runtimes.base import Precision, Session, SessionOptions, State, cannot_load, needs_onnx
from teco.runtimes.nvidia.onnxruntime_binding import BoundSession, PluginPlace, plugin_devices
from teco.runtimes.ports import check_ports

PLUGIN = "onnxruntime_ep_webgpu"
_SINCE = (1, 24, 4)
"""ONNX Runtime that the plugin wants, by its own page."""
_VENDOR = 0
"""Of its memory: Dawn chooses the GPU, whosever it is."""
_FORM = "web"


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeWebGpu:
    """See above."""

    name: str
    exact: bool = True
    suffixes: tuple[str, ...] = (".onnx",)
    precision: Precision = "fp32"
    device: Literal["gpu"] = "gpu"
    packages: tuple[str, ...] = ("onnxruntime-ep-webgpu",)
    module: str = "onnxruntime"
    form: str = _FORM
    slow_to_open: str = ""

    def why_unavailable(self) -> str | None:
        if missing := missing_extra("onnxruntime", "cpu,webgpu", self.name):
            return missing
        if importlib.util.find_spec(PLUGIN) is None:
            return f"{self.name} needs {PLUGIN}, which is not installed: pip install 'teco[webgpu]'"
        import onnxruntime as ort

        version = tuple(int(x) for x in re.findall(r"\d+", ort.__version__)[:3])
        if version < _SINCE:
            return f"{self.name} needs onnxruntime 1.24.4 or later, {ort.__version__} is installed"
        try:
            _, devices = plugin_devices(PLUGIN)
        except TecoError as error:
            return f"{self.name}: {error.message}: {error.hint}"
        if not devices:
            return (
                f"{self.name} needs a GPU with a Vulkan driver, and its plugin finds none: "
                "apt install libvulkan1 mesa-vulkan-drivers"
            )
        return None

    def why_not(self, model: Model) -> str | None:
        if missing := needs_onnx(model, self.name):
            return missing
        target = "" if model.manifest is None else model.manifest.target
        if _FORM in (target, *model.forms):
            return None
        return (
            f"{self.name} computes other forms than that for browsers wrong, and {model.name} was "
            f"exported for {target or 'others'}: `teco export --for web` makes one that it can run"
        )

    def open(self, model: Model, options: SessionOptions) -> Session:
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if reason := self.why_not(model):
            raise TecoError(reason, hint="`teco export --for web` makes a file for it")
        import onnxruntime as ort

        model = model.form(_FORM)
        assert model.onnx is not None
        assert model.manifest is not None
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = options.thread_count  # of what is left to the CPU
        provider, devices = plugin_devices(PLUGIN)
        settings.add_provider_for_devices(devices[:1], {})
        try:
            session: Any = ort.InferenceSession(str(model.onnx), settings)
        except Exception as error:  # its exceptions share no base but Exception
            raise cannot_load(self.name, model.onnx, error) from error
        if provider not in (got := session.get_providers()):
            raise TecoError(
                f"{self.name} was asked for and ONNX Runtime gave {', '.join(got)}",
                exit_code=MACHINE,
            )
        contract = model.manifest.contract
        check_ports(
            model.onnx, contract,
            [p.name for p in session.get_inputs()], [p.name for p in session.get_outputs()],
        )  # fmt: skip
        details = f"{provider}, the GPU that Dawn chooses"
        return _WebGpuSession(
            self.name, details, session, contract, PluginPlace(_VENDOR), graphs=False
        )


class _WebGpuSession(BoundSession):
    """State and pictures in the GPU's memory."""

    def step_on_device(self, lr: Any, state: State | None) -> Any:
        """Raises TecoError: its memory has no address that others could read."""
        raise TecoError(f"{self.runtime} hands out no memory of the GPU", exit_code=MACHINE)
