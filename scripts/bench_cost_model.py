"""How well the cost model of `teco prune --target-ms` predicts, per runtime.

    python scripts/bench_cost_model.py [--runtimes openvino-bf16,onnxruntime] [--size 180x320]

Calibrates on this machine, searches a 10-block teacher's space (random weights) for the three best
within the target, exports and measures them, and prints predicted beside measured times; then the
checks, which are measured with the calibration and left out of its fit. Ends with status 1 where a
candidate is off by more than 15%, or where none could be measured.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from statistics import median
from time import perf_counter

from teco.core.errors import TecoError
from teco.pruning.budget.calibrate import BudgetTarget, calibrate
from teco.pruning.budget.reduce import reduce_to
from teco.pruning.budget.run import BudgetOptions, export_and_time
from teco.pruning.budget.search import search
from teco.pruning.budget.space import Budget, Space
from teco.runtimes import find
from teco.training.init import initialise
from teco_models.arch.generator import Generator
from teco_models.checkpoint import Weights
from teco_models.errors import ModelError
from teco_models.variant import Variant

LIMIT = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", default="openvino-bf16,onnxruntime")
    parser.add_argument("--size", default="180x320", help="LR height x width")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--teacher", default="teco-x4-b10-c64", help="a variant's name")
    parser.add_argument("--multiple", type=int, default=16)
    parser.add_argument(
        "--target-ms", type=float, default=41.0, help="raised where nothing would meet it"
    )
    parser.add_argument("--with-flow", action="store_true", help="leave out variants without one")
    parser.add_argument("--json", type=Path, help="write the figures")
    a = parser.parse_args()
    if re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", a.size) is None:
        parser.error(f"--size is {a.size}, expected HEIGHTxWIDTH such as 180x320")
    try:
        worst = measure(a)
    except (TecoError, ModelError) as error:
        raise SystemExit(f"{error.message}. {error.hint}".rstrip()) from error
    print(f"largest error of a candidate: {worst:.1%} (limit {LIMIT:.0%})")
    raise SystemExit(worst > LIMIT)


def measure(a: argparse.Namespace) -> float:
    """Calibrate, search, measure and print, runtime by runtime.

    Returns:
        The largest error of a candidate's predicted time, relative to the measured one.

    Raises:
        TecoError: a runtime is unknown, or none could be measured.
        ModelError: there is no such teacher.
    """
    h, w = (int(x) for x in a.size.split("x"))
    runtimes = [find(name) for name in a.runtimes.split(",")]
    generator = Generator(Variant.parse(a.teacher))
    initialise(generator)
    teacher = Weights(generator.variant, dict(generator.state_dict()))
    space = Space.below(teacher.variant, multiple=a.multiple, flowless=not a.with_flow)
    record: dict[str, object] = {}
    worst = 0.0
    for runtime in runtimes:
        target = BudgetTarget(runtime=runtime, size=(h, w), threads=a.threads)
        if reason := runtime.why_unavailable():
            print(f"{runtime.name}: {reason}")
            continue
        began = perf_counter()
        known = calibrate(space, target, again=True)
        calibrated = perf_counter() - began
        model = known.model
        # A target with room below it, so that three real candidates are found.
        ms = max(a.target_ms, 1.5 * min(map(model, space.variants())))
        budget = Budget(ms=ms)
        found = search(space, budget, (h, w), cost=model)
        options = BudgetOptions(budget=budget, target=target, multiple=a.multiple)
        weights = [reduce_to(teacher, c.variant)[0] for c in found.candidates]
        samples = export_and_time(weights, options)
        print(
            f"{target}: calibrated in {calibrated:.0f} s; {found.within} of {found.looked_at} "
            f"variants within {ms:.1f} ms"
        )
        print(f"  {'':32}{'predicted':>10}{'measured':>10}{'error':>8}")
        rows: list[dict[str, object]] = []
        for candidate, one in zip(found.candidates, samples, strict=True):
            predicted, measured = model(candidate.variant), median(one)
            error = predicted / measured - 1
            worst = max(worst, abs(error))
            print(f"  {candidate.variant.name:32}{predicted:10.1f}{measured:10.1f}{error:+8.1%}")
            rows.append({"variant": candidate.variant.name, "predicted": predicted, "samples": one})
        for check in model.checked:
            measured = median(known.samples[check])
            predicted = measured * (1 + model.errors[check])
            print(
                f"  {check:32}{predicted:10.1f}{measured:10.1f}{model.errors[check]:+8.1%}  check"
            )
        for warning in known.warnings:
            print(f"  warning: {warning}")
        record[str(target)] = {"candidates": rows, "calibration": known.samples}
    if not record:
        raise TecoError(
            f"nothing was measured: none of {a.runtimes} can run here",
            hint="`teco doctor` lists the runtimes of this machine",
        )
    if a.json:
        a.json.write_text(json.dumps(record, indent=1))
    return worst


if __name__ == "__main__":
    main()
