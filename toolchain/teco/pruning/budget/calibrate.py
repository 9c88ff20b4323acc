"""Measuring the anchors of the cost model on this machine, once, and remembering what came out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teco.core.errors import MACHINE, TecoError
from teco.core.files import write_beside
from teco.core.log import Progress, no_progress
from teco.core.machine import Machine, inspect, usable_cores
from teco.model.contract import StreamContract
from teco.model.manifest import Manifest
from teco.model.opening import Model
from teco.pruning.budget.cost_model import (
    TOLERANCE,
    AnchorPlan,
    CostModel,
    check_time,
    fit,
    middle,
    plan,
)
from teco.pruning.budget.space import Space
from teco.runtimes import Runtime
from teco_calibration.cache import cache_dir
from teco_models.variant import Variant

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the cache file's layout, and of what is measured."""

REPETITIONS = 9
"""Samples of each network: three rounds of three in turn (:mod:`teco.measurement.latency`)."""

ATTEMPTS = 2
"""Calibrations before one that contradicts itself is used with a warning."""


@dataclass(frozen=True, kw_only=True)
class BudgetTarget:
    """Where the pruned network will serve.

    Attributes:
        runtime: that runs it.
        size: (h, w) of the LR frame.
        threads: CPU threads; None for all this process may use.
    """

    runtime: Runtime
    size: tuple[int, int]
    threads: int | None = None

    @property
    def thread_count(self) -> int:
        return self.threads or usable_cores()

    def __str__(self) -> str:
        h, w = self.size
        n = self.thread_count
        return f"{self.runtime.name} at {h}x{w}, {n} thread{'' if n == 1 else 's'}"


Timer = Callable[[Sequence[Variant]], Mapping[Variant, Sequence[float]]]
"""Variants -> milliseconds of several steps of each, interleaved."""


def export_form(runtime: Runtime) -> str:
    """Which of :data:`teco_models.deploy.step.TARGETS` is fastest on a runtime."""
    return runtime.form or "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Times random weights, exported and run as trained ones would be: a step takes as long
    whatever it multiplies.

    Attributes:
        target: runtime, size and threads.
        repetitions: samples of each.
        progress: told the steps that are timed.
    """

    target: BudgetTarget
    repetitions: int = REPETITIONS
    progress: Progress = no_progress

    def __call__(self, variants: Sequence[Variant]) -> dict[Variant, tuple[float, ...]]:
        from teco.measurement.latency import measure_latency

        with tempfile.TemporaryDirectory(prefix="teco-cost-") as folder:
            models: list[Model] = []
            for i, variant in enumerate(variants, start=1):
                log.info("making %s (%d of %d)", variant.name, i, len(variants))
                models.append(random_model(variant, self.target, Path(folder)))
            found = measure_latency(
                [(model, self.target.runtime) for model in models],
                self.target.size,
                repetitions=self.repetitions,
                threads=self.target.threads,
                progress=self.progress,
            )
        found.log_warnings()
        return {
            variant: one.latency.host.all
            for variant, one in zip(variants, found.results, strict=True)
        }


def random_model(variant: Variant, target: BudgetTarget, folder: Path) -> Model:
    """A network of random weights in the form that the target runs, in ``folder``.

    It is not verified against PyTorch, which is what takes an export its time: its pictures are
    never looked at.
    """
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator

    generator = Generator(variant).eval()
    # Fresh default weights would make values that grow or die out, and denormal numbers are slow.
    initialise(generator)
    if ".onnx" not in target.runtime.suffixes:
        from teco_models.checkpoint import save_weights

        path = folder / f"{variant.name}.safetensors"
        save_weights(path, generator)
        return Model(variant.name, variant, weights=path)
    from teco.exporting.trace import trace
    from teco_models.deploy.step import TARGETS, deploy_step

    rewrites = TARGETS[export_form(target.runtime)]
    path = folder / f"{variant.name}.onnx"
    contract = StreamContract.of(variant)
    step = trace(deploy_step(generator, rewrites), contract, target.size)
    path.write_bytes(step.SerializeToString())
    manifest = Manifest(
        variant=variant.name,
        precision_asked="fp32",
        precision_found={},
        size=f"{target.size[0]}x{target.size[1]}",
        contract=contract,
        rewrites=asdict(rewrites),
        parity=None,
        weights_sha256="",
        versions={},
    )
    return Model(variant.name, variant, onnx=path, manifest=manifest)


def calibration_key(target: BudgetTarget, chosen: AnchorPlan, machine: Machine) -> dict[str, Any]:
    """Everything that a measured time depends on. Load and clock governor are not in it: they
    change by the minute, and what they do to a calibration is seen in its errors."""
    form: dict[str, bool] = {}
    if ".onnx" in target.runtime.suffixes:
        from teco_models.deploy.step import TARGETS

        form = asdict(TARGETS[export_form(target.runtime)])
    return {
        "schema": SCHEMA,
        "machine": [machine.cpu, machine.cores, list(machine.cpu_flags), list(machine.gpus)],
        "system": machine.os,
        "packages": dict(machine.packages),
        "runtime": target.runtime.name,
        "threads": target.thread_count,
        "size": list(target.size),
        "form": form,
        "anchors": [v.name for v in chosen.anchors],
        "checks": [v.name for v in chosen.checks],
    }


def cache_file(key: Mapping[str, Any]) -> Path:
    """Where the calibration of this key is kept."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "cost" / f"{key['runtime']}-{digest}.json"


