"""TensorRT-RTX: engines that were built anywhere and are compiled here when they first run.

What was compiled is kept in teco's cache folder, so that the next run starts at once. Not yet run
on a GPU.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teco.core.files import write_beside
from teco.core.garbage import no_collection
from teco.model.opening import Model
from teco.runtimes.base import Session, SessionOptions
from teco.runtimes.nvidia.device.protocol import Device
from teco.runtimes.nvidia.engine_runtime import EngineRuntime, Prepared
from teco_calibration.cache import cache_dir

if TYPE_CHECKING:
    from teco.model.engine.api import RuntimeCache
    from teco.model.engine.manifest import EngineManifest


@dataclass(frozen=True, kw_only=True)
class TensorRtRtx(EngineRuntime):
    """See :class:`EngineRuntime`."""

    def open(self, model: Model, options: SessionOptions) -> Session:
        from teco.model.engine import preflight
        from teco.model.engine.validity import check_validity

        if self.why_not(model) is None:
            assert model.engine is not None
            preflight.check(model.engine)
            # It knows the driver and the GPU's memory, which a manifest does not.
            check_validity(model.engine)
        return super().open(model, options)

    def prepare(
        self, trt: Any, runtime: Any, plan: bytes, manifest: EngineManifest, gpu: Device
    ) -> tuple[Any, Prepared | None]:
        from teco.model.engine.api import RtxBindings, RtxContext, RtxRuntime

        bindings: RtxBindings = trt
        loader: RtxRuntime = runtime
        with no_collection():
            engine = loader.deserialize_cuda_engine(plan)
        if engine is None:
            return None, None
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            bindings.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # The session captures by itself, one graph for each turn.
        config.cuda_graph_strategy = bindings.CudaGraphStrategy.DISABLED
        if manifest.size == "dynamic":
            # By default kernels for a size are compiled beside the run and put in later, which a
            # captured graph would not notice.
            eager = bindings.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        cache: RuntimeCache = config.create_runtime_cache()
        path = cache_path(manifest, bindings.__version__, gpu.name)
        kept = _read(path)
        if kept and not cache.deserialize(kept):
            kept = b""  # of another driver, say: TensorRT-RTX compares and leaves the cache empty
        config.set_runtime_cache(cache)
        context: RtxContext | None = engine.create_execution_context(config)  # type: ignore[assignment]
        if context is None:
            return engine, None

        def keep() -> None:
            nonlocal kept
            kept = _write(path, cache, kept)

        return engine, Prepared(context, lambda: context.is_stream_capturable(gpu.stream), keep)


def cache_path(manifest: EngineManifest, version: str, gpu: str) -> Path:
    """Where the kernels of an engine are kept: one file for each engine, release and GPU."""
    key = "\n".join((manifest.sha256, version, gpu))
    return cache_dir() / "tensorrt-rtx" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.cache"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, cache: RuntimeCache, kept: bytes) -> bytes:
    """Write the cache if it has grown; returns what is in the file."""
    from teco.model.engine.api import to_bytes

    data = to_bytes(cache.serialize())
    if data == kept:
        return kept
    with suppress(OSError):  # a cache that cannot be written costs seconds next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, data)
    return data
