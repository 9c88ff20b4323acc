"""Is the file in integers faster than the same file in floats?"""

from __future__ import annotations

from teco.measurement.latency import measure_latency
from teco.model.int8 import Timing
from teco.model.opening import Model
from teco.runtimes import find

SAMPLES = 11
"""Of each file; in one interleaved run."""

USUAL_SIZE = (180, 320)
"""At which a dynamic file is timed."""


def runtimes_of(target: str) -> tuple[str, ...]:
    """Names of the runtimes that a form is timed on here, as far as they can run."""
    names = ("openvino", "openvino-bf16") if target == "openvino" else ("onnxruntime",)
    return tuple(n for n in names if find(n).why_unavailable() is None) or ("onnxruntime",)


def compare_speed(fp32: Model, int8: Model, target: str) -> tuple[Timing, ...]:
    """Time both files in turns, on each runtime of :func:`runtimes_of`, all in one run.

    Raises:
        TecoError: a runtime cannot load one of them.
    """
    size = int8.static_size or USUAL_SIZE
    names = runtimes_of(target)
    pairs = [(model, find(name)) for name in names for model in (fp32, int8)]
    timed = measure_latency(pairs, size, repetitions=SAMPLES)
    timed.log_warnings()
    results = timed.results
    return tuple(
        Timing(
            runtime=name,
            size=f"{size[0]}x{size[1]}",
            samples=SAMPLES,
            fp32_ms=round(a.p50_ms, 3),
            int8_ms=round(b.p50_ms, 3),
        )
        for name, a, b in zip(names, results[::2], results[1::2], strict=True)
    )
