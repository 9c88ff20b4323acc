"""How near a step is to what the machine can do.

The roofline (Williams, Waterman and Patterson, Communications of the ACM 52, 2009): a step takes at
least as long as its multiply-adds at the rate of a matrix product, and at least as long as the
bytes that it cannot avoid at the rate of a copy. Unavoidable are the weights, what comes in and
what goes out, once; whether tensors in between ever leave a cache is the runtime's art, so they are
told beside (``tensor_bytes``) and do not make the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from teco.benchmark.record.record import Ceiling, Roofline
from teco.estimates.memory import memory
from teco.estimates.tensors import FLOAT, P, Precision, deployed
from teco.model.opening import Model
from teco.runtimes import Runtime


@dataclass(frozen=True)
class Work:
    """What one step of a model is, in multiply-adds and bytes.

    Attributes:
        macs: of the convolutions that really run.
        bytes: weights, LR and HR frame, state, each once.
        tensor_bytes: every tensor written once and read by each of its readers, weights included.
        weights, activations: memory, see :class:`teco.estimates.memory.MemoryEstimate`.
    """

    macs: int
    bytes: int
    tensor_bytes: int
    weights: int
    activations: int


def work_of(model: Model, precision: str, size: tuple[int, int]) -> Work:
    """The work of one step.

    Args:
        model: what is run.
        precision: it is computed in; bf16 counts as fp16 does.
        size: LR (h, w).
    """
    h, w = size
    as_: Precision = "int8" if precision == "int8" else "fp32" if precision == "fp32" else "fp16"
    form = dict(model.manifest.rewrites) if model.manifest is not None else None
    dynamic = model.static_size is None
    io = "fp32" if model.manifest is None else model.manifest.contract.io
    own = memory(model.variant, h, w, as_, form, dynamic=dynamic, io=io)
    ops = deployed(model.variant, h, w, as_, form, dynamic=dynamic)
    pixels = h * w * FLOAT
    sizes = {
        "lr": 3 * pixels, "lr_prev": 3 * pixels, "hr_prev": 3 * P * pixels,
        "phases_prev": 3 * P * pixels, "luma_prev": pixels, "hr_luma_prev": P * pixels,
        "latent_prev": (model.variant.latent or model.variant.channels) * pixels,
    }  # fmt: skip
    sizes |= {op.name: op.size for op in ops}
    moved = own.weights
    for op in ops:
        moved += op.size + sum(sizes[name] for name in op.inputs)
    return Work(
        macs=model.variant.cost(h, w).executed_macs["total"],
        bytes=own.weights + own.ports,
        tensor_bytes=moved,
        weights=own.weights,
        activations=own.activations,
    )


def library_of(runtime: Runtime) -> str:
    """The library whose matrix product is a runtime's ceiling; on GPUs torch stands for all."""
    return runtime.module if runtime.device == "cpu" else "torch"


def roofline(
    work: Work, ceilings: Sequence[Ceiling], gemm: int, copy: int, measured_ms: float
) -> Roofline:
    """A step beside its limits.

    Args:
        work: of the step.
        ceilings: of the record.
        gemm, copy: which of them count here.
        measured_ms: the median.
    """
    compute_ms = 1000 * work.macs / ceilings[gemm].value
    memory_ms = 1000 * work.bytes / ceilings[copy].value
    return Roofline(
        macs=work.macs, bytes=work.bytes, tensor_bytes=work.tensor_bytes, gemm=gemm, copy=copy,
        compute_ms=compute_ms, memory_ms=memory_ms,
        bound="compute" if compute_ms >= memory_ms else "memory",
        share=max(compute_ms, memory_ms) / measured_ms,
    )  # fmt: skip
