"""The players that ``teco play`` drives: which there are, how they are called, what mpv tells."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teco.core.errors import MACHINE, USAGE, TecoError

NAMES = ("mpv", "ffplay")
"""In order of preference: mpv says where it is, so that its pauses are known."""

OSD_MS = 1500
"""How long a line stays on mpv's screen; a new one comes every second."""


@dataclass(frozen=True)
class Program:
    """A player that is installed."""

    name: str
    path: str

    def command(self, title: str, control: Path | None, extra: Sequence[str]) -> list[str]:
        """What to run; it reads NUT from its standard input.

        Args:
            title: of the window.
            control: where mpv listens for commands; None for a player that does not.
            extra: further arguments of the user's.
        """
        if self.name == "mpv":
            listens = [f"--input-ipc-server={control}"] if control else []
            return [
                # Not --really-quiet, which also hides why it ended.
                self.path, "--msg-level=all=error", f"--title={title}", "--demuxer=lavf",
                # It begins when it has a second of both, so that it does not stop at once.
                "--demuxer-lavf-format=nut", "--cache=yes", "--cache-pause-initial=yes",
                "--demuxer-readahead-secs=1", "--rebase-start-time=no", *listens, *extra, "-",
            ]  # fmt: skip
        return [
            self.path, "-loglevel", "error", "-autoexit", "-window_title", title, *extra,
            "-f", "nut", "-i", "pipe:0",
        ]  # fmt: skip


def find_program(name: str | None) -> Program:
    """The player of that name, or the first there is.

    Raises:
        TecoError: no such player is known, or none is installed (exit code 3).
    """
    if name is not None and name not in NAMES:
        raise TecoError(
            f"no player is called {name!r}", hint=f"players: {', '.join(NAMES)}", exit_code=USAGE
        )
    for known in NAMES if name is None else (name,):
        if path := shutil.which(known):
            return Program(known, path)
    wanted = "neither mpv nor ffplay is" if name is None else f"{name} is not"
    raise TecoError(
        f"playing needs a player, and {wanted} installed here",
        hint="apt install mpv, dnf install mpv or brew install mpv; `teco upscale` writes a file",
        exit_code=MACHINE,
    )


class MpvControl:
    """mpv's JSON IPC (its manual, "JSON IPC"): where it is, and lines on its screen.

    Everything here may fail without harm: then nothing is known and nothing is shown.

    Args:
        path: the socket that mpv was told to make.
        clock: seconds, as ``time.perf_counter``.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._path = path
        self._clock = clock
        self._socket: socket.socket | None = None
        self._told: tuple[float, float] | None = None  # (position, when it was told)
        self._idle = True
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="mpv-control", daemon=True)
        self._thread.start()

    def position(self) -> float | None:
        """Seconds from the beginning that are being shown now; None while nothing moves."""
        told = self._told
        if told is None or self._idle:
            return None
        return told[0] + self._clock() - told[1]

    def show(self, text: str) -> None:
        """A line on the screen for a moment."""
        self._send("show-text", text, OSD_MS)

    def close(self) -> None:
        self._closed.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)

    def _send(self, *command: Any) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps({"command": command}).encode() + b"\n")

    def _listen(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            # mpv makes the socket some time after it was started.
            while not self._closed.wait(0.05):
                with contextlib.suppress(OSError):
                    connection.connect(str(self._path))
                    break
            else:
                return
            self._socket = connection
            for number, name in enumerate(("time-pos", "core-idle"), start=1):
                self._send("observe_property", number, name)
            with contextlib.suppress(OSError), connection.makefile("r", errors="replace") as lines:
                for line in lines:
                    self._hear(line)
            self._socket = None

    def _hear(self, line: str) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        if said.get("event") != "property-change":
            return
        value = said.get("data")
        if said.get("name") == "core-idle":
            self._idle = value is not False
        elif isinstance(value, int | float):
            self._told = (float(value), self._clock())
