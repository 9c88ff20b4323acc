"""Figures of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from teco.training.loop import IterationRecord

EVERY = 20
"""Iterations between points of a loss; each validation is a point."""


class Board:
    """Writes a run's figures; steps of each stage count from its own start.

    Args:
        folder: where event files go.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def add(self, done: IterationRecord) -> None:
        """One iteration."""
        if done.iteration % EVERY == 0:
            for name, value in done.losses.items():
                self._writer.add_scalar(f"{done.stage}/loss/{name}", value, done.iteration)
        if done.validation:
            for name, value in done.validation.as_dict().items():
                self._writer.add_scalar(f"{done.stage}/{name}", value, done.iteration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
