"""How much the exact rewrites of the deploy form gain, per runtime.

    python scripts/bench_deploy.py [--weights FILE] [--size 180x320] [--repetitions 20]

The network as `torch.onnx.export` writes the generator, and as `teco export --for RUNTIME` writes
it, in one interleaved run per runtime on all cores. Prints medians and the ratio to the plain form.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import fields
from pathlib import Path

from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.measurement.latency import measure_latency
from teco.model.opening import Model, open_model
from teco.runtimes import find
from teco_models import zoo
from teco_models.checkpoint import load_weights
from teco_models.deploy.step import TARGETS, Rewrites

RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=zoo.Entry("teco-x4-b3-c64-bp-lk").weights)
    parser.add_argument("--size", default="180x320", help="LR height x width")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    arguments = parser.parse_args()
    h, w = (int(x) for x in arguments.size.split("x"))
    weights = load_weights(arguments.weights)
    with tempfile.TemporaryDirectory() as folder:

        def export(name: str, target: str, without: tuple[str, ...] = ()) -> Model:
            options = ExportOptions(size=(h, w), name=name, target=target, without=without)
            return open_model(str(export_onnx(weights, Path(folder), options)))

        # `plain` has every rewrite off, so each operation is the exporter's own translation.
        models = {"plain": export("plain", "onnxruntime", tuple(f.name for f in fields(Rewrites)))}
        models |= {target: export(target, target) for target in TARGETS}
        print(
            f"{weights.variant.name} at {h}x{w}, {arguments.repetitions} interleaved samples each"
        )
        print(f"{'on':16}{'form':16}{'ms':>8}{'ratio':>8}")
        for name in arguments.runtimes.split(","):
            runtime = find(name)
            if reason := runtime.why_unavailable():
                print(f"{name:16}{reason}")
                continue
            found = measure_latency(
                [(m, runtime) for m in models.values()], (h, w), repetitions=arguments.repetitions
            )
            times = {form: c.p50_ms for form, c in zip(models, found.results, strict=True)}
            for form, milliseconds in times.items():
                ratio = milliseconds / times["plain"]
                print(f"{name:16}{form:16}{milliseconds:>8.1f}{ratio:>8.3f}")


if __name__ == "__main__":
    main()
