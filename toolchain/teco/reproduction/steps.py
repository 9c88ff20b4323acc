"""A chain of ``teco`` commands that goes on where it stopped.

Every step is a command that a user could type, and names what it makes. A journal beside the
results holds which command began each step, from which files, and what came out; a step is skipped
where what it makes is there, whole and by the same command. What is there and, by the journal, came
about otherwise is neither used nor replaced: that is refused, with the words that help. Of a step
that began and has no end in the journal, as a crash leaves it, whatever is there counts as its own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

from teco.core.errors import FAILED, MACHINE, USAGE, Interrupted, TecoError
from teco.core.files import as_json, lock_file, sha256_of, unlock, write_beside

TECO = (sys.executable, "-m", "teco")

_INSTALLED = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a chain.

    Attributes:
        name: unique in the chain.
        command: arguments of ``teco`` that decide what comes out.
        makes: files that are there when the step is done, each written beside and renamed; none
            for a step that is taken every time.
        needs: files of earlier steps that it reads.
        machine: further arguments, which decide where and how fast it runs and no more.
        iterations: stage of the training -> how many, for an estimate of its time.
    """

    name: str
    command: tuple[str, ...]
    makes: tuple[Path, ...] = ()
    needs: tuple[Path, ...] = ()
    machine: tuple[str, ...] = ()
    iterations: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def arguments(self) -> tuple[str, ...]:
        """What ``teco`` is given."""
        return (*self.command, *self.machine)

    @property
    def text(self) -> str:
        """The command as one types it."""
        return "teco " + shlex.join(self.arguments)


class Journal:
    """Which command made what, kept in one JSON file.

    Args:
        path: of the file; it need not be there yet.

    Raises:
        TecoError: it is there and no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Take what the file says now; see the class for what it raises."""
        try:
            self._steps = _entries(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._steps = {}
        except (OSError, ValueError) as error:
            raise TecoError(
                f"{self.path} is no journal of steps: {getattr(error, 'strerror', None) or error}",
                hint="move it away with what lies beside it, or give another --out",
                exit_code=USAGE,
            ) from error

    def is_done(self, step: Step) -> bool:
        """Whether what a step makes is there, whole, and came about by the same command.

        Raises:
            TecoError: some of it is there, and came about otherwise or was altered since.
        """
        made = _digests([path for path in step.makes if path.exists()])
        if not made:
            return False
        known = self._steps.get(step.name)
        if known is None:
            why = "no step here made it"
        elif _portable(known["command"]) != _portable(step.command):
            why = f"another command made it: teco {shlex.join(known['command'])}"
        elif known["needs"] != _digests(step.needs):
            why = "it was made from other files than those that are there now"
        elif not made.items() <= known.get("makes", made).items():
            why = "it was altered since"
        else:
            return len(made) == len(step.makes)
        raise TecoError(
            f"step {step.name} would make {', '.join(made)}, which is there, and {why}",
            hint="move it away to have it made again, or give another --out",
            exit_code=USAGE,
        )

    def begin(self, step: Step) -> None:
        """Note the command before it runs: what it is about to leave behind is then known."""
        needs = _digests(step.needs)
        self._steps[step.name] = {"command": _portable(step.command), "needs": needs}
        self._write()

    def end(self, step: Step) -> None:
        """Note what it made."""
        self._steps[step.name]["makes"] = _digests(step.makes)
        self._write()

    def _write(self) -> None:
        write_beside(self.path, as_json({"kind": "teco steps", "schema": 1, "steps": self._steps}))


def _entries(journal: Any) -> dict[str, dict[str, Any]]:
    """The steps of a journal as read; ValueError where they are none."""
    steps: Any = journal.get("steps") if isinstance(journal, dict) else None
    if not isinstance(steps, dict):
        raise ValueError("it holds no steps")
    for name, entry in cast("dict[str, Any]", steps).items():
        known: dict[str, Any] = entry if isinstance(entry, dict) else {}
        command: Any = known.get("command")
        digests = (known.get("needs"), known.get("makes", {}))
        if not (
            isinstance(command, list)
            and all(isinstance(word, str) for word in cast("list[Any]", command))
            and all(isinstance(one, dict) for one in digests)
        ):
            raise ValueError(f"what it says of step {name} is damaged")
    return steps


def _portable(command: Sequence[str]) -> list[str]:
    """The same words wherever teco is installed, of which the clip is that it ships."""
    return [
        "{teco}/" + word.removeprefix(_INSTALLED) if word.startswith(_INSTALLED) else word
        for word in command
    ]


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    return {str(path): sha256_of(path) if path.exists() else "absent" for path in paths}


def run_steps(
    steps: Sequence[Step],
    journal: Journal,
    tell: Callable[[str], None],
    program: Sequence[str] = TECO,
) -> None:
    """Take the steps that are not done, in order, each in a process of its own.

    Ctrl-C is the step's too, which saves where it stands before it ends; the same steps with the
    same journal go on from there.

    Args:
        steps: in an order in which each finds what it needs.
        journal: of what is done.
        tell: puts a line where the user sees it.
        program: what takes the arguments of the steps.

    Raises:
        TecoError: a step failed, with its exit code, or made nothing; what it makes is there and
            came about otherwise; or another process takes steps in the journal's folder.
        Interrupted: SIGINT or SIGTERM came, and the step has ended.
    """
    folder = journal.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(folder)
    except BlockingIOError as error:
        raise TecoError(
            f"another process takes the steps of {folder}",
            hint="wait for its end, stop it, or give another --out",
            exit_code=USAGE,
        ) from error
    try:
        journal.read()  # another process may have gone on since
        _take(steps, journal, tell, program)
    finally:
        unlock(lock)


def _take(
    steps: Sequence[Step], journal: Journal, tell: Callable[[str], None], program: Sequence[str]
) -> None:
    for place, step in enumerate(steps, start=1):
        head = f"[{place}/{len(steps)}] {step.name}"
        if journal.is_done(step):
            tell(f"{head}: done")
            continue
        tell(f"{head}: {step.text}")
        journal.begin(step)
        code, stopped = _run([*program, *step.arguments])
        if stopped:
            raise Interrupted(
                f"stopped in step {step.name}; what is done has been kept",
                hint="the same command goes on from there",
            )
        if code:
            raise TecoError(
                f"step {step.name} ended with exit code {code}; it says above why",
                hint="the same command goes on from this step",
                exit_code=code if code in (FAILED, USAGE, MACHINE) else FAILED,
            )
        if missing := [path for path in step.makes if not path.exists()]:
            raise TecoError(f"step {step.name} ended well, but did not make {missing[0]}")
        journal.end(step)


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """A step's exit code, and whether SIGINT or SIGTERM came while it ran.

    A terminal's Ctrl-C reaches the step without us, which is waited for; SIGTERM is passed on.
    """
    stopped = False
    process: subprocess.Popen[bytes] | None = None

    def stop(which: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if which == signal.SIGTERM and process is not None:
            process.terminate()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command)
        if stopped:  # while it was being started
            process.terminate()
        return process.wait(), stopped
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
