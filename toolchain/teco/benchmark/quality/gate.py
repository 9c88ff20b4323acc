"""The temporal gate on the candidates of a benchmark: how far is each from the float32 step?

What is measured and allowed is :mod:`teco_calibration.temporal_gate.comparison`; which bounds a
candidate is judged by follows from its file's label and, where its runtime lowers the precision by
itself, from that.
"""

from __future__ import annotations

from dataclasses import replace

from teco.benchmark.quality.clip import TruthClip, first_scene
from teco.benchmark.record.gate import GateResult
from teco.core.log import Progress, no_progress
from teco.core.machine import missing_extra
from teco.model.opening import Model, check_frame_size
from teco.runtimes import Runtime, Session, SessionOptions, find
from teco.verification.parity import GATE_SIZE
from teco.verification.reference import reference_session
from teco.verification.temporal_gate import GateClip, bounds_of, default_frames, run_temporal_gate

SCENE_FRAMES = 60
"""Of a clip's first scene, at most: all are kept in memory, and played to and fro."""

REFERENCE = "onnxruntime"
"""Runs the float32 file where there is no PyTorch to run the weights."""


def judge(
    model: Model,
    runtime: Runtime,
    *,
    clip: TruthClip | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> GateResult:
    """Run a candidate and the float32 step of its weights through the gate.

    Args:
        model: an opened model.
        runtime: that can run it.
        clip: with its truth, of which the first scene is taken; None for moving test frames, of
            the size of a static file or of :data:`teco.verification.parity.GATE_SIZE`.
        threads: of both.
        progress: told the recurrent frames that are done and how many there will be.

    Raises:
        TecoError, ClipError: a session failed, or the clip cannot be used.
    """
    precision, io = "fp32", "fp32"
    if model.manifest is not None:
        precision, io = model.manifest.precision_asked, model.manifest.contract.io
    bounds, note = bounds_of(precision, io, on_truth=clip is not None, exact=runtime.exact)
    options = SessionOptions(threads=threads)
    reference = open_reference(model, options)
    if isinstance(reference, str):
        return GateResult(model.name, runtime.name, note=reference)
    try:
        if clip is None:
            size = model.static_size or GATE_SIZE
            scene = GateClip(default_frames(*size, bounds.frames))
        else:
            check_frame_size(model, *clip.size)
            as_trained = replace(clip, degradation=model.variant.degradation)
            frames = min(SCENE_FRAMES, clip.max_frames or SCENE_FRAMES)
            lr, truths = zip(*first_scene(as_trained, frames), strict=True)
            scene = GateClip(lr, truths)
        candidate = runtime.open(model, options)
        try:
            verdict = run_temporal_gate(
                candidate, reference, scene, bounds=bounds,
                progress=progress,
            )  # fmt: skip
        finally:
            candidate.close()
        return GateResult(model.name, runtime.name, reference.runtime, verdict, note)
    finally:
        reference.close()


def open_reference(model: Model, options: SessionOptions) -> Session | str:
    """The float32 step of a model's weights, or a sentence on why there is none to run.

    PyTorch runs the weights. Without it ONNX Runtime runs the shipped float32 file of the same
    weights.
    """
    from teco.model.opening import open_model
    from teco_models import zoo

    weights, manifest = model.weights, model.manifest
    shipped = None
    if weights is None and manifest is not None:
        for entry in zoo.entries():
            found = open_model(entry.name)
            assert found.manifest is not None
            if found.manifest.weights_sha256 == manifest.weights_sha256:
                shipped, weights = found, found.weights
    elif manifest is not None and manifest.precision_asked == "fp32":
        shipped = model
    if weights is None:
        return f"{model.name} is made of weights that are not shipped, so nothing tells its float32"
    if missing_extra("torch", "torch", "running the float32 PyTorch step") is None:
        from teco_models.checkpoint import load_weights

        return reference_session(load_weights(weights))
    if shipped is None:
        return f"the float32 step of {model.name} needs PyTorch: pip install 'teco[torch]'"
    return find(REFERENCE).open(shipped, options)
