"""How far a benchmark is, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from teco.benchmark.record.record import Row


class BenchProgress(Protocol):
    """Shows a run while it goes on."""

    def phase(self, what: str) -> None:
        """Another phase begins."""

    def advance(self, what: str, done: int, total: int | None) -> None:
        """So many steps of this work are done."""

    def row(self, row: Row) -> None:
        """A row as far as it is known; the same key comes again when more is."""


class NoBenchProgress:
    """A :class:`BenchProgress` that shows nothing."""

    def phase(self, what: str) -> None: ...

    def advance(self, what: str, done: int, total: int | None) -> None: ...

    def row(self, row: Row) -> None: ...


class Phases:
    """The phase that a run is in, and whether the user has asked it to end.

    Args:
        progress: told of everything.
        keep: called with the name of a phase before it begins.

    Attributes:
        current: name of the phase.
        stopping: end at the next report of progress, when no library is in the middle of anything.
    """

    def __init__(self, progress: BenchProgress, keep: Callable[[str], None]) -> None:
        self.current = ""
        self.stopping = False
        self._progress = progress
        self._keep = keep

    def enter(self, what: str) -> None:
        """Begin a phase.

        Raises:
            KeyboardInterrupt: the run is to end.
        """
        self.current = what
        self._keep(what)
        self._check()
        self._progress.phase(what)

    def advance(self, done: int, total: int | None) -> None:
        """So many steps of the phase are done. Errors as of :meth:`enter`."""
        self.advance_in(self.current, done, total)

    def advance_in(self, what: str, done: int, total: int | None) -> None:
        """So many steps of a part of the phase are done. Errors as of :meth:`enter`."""
        self._check()
        self._progress.advance(what, done, total)

    def _check(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt
