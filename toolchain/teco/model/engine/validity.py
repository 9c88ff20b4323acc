"""Whether TensorRT-RTX itself calls an engine valid on this machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import cast

from teco.core.errors import MACHINE, TecoError
from teco.model.engine.api import RtxBindings, load
from teco.model.engine.network import make_logger

_REASONS = {
    "VERSION_MISMATCH": "it was built with another release of TensorRT-RTX",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the GPU driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is malformed",
    "CUDA_ERROR": "CUDA does not work here",
}


def check_validity(path: Path) -> None:
    """Ask TensorRT-RTX itself whether an engine fits this machine, by the engine's header.

    To be called after :func:`teco.model.engine.preflight.check` and before deserialising: it knows
    drivers and memory, which a manifest does not. Not yet run on a GPU; without one the runtime
    calls every engine invalid and gives no reason, which is said so.

    Args:
        path: the plan.

    Raises:
        TecoError: TensorRT-RTX is missing or calls the engine invalid; exit code 3.
    """
    trt = cast(RtxBindings, load("rtx", f"checking {path}"))
    runtime = trt.Runtime(make_logger(trt))
    with path.open("rb") as file:
        validity, diagnostics = runtime.get_engine_validity(file.read(runtime.engine_header_size))
    if validity.name != "INVALID":
        return
    bits = int(diagnostics)
    flags = trt.EngineInvalidityDiagnostics.__members__
    reasons = [text for name, text in _REASONS.items() if bits & int(flags[name])]
    raise TecoError(
        f"TensorRT-RTX {trt.__version__} cannot run {path} on this {platform.system()} machine: "
        f"{'; '.join(reasons) or 'it gives no reason, as without a GPU and driver'}",
        exit_code=MACHINE,
    )
