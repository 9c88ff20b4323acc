"""What opening an engine takes, whichever of NVIDIA's two runtimes it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from teco.core.errors import MACHINE, TecoError
from teco.model.opening import ENGINE_SUFFIX, Model
from teco.runtimes.base import Precision, Session, SessionOptions
from teco.runtimes.nvidia import device
from teco.runtimes.nvidia.device.protocol import Device

if TYPE_CHECKING:
    from teco.model.engine.manifest import EngineManifest


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to be given memory.

    Attributes:
        context: :class:`teco.model.engine.api.Context`, whose scratch memory is the session's to
        give.
        capturable: whether it can be captured in a CUDA graph, asked once shapes are set.
        keep: called when it was made ready for a size, and at the end.
    """

    context: Any
    capturable: Callable[[], bool] = lambda: True
    keep: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class EngineRuntime:
    """A runtime for engines; :meth:`prepare` is what the two kinds differ in.

    It computes what the engine was built as, so it is never called exact.
    """

    name: str
    target: Literal["tensorrt", "rtx"]
    exact: bool = False
    suffixes: tuple[str, ...] = (ENGINE_SUFFIX,)
    precision: Precision = "fp32"
    device: Literal["cuda"] = "cuda"
    form: str = ""
    slow_to_open: str = ""

    @property
    def packages(self) -> tuple[str, ...]:
        return (self.module.replace("_", "-"),)

    @property
    def module(self) -> str:
        from teco.model.engine.api import TARGETS

        return TARGETS[self.target]

    def prepare(
        self, trt: Any, runtime: Any, plan: bytes, manifest: EngineManifest, gpu: Device
    ) -> tuple[Any, Prepared | None]:
        """Deserialise a plan and make a context of it.

        Args:
            trt: the bindings.
            runtime: their ``Runtime``.
            plan: of the right hash.
            manifest: of the plan.
            gpu: open.

        Returns:
            The engine, None where the runtime refuses the plan, and what was made of it, None where
            the runtime could not.
        """
        raise NotImplementedError

    def why_unavailable(self) -> str | None:
        from teco.core import gpu
        from teco.model.engine import api

        if not api.is_installed(self.target):
            return (
                f"{self.name} needs {api.TARGETS[self.target]}, which is not installed: "
                f"pip install 'teco[{self.target}]'"
            )
        if missing := device.why_unavailable(self.name):
            return missing
        if not gpu.find():
            return f"{self.name} needs an NVIDIA GPU and driver; nvidia-smi finds none"
        return None

    def why_not(self, model: Model) -> str | None:
        from teco.model.engine.api import PRODUCTS

        if model.engine_manifest is None:
            return f"{self.name} runs engines, and {model.name} is {model.kind}"
        if model.engine_manifest.target != self.target:
            return (
                f"{self.name} runs engines of {PRODUCTS[self.target]}, and {model.name} is one of "
                f"{model.engine_manifest.product}"
            )
        return None

    def open(self, model: Model, options: SessionOptions) -> Session:
        """See :meth:`teco.runtimes.base.Runtime.open`; the preflight comes before all else."""
        if reason := self.why_not(model):
            raise TecoError(reason, hint=f"`teco export --formats {self.target}` builds one")
        from teco.model.engine import preflight

        assert model.engine is not None
        manifest = preflight.check(model.engine)
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        plan = model.engine.read_bytes()
        if hashlib.sha256(plan).hexdigest() != manifest.sha256:
            raise TecoError(
                f"{model.engine} changed while it was opened", hint=f"`{manifest.rebuild}`"
            )
        with ExitStack() as undo:
            gpu = device.open_device(self.name)
            undo.callback(gpu.close)
            return self.start(gpu, plan, manifest, model.engine.name, undo)

    def start(
        self, gpu: Device, plan: bytes, manifest: EngineManifest, name: str, undo: ExitStack
    ) -> Session:
        """A session of a plan that may be given to the runtime.

        Args:
            gpu: open.
            plan: the file's content.
            manifest: of the plan.
            name: of the file, for messages.
            undo: closes the device; emptied when the session has taken it over.

        Raises:
            TecoError: the runtime refuses the plan, or it is not what its manifest says.
        """
        from teco.model.engine import api, preflight
        from teco.model.engine.network import make_logger
        from teco.runtimes.nvidia.engine_session import (
            EngineFrameSession,
            EnginePlaneSession,
            EngineSession,
            check_ports,
            ports_of,
        )

        trt = api.load(self.target, f"running {name}")
        log = make_logger(trt)
        engine, prepared = self.prepare(trt, trt.Runtime(log), plan, manifest, gpu)
        if engine is None or prepared is None:
            raise TecoError(
                f"{manifest.product} {trt.__version__} could not "
                f"{'load' if engine is None else 'get ready to run'} {name}: "
                f"{log.first_error() or 'it gave no reason'}",
                hint=f"build it again: `{manifest.rebuild}`",
                exit_code=MACHINE,
            )
        ports = ports_of(engine, name)
        contract = manifest.model.contract
        check_ports(ports, contract, manifest.limits, name)
        kind = EngineFrameSession if contract.dtype == "uint8" else EngineSession
        kind = EnginePlaneSession if contract.planes is not None else kind
        undo.pop_all()
        return kind(
            self.name,
            f"{gpu.name}, {manifest.product} {trt.__version__}, {manifest.precision_asked}",
            gpu,
            prepared.context,
            ports,
            contract,
            check_size=lambda size: preflight.check_size(manifest, name, size),
            capturable=prepared.capturable,
            keep=prepared.keep,
            first_error=log.first_error,
        )
