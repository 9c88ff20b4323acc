"""The temporal gate on the scenes of a calibration, for a graph that is in no file yet."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from teco.core.log import Progress, no_progress
from teco.core.pixels import Array, Pixels, to_tensor
from teco.model.opening import Model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import Session
from teco.verification.temporal_gate import GateClip, run_temporal_gate
from teco_calibration.temporal_gate.verdict import Bounds, Verdict

if TYPE_CHECKING:
    from onnx import ModelProto


class SceneGate:
    """Runs the gate on every scene.

    Args:
        about: name, variant and, in the manifest, how the step is driven.
        reference: the float32 step.
        scenes: to judge on.
        bounds: what is allowed.
        target: runtime the file is for; the gate runs there if it can, else on ONNX Runtime.

    Attributes:
        runtime: on which it runs.
    """

    def __init__(
        self,
        about: Model,
        reference: Session,
        scenes: Sequence[GateClip],
        bounds: Bounds,
        target: str,
    ) -> None:
        has_openvino = target == "openvino" and find("openvino").why_unavailable() is None
        self.runtime = "openvino" if has_openvino else "onnxruntime"
        self._about = about
        self._reference = reference
        self._scenes = scenes
        self._bounds = bounds

    def judge(self, graph: ModelProto, progress: Progress = no_progress) -> Verdict:
        """The first refusal, or the verdict of the scene where most was lost.

        Args:
            graph: to judge.
            progress: told the frames of all scenes that are done.
        """
        verdicts: list[Verdict] = []
        each = self._bounds.frames
        total = each * len(self._scenes)
        with self._session(graph) as session:
            for n, scene in enumerate(self._scenes):
                verdict = run_temporal_gate(
                    session,
                    self._reference,
                    scene,
                    bounds=self._bounds,
                    progress=lambda done, _, before=n * each: progress(before + done, total),
                )
                if not verdict.accepted:
                    return verdict
                verdicts.append(verdict)
        return max(verdicts, key=_lost)

    def hr_frames(self, graph: ModelProto, scenes: Sequence[Sequence[Pixels]]) -> list[list[Array]]:
        """What a graph makes of scenes, each from a cold start."""
        found: list[list[Array]] = []
        with self._session(graph) as session:
            for frames in scenes:
                state, made = None, list[Array]()
                for frame in frames:
                    hr, state = session.step(to_tensor(frame), state)
                    made.append(hr.copy())  # sessions write their memory again
                found.append(made)
        return found

    @contextmanager
    def _session(self, graph: ModelProto) -> Generator[Session]:
        with TemporaryDirectory(prefix="teco-int8-") as folder:
            path = Path(folder) / "step.onnx"
            path.write_bytes(graph.SerializeToString())
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