@dataclass(frozen=True)
class LatencyCalibration:
    """A cost model and where it comes from.

    Attributes:
        model: of the target.
        samples: milliseconds of every measured step.
        cached: the file it was read from, None when measured now.
        warnings: what makes it less sure.
    """

    model: CostModel
    samples: Mapping[str, tuple[float, ...]]
    cached: Path | None
    warnings: tuple[str, ...]


def calibrate(
    space: Space,
    target: BudgetTarget,
    *,
    timer: Timer | None = None,
    again: bool = False,
    machine: Machine | None = None,
    progress: Progress = no_progress,
) -> LatencyCalibration:
    """The cost model of a space on a target: from the cache, or measured and put there.

    A calibration whose own networks it misses by more than :data:`TOLERANCE` was disturbed. It is
    measured again once, then used with a warning and not kept.

    Args:
        space: what the model must know.
        target: runtime, size and threads.
        timer: measures; None for the real one.
        again: measure even if the cache has it.
        machine: the key's part that says where this is; None for a look at this one.
        progress: told the steps that are timed.

    Raises:
        TecoError: the runtime cannot run here, or a measured time is impossible.
    """
    chosen = plan(space)
    key = calibration_key(target, chosen, machine or inspect())
    path = cache_file(key)
    if not again and (known := _read(path, key, chosen)):
        log.info("cost model of %s: from %s", target, path)
        return LatencyCalibration(
            fit(_medians(known), chosen, target.size), _named(known), path, ()
        )
    if timer is None:
        if reason := target.runtime.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        timer = Stopwatch(target=target, progress=progress)
    best: tuple[CostModel, Mapping[Variant, Sequence[float]]] | None = None
    for attempt in range(ATTEMPTS):
        log.info(
            "measuring the cost model of %s: %d networks of random weights",
            target, len(chosen.variants),
        )  # fmt: skip
        samples = timer(chosen.variants)
        model = fit(_medians(samples), chosen, target.size)
        if best is None or model.worst < best[0].worst:
            best = model, samples
        if best[0].worst <= TOLERANCE:
            _write(path, key, samples)
            return LatencyCalibration(best[0], _named(samples), None, ())
        if attempt + 1 < ATTEMPTS:
            log.info("it contradicts itself by %.0f%%; measuring once more", 100 * best[0].worst)
    assert best is not None
    name, error = max(best[0].errors.items(), key=lambda item: abs(item[1]))
    warning = (
        f"the cost model is off by {error:+.0%} on {name}, which it was measured with; other "
        "programs may have run beside it, so it is not kept"
    )
    return LatencyCalibration(best[0], _named(best[1]), None, (warning,))


def _medians(samples: Mapping[Variant, Sequence[float]]) -> dict[Variant, float]:
    return {v: middle(s) for v, s in samples.items()}


def _named(samples: Mapping[Variant, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {v.name: tuple(s) for v, s in samples.items()}


def _read(
    path: Path, key: Mapping[str, Any], chosen: AnchorPlan
) -> dict[Variant, tuple[float, ...]] | None:
    """The samples of a cache file; None where it is missing, damaged or another key's."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        samples = {v: tuple(float(x) for x in record["ms"][v.name]) for v in chosen.variants}
        for variant, ms in _medians(samples).items():
            check_time(variant, ms)
    except (OSError, ValueError, KeyError, TypeError, TecoError):
        return None
    return samples


def _write(path: Path, key: Mapping[str, Any], samples: Mapping[Variant, Sequence[float]]) -> None:
    record = {"key": key, "ms": {v.name: list(s) for v, s in samples.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, (json.dumps(record, indent=1) + os.linesep).encode())
    except OSError as error:
        # A cache that cannot be written costs a minute next time, not the work.
        log.warning("the cost model could not be kept in %s: %s", path.parent, error.strerror)
