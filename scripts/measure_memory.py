"""What each shipped model takes of memory, for `teco estimate` to be compared with.

    python scripts/measure_memory.py [--models A,B] [--sizes 134x320] [--runtimes A,B] [-o FILE]

Each model, size and runtime runs in a process of its own; a record is written as soon as it is
there, and what the file holds already, of the same versions, is not measured again (--again does).
Memory can be measured on a busy machine; nothing here is timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from teco.core.errors import MACHINE, TecoError
from teco.core.machine import inspect
from teco.estimates.records import FILE, Grown, MemoryRecord, read, write
from teco.measurement.memory import STEPS, peak_resident_bytes, private_bytes, resident_bytes
from teco.model.manifest import manifest_path
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
from teco_models import zoo

SIZES = "134x320,180x320,270x480"
RUNTIMES = "onnxruntime,openvino,openvino-bf16"

CHILD = "--in-this-process"
"""First argument of the process that measures: MODEL RUNTIME H W THREADS follow."""


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
            [sys.executable, __file__, CHILD, *arguments],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        raise TecoError(f"memory of {model} on {runtime} was not measured: {error}") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TecoError(f"memory of {model} on {runtime} was not measured: {last}")
    return Grown(**json.loads(lines[-1]))


def child(arguments: list[str]) -> None:
    """Measure here and print one line of JSON.

    What the interpreter and the runtime's library take by themselves is measured before the model
    is opened and not part of :attr:`teco.estimates.records.Grown.peak`.
    """
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = [e.name for e in zoo.entries()]
    # Perceptual forms are the same graphs with other numbers.
    plain = [name for name in shipped if not name.endswith(("-gan", "-textured"))]
    parser.add_argument("--models", default=",".join(plain))
    parser.add_argument("--sizes", default=SIZES, help="LR HEIGHTxWIDTH, by commas")
    parser.add_argument("--runtimes", default=RUNTIMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    options = parser.parse_args()
    machine = inspect()
    failed = 0
    for size in options.sizes.split(","):
        h, w = (int(x) for x in size.split("x"))
        for model in options.models.split(","):
            entry = zoo.find(model)
            if entry is None:
                parser.error(f"no shipped model is called {model}")
            manifest = json.loads(manifest_path(entry.onnx).read_text())
            for runtime in options.runtimes.split(","):
                package = runtime.split("-")[0]
                version = machine.packages.get(package, "?")
                known = {r.key: r for r in read(options.output)}
                key = (model, runtime, size, str(False))
                if not options.again and key in known and known[key].version == version:
                    continue
                if reason := find(runtime).why_unavailable():
                    print(reason, file=sys.stderr)
                    failed = 1
                    continue
                try:
                    grown = measure(model, runtime, (h, w), options.threads)
                except TecoError as error:
                    print(error.message, file=sys.stderr)
                    failed = 1
                    continue
                record = MemoryRecord(
                    model=model, variant=manifest["variant"],
                    precision="bf16" if runtime.endswith("bf16") else "fp32",
                    form=manifest["rewrites"], static=False, runtime=runtime, version=version,
                    size=size, threads=options.threads, cpu=machine.cpu, grown=grown,
                )  # fmt: skip
                kept = {k: r for k, r in known.items() if r.model in shipped}
                write(tuple((kept | {key: record}).values()), options.output)
                print(f"{model} {runtime} {size}: peak +{grown.peak / 2**20:.0f} MiB, "
                      f"private +{grown.private / 2**20:.0f} MiB", flush=True)  # fmt: skip
    return failed


if __name__ == "__main__":
    sys.exit(child(sys.argv[2:]) if sys.argv[1:2] == [CHILD] else main())
