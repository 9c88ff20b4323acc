"""Memory of one model on one runtime, measured in a process of its own.

Run as ``python -m teco.estimates.measure MODEL RUNTIME H W THREADS``; prints one JSON line. What
the interpreter and the runtime's library take by themselves is measured before the model is opened
and not part of :attr:`Grown.peak`.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np

from teco.core.errors import MACHINE, TecoError
from teco.measurement.memory import STEPS, peak_resident_bytes, private_bytes, resident_bytes


@dataclass(frozen=True)
class Grown:
    """By how much a process grew, in bytes.

    Attributes:
        before: resident with the interpreter and the library, the model not yet opened.
        opened: resident growth when the model was open.
        peak: growth of the largest resident size, over opening and the steps.
        private: growth of private memory (anonymous pages) at the end of the steps.
    """

    before: int
    opened: int
    peak: int
    private: int


def measure(
    model: str, runtime: str, size: tuple[int, int], threads: int, *, timeout: float = 900
) -> Grown:
    """Measure in a fresh process.

    Args:
        model: as the user names it.
        runtime: as the user names it.
        size: LR (h, w).
        threads: of the runtime.
        timeout: seconds after which the child is ended.

    Raises:
        TecoError: it cannot be measured here, or the child failed.
    """
    arguments = [model, runtime, *map(str, size), str(threads)]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "teco.estimates.measure", *arguments],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        raise TecoError(f"memory of {model} on {runtime} was not measured: {error}") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TecoError(f"memory of {model} on {runtime} was not measured: {last}")
    return Grown(**json.loads(lines[-1]))


def main(arguments: list[str]) -> None:
    """Body of the child process."""
    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, find

    name, runtime, h, w, threads = arguments
    model = open_model(name)
    # Opening an ONNX file that has no manifest beside it loads ONNX Runtime before this already.
    importlib.import_module(find(runtime).module)
    lr = np.random.default_rng(0).random((1, 3, int(h), int(w)), np.float32)
    before, private_before = resident_bytes(), private_bytes()
    if before is None or private_before is None:
        raise TecoError("this system does not tell a process's memory", exit_code=MACHINE)
    session = find(runtime).open(model, SessionOptions(threads=int(threads)))
    opened = resident_bytes()
    state = None
    for _ in range(STEPS):
        _, state = session.step(lr, state)
    peak, private = peak_resident_bytes(), private_bytes()
    assert opened is not None
    assert peak is not None
    assert private is not None
    grown = Grown(before, opened - before, peak - before, private - private_before)
    print(json.dumps(asdict(grown)))


if __name__ == "__main__":
    main(sys.argv[1:])
