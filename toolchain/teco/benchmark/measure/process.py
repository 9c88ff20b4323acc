"""The other end of a worker process (:mod:`teco.benchmark.measure.worker`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Any

from teco.core.errors import TecoError
from teco.measurement.interleaving import Block

LEAVE = 10.0
"""Seconds that a worker gets to close its model before it is ended."""


class WorkerError(TecoError):
    """A candidate failed in its own process, with this message and hint."""


class WorkerProcess:
    """A worker; its requests are methods.

    Args:
        what: names the candidate in messages.
        threads: that it may use; also told to libraries which only read the environment.
    """

    def __init__(self, what: str, threads: int) -> None:
        self.what = what
        # A pipe that nobody reads would fill up and block.
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "teco.benchmark.measure.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment,
            text=True, encoding="utf-8",
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: it could not do it, or is no more.
        """
        self.send(do, **fields)
        return self.receive()

    def send(self, do: str, **fields: Any) -> None:
        """A request whose answer is fetched later."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._gone() from error

    def receive(self) -> dict[str, Any]:
        """The answer to the oldest request that has none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._gone()
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise WorkerError(found["error"], hint=found["hint"], exit_code=int(found["exit_code"]))
        return found

    def steps(self, count: int) -> Block:
        """See :class:`teco.measurement.interleaving.Stepper`."""
        found = self.ask("steps", count=count)
        return Block(tuple(found["host"]), tuple(found["device"]))

    def close(self) -> None:
        """Let it close its model and leave; end it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # what was still to be written has no reader any more
            self._process.stdin.close()
        try:
            self._process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _gone(self) -> WorkerError:
        code = self._process.wait()
        self._said.seek(0)
        told = self._said.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        hint = told[-1][:300] if told else ""
        if code == -9:
            hint = "the system may have been out of memory; give fewer candidates at once"
        return WorkerError(f"the process of {self.what} ended with {how}", hint=hint)
