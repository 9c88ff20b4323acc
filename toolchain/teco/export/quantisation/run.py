"""A float32 graph to one in eight-bit integers that has passed the temporal gate.

    ranges from a rollout -> each layer tried alone -> the worst stay in float -> the gate

Everything is measured on a small form of the same network (the twin), because hundreds of steps are
run; the integers and scales found there are put into the graph that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from teco.core.errors import TecoError
from teco.core.pixels import Array, Pixels, to_tensor
from teco.export.quantisation.clips import CalibrationSet, Material, material
from teco.export.quantisation.qdq import insert, learned, same_integers
from teco.export.quantisation.rollout import OnnxRollout
from teco.export.quantisation.sensitivity import Probe, alone, keep_in_float
from teco.model.engine.precision import LEAST_SHARE
from teco.model.int8 import Int8, Kept
from teco.model.opening import Model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import Session
from teco.verification.temporal_gate import GateClip, gate_model, lossy_bounds
from teco_calibration.int8_ranges import RANGES, observe
from teco_calibration.temporal_gate.verdict import Bounds, Verdict

if TYPE_CHECKING:
    from onnx import ModelProto

PROBE_FRAMES = 8
"""Recurrent frames of all scenes together on which a layer is tried."""

PROBE_SCENES = 3
"""Scenes of which they are taken."""

HEADROOM = 0.5
"""Share of the allowed loss of PSNR that the layers in int8 may take on those few frames; the gate
runs many times as many, over which errors feed on themselves."""

MOST_GATES = 4
"""After so many refusals, each with fewer layers in int8, none is expected to pass."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What came out.

    Attributes:
        model: the graph in int8.
        record: how, without timings.
        verdict: of the gate; of several scenes the one where most was lost.
    """

    model: ModelProto
    record: Int8
    verdict: Verdict


class QuantisationError(TecoError):
    """No choice of layers in int8 passes the gate."""


def quantise(
    model: ModelProto,
    trace: Callable[[tuple[int, int]], ModelProto],
    about: Model,
    reference: Session,
    calibration: CalibrationSet,
    *,
    target: str = "onnxruntime",
    say: Callable[[str], None] = lambda _: None,
) -> Quantised:
    """Choose ranges and layers, and judge.

    Args:
        model: float32 deploy form; not changed.
        trace: the same form for frames of another size.
        about: name, variant and, in the manifest, how the step is driven.
        reference: the float32 step, for the gate.
        calibration: clips and ranges.
        target: runtime the file is for; the gate runs there if it can, else on ONNX Runtime.
        say: told what is being done.

    Raises:
        QuantisationError: fewer layers than :data:`teco.model.engine.precision.LEAST_SHARE` of the
            convolutions bear int8.
        TecoError, ClipError, ModelError: a clip cannot be used, or a runtime failed.
    """
    stuff = material(calibration.clips, about.variant.degradation)
    size = f"{stuff.size[0]}x{stuff.size[1]}"
    clips = ", ".join(stuff.names) or "moving test frames, because no clip was named"
    say(f"ranges ({calibration.range}) from {clips}, at {size}")
    twin = trace(stuff.size)
    assert about.manifest is not None
    contract = about.manifest.contract
    shown = {weight: node.input[0] for weight, node in learned(twin).items()}
    if shown.keys() != learned(model).keys():
        raise TecoError("the same network traced at two sizes has not the same convolutions")
    seen = observe(OnnxRollout(twin, contract, shown), (s.frames for s in stuff.scenes))
    thresholds = {name: RANGES[calibration.range].threshold(seen[name]) for name in shown}
    few = stuff.scenes[:PROBE_SCENES]
    frames = [s.frames[: PROBE_FRAMES // len(few)] for s in few]
    bounds, note = lossy_bounds(few[0].truth is not None)
    judge = _GateRun(about, reference, stuff, bounds, target)
    steps = OnnxRollout(twin, contract)
    probe = Probe(
        model=twin,
        contract=contract,
        thresholds=thresholds,
        scenes=frames,
        pictures=[steps.pictures(scene) for scene in frames],
        run=judge.pictures,
    )
    if note:
        say(f"note: {note}")
    room = _Room.of(probe, few, bounds)
    total = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    least = max(1, LEAST_SHARE["int8"] * total)
    costs: dict[str, float] = {}

    def refine(allowed: float, first: int = 0) -> dict[str, float]:
        """Layers to keep in float; what each costs is measured when it is first asked."""
        if not costs:
            say(f"trying {len(shown)} convolutions alone over {sum(map(len, frames))} frames")
            costs.update(alone(probe))
        count = keep_in_float(costs, allowed, probe.error, first)
        return dict(list(costs.items())[:count])

    # Mostly all bear it together, and then none has to be tried alone.
    allowed = HEADROOM * room.allowed
    found = probe.error(set())
    kept = refine(allowed) if found > allowed else {}
    reasons: tuple[str, ...] = ()
    for _ in range(MOST_GATES):
        if len(shown) - len(kept) < least:
            break
        stay = f"{len(kept)} stay in float: {', '.join(kept)}" if kept else "none stays in float"
        say(f"{len(shown) - len(kept)} of {len(shown)} learned convolutions in int8; {stay}")
        small = insert(twin, thresholds, set(kept))
        say(f"the gate's {bounds.frames} frames and scene cuts at {size} on {judge.runtime}")
        verdict = judge(small)
        if verdict.accepted:
            whole = insert(model, thresholds, set(kept))
            if not same_integers(small, whole):
                raise TecoError("the file that was judged has other integers than the one kept")
            record = Int8(
                clips=stuff.names,
                range=calibration.range,
                frames=sum(len(s.frames) for s in stuff.scenes),
                size=size,
                on_truth=room.truth is not None,
                judged_on=judge.runtime,
                kept=tuple(Kept(layer=n, loss=room.loss(c)) for n, c in kept.items()),
            )
            return Quantised(model=whole, record=record, verdict=verdict)
        reasons = verdict.reasons
        say(f"refused: {'; '.join(reasons)}")
        # Half the error next time, and one layer less at least.
        kept = refine(probe.error(set(kept)) / 2, len(kept) + 1)
    worst = ", ".join(f"{name} ({room.loss(cost):g})" for name, cost in list(costs.items())[:3])
    raise QuantisationError(
        f"{about.name} in int8 is not close enough to float32: "
        f"{'; '.join(reasons) or f'{len(shown) - len(kept)} of {total} convolutions bear it'}; "
        f"no file was written ({room.unit} lost by single layers: {worst})",
        hint="give clips like what it is for with --calibrate, another --range, or take --fp16",
    )


@dataclass(frozen=True)
class _Room:
    """What may be lost.

    Attributes:
        allowed: mean squared error against the reference, pictures in [0, 1].
        truth: mean squared error of the reference on the truth; None without one.
    """

    allowed: float
    truth: float | None

    @classmethod
    def of(cls, probe: Probe, scenes: tuple[GateClip, ...], bounds: Bounds) -> _Room:
        if bounds.psnr_loss is None:
            assert bounds.worst_psnr is not None
            return cls(10 ** (-bounds.worst_psnr / 10), None)
        errors: list[float] = []
        for scene, pictures in zip(scenes, probe.pictures, strict=True):
            assert scene.truth is not None
            for found, truth in zip(pictures, scene.truth, strict=False):
                clipped = found[0].clip(0, 1).transpose(1, 2, 0)
                errors.append(float(np.mean((clipped - truth / np.float32(255)) ** 2)))
        base = max(float(np.mean(errors)), 1e-10)
        return cls(base * (10 ** (bounds.psnr_loss / 10) - 1), base)

    @property
    def unit(self) -> str:
        return "share of what is allowed" if self.truth is None else "dB"

    def loss(self, error: float) -> float:
        """What a squared error costs: dB on the truth if it is independent of the reference's own
        error, else its share of what is allowed. Three digits."""
        value = error / self.allowed
        if self.truth is not None:
            value = 10 * float(np.log10(1 + error / self.truth))
        return float(f"{min(value, 1e9):.3g}")


class _GateRun:
    """The gate on every scene."""

    def __init__(
        self,
        about: Model,
        reference: Session,
        stuff: Material,
        bounds: Bounds,
        target: str,
    ) -> None:
        able = target == "openvino" and find("openvino").why_unavailable() is None
        self.runtime = "openvino" if able else "onnxruntime"
        self._about = about
        self._reference = reference
        self._scenes = stuff.scenes
        self._bounds = bounds

    def __call__(self, twin: ModelProto) -> Verdict:
        """The first refusal, or the verdict of the scene where most was lost."""
        verdicts: list[Verdict] = []
        with self._session(twin) as session:
            for scene in self._scenes:
                verdicts.append(gate_model(session, self._reference, scene, bounds=self._bounds))
                if not verdicts[-1].accepted:
                    return verdicts[-1]
        return max(verdicts, key=_lost)

    def pictures(self, model: ModelProto, scenes: Sequence[Sequence[Pixels]]) -> list[list[Array]]:
        """What a model makes of scenes, each from a cold start."""
        found: list[list[Array]] = []
        with self._session(model) as session:
            for frames in scenes:
                state, pictures = None, list[Array]()
                for frame in frames:
                    picture, state = session.step(to_tensor(frame), state)
                    pictures.append(picture.copy())  # sessions write their memory again
                found.append(pictures)
        return found

    @contextmanager
    def _session(self, model: ModelProto) -> Generator[Session]:
        with TemporaryDirectory(prefix="teco-int8-") as folder:
            path = Path(folder) / "step.onnx"
            path.write_bytes(model.SerializeToString())
            session = find(self.runtime).open(replace(self._about, onnx=path), SessionOptions())
            try:
                yield session
            finally:
                session.close()


def _lost(verdict: Verdict) -> float:
    score, worst = verdict.numbers.psnr_y, verdict.numbers.worst_psnr
    if score is not None:
        return score.loss
    return -(float("inf") if worst is None else worst)
