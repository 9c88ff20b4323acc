"""TensorRT 10 and 11: engines that were built on this GPU or its like. Not yet run on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teco.core.garbage import no_collection
from teco.runtimes.nvidia.device.protocol import Device
from teco.runtimes.nvidia.engine_runtime import EngineRuntime, Prepared

if TYPE_CHECKING:
    from teco.model.engine.manifest import EngineManifest


@dataclass(frozen=True, kw_only=True)
class TensorRt(EngineRuntime):
    """See :class:`EngineRuntime`."""

    def prepare(
        self, trt: Any, runtime: Any, plan: bytes, manifest: EngineManifest, gpu: Device
    ) -> tuple[Any, Prepared | None]:
        from teco.model.engine.api import Bindings, EngineDeserializer

        bindings: Bindings = trt
        loader: EngineDeserializer = runtime
        if manifest.version_compatible:
            # Such a plan carries the runtime it was built with, which is code.
            loader.engine_host_code_allowed = True
        with no_collection():
            engine = loader.deserialize_cuda_engine(plan)
        if engine is None:
            return None, None
        # The enumeration is older than IRuntimeConfig, which TensorRT 10.3 does not know.
        strategy = bindings.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        return engine, None if context is None else Prepared(context)
