"""Figures of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from teco.training.loop import Progress

EVERY = 20
"""Iterations between points of a loss; each validation is a point."""


class Board:
    """Writes a run's figures; steps of each stage count from its own start.

    Args:
        folder: where event files go.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def add(self, progress: Progress) -> None:
        """One iteration."""
        if progress.iteration % EVERY == 0:
            for name, value in progress.losses.items():
                self._writer.add_scalar(f"{progress.stage}/loss/{name}", value, progress.iteration)
        if progress.validation:
            for name, value in progress.validation.as_dict().items():
                self._writer.add_scalar(f"{progress.stage}/{name}", value, progress.iteration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
