"""A step in ONNX Runtime from memory, with its own output as its past, that shows its insides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from teco.core.pixels import Array, Pixels, to_tensor
from teco.model.contract import StreamContract
from teco.runtimes.base import SessionOptions
from teco.runtimes.ports import from_port, to_port, zeros

if TYPE_CHECKING:
    from onnx import ModelProto


class OnnxRollout:
    """:class:`teco_calibration.int8_ranges.Rollout` of a model that is in no file yet.

    Args:
        model: ONNX step.
        contract: how it is driven.
        shown: name to show -> tensor of the graph, an input or a node's output.
    """

    def __init__(
        self, model: ModelProto, contract: StreamContract, shown: Mapping[str, str] | None = None
    ) -> None:
        import onnx
        import onnxruntime as ort

        self._contract = contract
        self._shown = dict(shown or {})
        given = {x.name for x in model.graph.input}
        extra = sorted(set(self._shown.values()) - given - set(contract.outputs))
        if extra:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
            model = copy
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = SessionOptions().thread_count
        settings.log_severity_level = 3
        self._session: Any = ort.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self._fetched = [*contract.outputs, *extra]
        self._state: dict[str, NDArray[Any]] | None = None
        self.hr: Array = np.zeros((1, 3, 0, 0), np.float32)
        """The last HR frame, (1, 3, 4h, 4w), not clipped where ports are float."""

    def reset(self) -> None:
        self._state = None

    def step(self, lr: Pixels) -> dict[str, NDArray[np.float32]]:
        """The next frame, uint8 (h, w, 3); what was asked to be shown of it."""
        contract = self._contract
        frame = to_port(contract, to_tensor(lr))
        state = self._state or zeros(contract, *lr.shape[:2])
        feeds = {contract.frame: frame, **state}
        fetched = dict(zip(self._fetched, self._session.run(self._fetched, feeds), strict=True))
        self.hr = from_port(contract, fetched[contract.picture])
        if contract.check and not np.isfinite(fetched[contract.check]).all():
            self.hr = np.full_like(self.hr, np.nan)  # as floats would show it
        values = {**feeds, **fetched}
        self._state = {s.input: values[s.source] for s in contract.states}
        return {name: np.asarray(values[t], np.float32) for name, t in self._shown.items()}

    def hr_frames(self, frames: Sequence[Pixels]) -> list[Array]:
        """The HR frames of a scene from a cold start."""
        self.reset()
        found: list[Array] = []
        for lr in frames:
            self.step(lr)
            found.append(self.hr)
        return found
