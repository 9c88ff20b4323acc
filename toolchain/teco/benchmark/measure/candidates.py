"""The candidates: every model on every runtime that was asked for, and why some do not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from teco.benchmark.record.record import Artifact, Static, Unavailable
from teco.core.errors import MACHINE, TecoError
from teco.core.files import sha256_of
from teco.core.machine import Machine
from teco.model.opening import Model, check_frame_size, open_model
from teco.runtimes import RUNTIMES, Runtime, SessionOptions, find, of_engine, open_session

Size = tuple[int, int]

USUAL_SIZE: Size = (180, 320)
"""LR (h, w) where nothing is said: that of the published comparisons, 720p out."""


@dataclass(frozen=True, kw_only=True)
class BenchCandidate:
    """One model on one runtime, to be measured.

    Attributes:
        key: as of the record's row.
        spec: the model as the user named it, for its own process.
        model: opened.
        runtime: that runs it.
        artifact: the file that this runtime runs.
        device: "cpu" or the GPU's name.
        precision: it computes in.
        size: LR (h, w).
        same_as: key of a candidate with the same graph, whose speed is this one's too; "" for none.
    """

    key: str
    spec: str
    model: Model
    runtime: Runtime
    artifact: Artifact
    device: str
    precision: str
    size: Size
    same_as: str = ""


@dataclass(frozen=True)
class Selection:
    """Everything that was asked for.

    Attributes:
        candidates: that can run here.
        static: artifacts that no runtime here runs, with what their files tell.
        unavailable: runtimes that cannot run, each with its sentence.
    """

    candidates: tuple[BenchCandidate, ...]
    static: tuple[Static, ...]
    unavailable: tuple[Unavailable, ...]


def choose(
    specs: Sequence[str],
    runtimes: Sequence[str],
    size: Size | None,
    machine: Machine,
    *,
    threads: int | None = None,
    share: bool = False,
) -> Selection:
    """Who takes part.

    Args:
        specs: models as the user named them.
        runtimes: names; or "all" alone for every one that can run here, or "auto" for the fastest.
        size: LR (h, w); None takes a static file's, or 180x320.
        machine: this one.
        threads: for "auto", which measures.
        share: speed is measured once for several weights of one graph.

    Raises:
        TecoError: a model or a runtime is unknown, a static file is for another size, or a runtime
            that was named cannot run here.
    """
    models = _told_apart(specs, [open_model(spec) for spec in specs])
    size = size or next((m.static_size for m in models if m.static_size), USUAL_SIZE)
    for model in models:
        check_frame_size(model, *size)
    found = [
        one
        for spec, model in zip(specs, models, strict=True)
        for one in _of_model(spec, model, tuple(runtimes), size, machine, threads)
    ]
    candidates = [one for one in found if isinstance(one, BenchCandidate)]
    unavailable = {(one.runtime, one.model): one for one in found if isinstance(one, Unavailable)}
    return Selection(
        candidates=tuple(_sharing(candidates) if share else candidates),
        static=tuple(one for one in found if isinstance(one, Static)),
        unavailable=tuple(unavailable.values()),
    )


def _of_model(
    spec: str,
    model: Model,
    runtimes: tuple[str, ...],
    size: Size,
    machine: Machine,
    threads: int | None,
) -> Iterator[BenchCandidate | Static | Unavailable]:
    """What becomes of one model; arguments and errors as of :func:`choose`."""

    def on(runtime: Runtime) -> BenchCandidate:
        return _candidate(spec, model, runtime, size, machine)

    engine = of_engine(model)
    if runtimes not in (("all",), ("auto",)):
        for runtime in [find(name) for name in dict.fromkeys(runtimes)]:
            if why := runtime.why_unavailable() or runtime.why_not(model):
                raise TecoError(why, exit_code=MACHINE)
            yield on(runtime)
    elif engine is not None:
        why = _why_not_here(engine, model)
        yield on(engine) if why is None else static_of(model, size, why)
    elif runtimes == ("auto",):
        session = open_session(model, "auto", SessionOptions(threads=threads))
        session.close()
        yield on(find(session.runtime))
    else:
        for runtime in RUNTIMES:
            if why := runtime.why_unavailable():
                yield Unavailable(runtime=runtime.name, model="", why=why)
            elif why := runtime.why_not(model):
                yield Unavailable(runtime=runtime.name, model=model.name, why=why)
            elif runtime.slow_to_open:
                why = f"{runtime.name} {runtime.slow_to_open}; name it to measure it"
                yield Unavailable(runtime=runtime.name, model="", why=why)
            else:
                yield on(runtime)


def _why_not_here(engine: Runtime, model: Model) -> str | None:
    """Why an engine does not run on this machine; files that contradict themselves are errors."""
    from teco.model.engine import preflight

    assert model.engine is not None
    try:
        preflight.check(model.engine)
    except TecoError as error:
        if error.exit_code != MACHINE:
            raise
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return engine.why_unavailable()


def _candidate(
    spec: str, model: Model, runtime: Runtime, size: Size, machine: Machine
) -> BenchCandidate:
    gpu = machine.gpus[0].split(",")[0] if machine.gpus else ""
    artifact = artifact_of(model, runtime)
    precision = artifact.precision if artifact.precision != "fp32" else runtime.precision
    return BenchCandidate(
        key=f"{model.name} on {runtime.name}", spec=spec, model=model, runtime=runtime,
        artifact=artifact, device=gpu if runtime.device == "cuda" else runtime.device,
        precision=precision, size=size,
    )  # fmt: skip


def artifact_of(model: Model, runtime: Runtime | None = None) -> Artifact:
    """What the record says of the file that a runtime runs; None for the engine."""
    if runtime is not None:
        model = model.form(runtime.form)
    manifest, engine = model.manifest, model.engine_manifest
    weights_sha = manifest.weights_sha256 if manifest is not None else ""
    if engine is not None:
        assert model.engine is not None
        return Artifact(
            name=model.name, file=model.engine.name, kind="engine", sha256=engine.sha256,
            bytes=engine.length, variant=model.variant.name, precision=engine.precision_asked,
            precision_found=dict(engine.proof.layers),
            proof=engine.proof.text(engine.precision_asked), size=engine.size,
            io=engine.model.contract.io, weights_sha256=weights_sha,
        )  # fmt: skip
    if model.onnx is not None and (runtime is None or ".onnx" in runtime.suffixes):
        assert manifest is not None
        found = dict(manifest.precision_found)
        beside = sum(model.onnx.with_name(n).stat().st_size for n in manifest.data_sha256)
        return Artifact(
            name=model.name, file=model.onnx.name, kind="onnx",
            sha256=manifest.sha256 or sha256_of(model.onnx),
            bytes=model.onnx.stat().st_size + beside, variant=model.variant.name,
            precision=manifest.precision_asked, precision_found=found, proof=_proof(found),
            size=manifest.size, io=manifest.contract.io, weights_sha256=weights_sha,
        )  # fmt: skip
    assert model.weights is not None
    return Artifact(
        name=model.name, file=model.weights.name, kind="weights", sha256=sha256_of(model.weights),
        bytes=model.weights.stat().st_size, variant=model.variant.name, precision="fp32",
        precision_found={}, proof="", size="dynamic", io="fp32", weights_sha256=weights_sha,
    )  # fmt: skip


def _proof(found: dict[str, int]) -> str:
    total = sum(found.values())
    return ", ".join(f"{kind} in {n} of {total} tensors" for kind, n in sorted(found.items()))


def static_of(model: Model, size: Size, why: str) -> Static:
    """What the file of an artifact tells that is not run."""
    from teco.benchmark.measure.roofline import work_of

    artifact = artifact_of(model)
    work = work_of(model, artifact.precision, size)
    return Static(
        artifact=artifact, size=f"{size[0]}x{size[1]}", macs=work.macs, weights=work.weights,
        activations=work.activations, why=why,
    )  # fmt: skip


def _told_apart(specs: Sequence[str], models: Sequence[Model]) -> list[Model]:
    """Models under different names: files in two folders may share one, or one is given twice.

    Rows, frames and charts are known by the name.
    """
    names = Counter(model.name for model in models)
    given: Counter[str] = Counter()
    found: list[Model] = []
    for spec, model in zip(specs, models, strict=True):
        given[spec] += 1
        name = model.name
        if names[name] > 1:
            name = spec if Path(spec).suffix else name
            name = f"{name} #{given[spec]}" if specs.count(spec) > 1 else name
        found.append(replace(model, name=name))
    return found


def _sharing(candidates: Sequence[BenchCandidate]) -> list[BenchCandidate]:
    """The same, those of one graph marked to share the speed of the first of them."""
    first: dict[Any, str] = {}
    found: list[BenchCandidate] = []
    for one in candidates:
        known = first.setdefault(_graph(one), one.key)
        found.append(one if known == one.key else replace(one, same_as=known))
    return found


def _graph(one: BenchCandidate) -> tuple[Any, ...]:
    """Equal for two candidates that run the same operations on different numbers."""
    manifest = one.model.manifest
    rewrites = tuple(sorted(manifest.rewrites.items())) if manifest is not None else ()
    artifact = one.artifact
    return (
        one.runtime.name, artifact.kind, artifact.variant, artifact.precision, artifact.size,
        artifact.io, tuple(sorted(artifact.precision_found.items())), rewrites,
    )  # fmt: skip
