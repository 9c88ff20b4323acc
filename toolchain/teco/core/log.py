"""What teco says while it works: one logger for each module, and one kind of progress.

Every module that has something to say asks for ``logging.getLogger(__name__)``. A library says
nothing unless its host wants to hear it, so the logger ``teco`` has a handler that drops; the
command line adds one that writes to standard error (:func:`to_stderr`).

INFO is a sentence for the person who typed the command; DEBUG is for whoever looks for a fault and
is shown with ``-v``; WARNING is something that went on with less than was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[int, int | None], None]
"""Told how much of how much is done; None where the whole is not known."""

logging.getLogger("teco").addHandler(logging.NullHandler())


def no_progress(done: int, total: int | None) -> None:
    """A :data:`Progress` for callers that show none."""


ShowProgress = Callable[[str, str], AbstractContextManager[Progress]]
"""Shows how far something is, given its name and its unit."""


def show_no_progress(label: str, unit: str) -> AbstractContextManager[Progress]:
    """A :data:`ShowProgress` for callers that show none."""
    return nullcontext(no_progress)


class _Plain(logging.Formatter):
    """The sentence alone; with the module before it where a fault is looked for."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno >= logging.INFO else f"{record.name}: {text}"


def to_stderr(write: Callable[[str], None], *, verbose: bool) -> None:
    """Let the user hear what teco says; replaces what an earlier call set up.

    Args:
        write: puts a line on standard error, whatever progress bar is drawn there.
        verbose: DEBUG as well.
    """

    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write(self.format(record))

    logger = logging.getLogger("teco")
    for old in [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]:
        logger.removeHandler(old)
    handler = _Handler()
    handler.setFormatter(_Plain())
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
