"""The most this machine does: multiply-adds of a matrix product, and bytes of a copy.

A matrix product is what every library is tuned for most; a convolution through the same library
does not get beyond it, save by algorithms that multiply less (Winograd). So it is measured with the
library that runs the candidate, in the precision that it computes in, on the same threads.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from teco.benchmark.measure.onnx_matmul import matmul_model
from teco.benchmark.record.record import Ceiling
from teco.core.signal_stack import kept_signal_stack

SIDE = 1536
"""Of the square matrices on a CPU: 9 MB each in float32, far beyond what overheads matter for."""

GPU_SIDE = 8192
COPY_BYTES = 1 << 27
"""128 MiB: four times the largest last-level cache of most machines."""

GPU_COPY_BYTES = 1 << 30
SAMPLES = 5

_TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_ONNX_TYPES = {"fp32": np.float32, "fp16": np.float16}


def measure(library: str, device: str, precision: str, threads: int) -> list[Ceiling]:
    """A GEMM and a copy.

    Args:
        library: module of the runtime; "" for an engine's, where torch stands in if it is there.
        device: "cpu", an NVIDIA GPU's name, or "gpu" or "npu", of which nothing can be measured.
        precision: fp32, fp16, bf16 or int8.
        threads: on a CPU.

    Returns:
        What could be measured; empty where nothing could.
    """
    gemm: Ceiling | None = None
    if device in ("gpu", "npu"):
        return []
    if device != "cpu":
        gemm = _torch_gemm(device, precision, GPU_SIDE)
        copy = _torch_copy(device)
        return [x for x in (gemm, copy) if x is not None]
    if library == "openvino":
        gemm = _openvino_gemm(precision, threads)
    elif library == "torch":
        gemm = _torch_gemm("cpu", precision, SIDE)
    if gemm is None:  # it has a product of 8-bit integers
        gemm = _onnxruntime_gemm(precision, threads)
    return [x for x in (gemm, _copy(threads)) if x is not None]


def _best(call: Callable[[], object], least_ms: float = 20.0) -> tuple[float, tuple[float, ...]]:
    """(ms of the fastest, ms of each sample) of one call; what is too short to time is repeated."""
    call()
    began = perf_counter()
    call()
    once = 1000 * (perf_counter() - began)
    repeats = max(1, math.ceil(least_ms / max(once, 1e-3)))
    samples: list[float] = []
    for _ in range(SAMPLES):
        began = perf_counter()
        for _ in range(repeats):
            call()
        samples.append(1000 * (perf_counter() - began) / repeats)
    return min(samples), tuple(samples)


def _gemm(
    library: str, device: str, precision: str, side: int, call: Callable[[], object], how: str
) -> Ceiling:
    best, samples = _best(call)
    return Ceiling(
        kind="gemm", library=library, device=device, precision=precision,
        value=side**3 / (best / 1000), ms=samples,
        method=f"{side}x{side} by {side}x{side} {how}, best of {SAMPLES}",
    )  # fmt: skip


def _onnxruntime_gemm(precision: str, threads: int) -> Ceiling | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    rng = np.random.default_rng(0)
    if precision == "int8":
        a = rng.integers(0, 255, (SIDE, SIDE), np.uint8)
        b = rng.integers(-127, 127, (SIDE, SIDE), np.int8)
    elif precision in _ONNX_TYPES:
        a = rng.random((SIDE, SIDE), np.float32).astype(_ONNX_TYPES[precision])
        b = rng.random((SIDE, SIDE), np.float32).astype(_ONNX_TYPES[precision])
    else:
        return None
    # The second operand is part of the model, as weights are, so that it may be packed ahead.
    model = matmul_model(SIDE, precision, b)
    try:
        session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return _gemm(
            "onnxruntime", "cpu", precision, SIDE, lambda: session.run(None, {"a": a}),
            "MatMulInteger" if precision == "int8" else "MatMul",
        )  # fmt: skip
    except Exception:  # its exceptions share no base but Exception
        return None  # no kernel for this type


def _openvino_gemm(precision: str, threads: int) -> Ceiling | None:
    import openvino as ov

    if precision not in ("fp32", "bf16", "fp16"):
        return None
    b = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    core = ov.Core()
    model = core.read_model(matmul_model(SIDE, "fp32", b))
    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision]
    settings = {
        "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }  # fmt: skip
    with kept_signal_stack():
        compiled = core.compile_model(model, "CPU", settings)
    if hint != "f32" and compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != hint:
        return None  # this processor has no such units
    request = compiled.create_infer_request()
    request.set_input_tensor(0, ov.Tensor(b))
    return _gemm("openvino", "cpu", precision, SIDE, request.infer, "MatMul")


def _torch_gemm(device: str, precision: str, side: int) -> Ceiling | None:
    try:
        import torch
    except ImportError:
        return None
    where = "cpu" if device == "cpu" else "cuda"
    if where == "cuda" and not torch.cuda.is_available():
        return None
    with torch.inference_mode():
        if precision == "int8":
            if where == "cpu":
                return None
            a = torch.randint(-127, 127, (side, side), dtype=torch.int8, device=where)
            b = torch.randint(-127, 127, (side, side), dtype=torch.int8, device=where).t()

            def product() -> object:
                return torch.ops.aten._int_mm(a, b)
        else:
            kind = getattr(torch, _TORCH_TYPES[precision])
            a = torch.rand((side, side), device=where).to(kind)
            b = torch.rand((side, side), device=where).to(kind)
            out = torch.empty((side, side), device=where, dtype=kind)

            def product() -> object:
                return torch.mm(a, b, out=out)

        def call() -> None:
            product()
            if where == "cuda":
                torch.cuda.synchronize()

        # TF32 would be a lower precision under the name of float32.
        torch.backends.cuda.matmul.allow_tf32 = False
        return _gemm("torch", device, precision, side, call, "torch.mm")


def _torch_copy(device: str) -> Ceiling | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    source = torch.ones(GPU_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def call() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    best, samples = _best(call)
    return Ceiling(
        kind="copy", library="torch", device=device, precision="",
        value=2 * GPU_COPY_BYTES / (best / 1000), ms=samples,
        method=f"{GPU_COPY_BYTES >> 20} MiB on the device, read and written, best of {SAMPLES}",
    )  # fmt: skip


def _copy(threads: int) -> Ceiling:
    """All threads copy at once; NumPy lets go of the interpreter's lock meanwhile."""
    from concurrent.futures import ThreadPoolExecutor

    part = COPY_BYTES // threads
    pairs = [(np.ones(part, np.uint8), np.empty(part, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def call() -> None:
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))

        best, samples = _best(call)
    return Ceiling(
        kind="copy", library="numpy", device="cpu", precision="",
        value=2 * part * threads / (best / 1000), ms=samples,
        method=f"{part * threads >> 20} MiB by {threads} threads, read and written, "
        f"best of {SAMPLES}",
    )  # fmt: skip
