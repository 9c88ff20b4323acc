"""What each shipped model takes of memory, for `teco estimate` to be compared with.

    python scripts/measure_memory.py [--models A,B] [--sizes 134x320] [--runtimes A,B] [-o FILE]

Each model, size and runtime runs in a process of its own; a record is written as soon as it is
there, and what the file holds already, of the same versions, is not measured again (--again does).
Memory can be measured on a busy machine; nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from teco.core.errors import TecoError
from teco.core.machine import inspect
from teco.estimates.measure import measure
from teco.estimates.records import FILE, MemoryRecord, read, write
from teco.model.manifest import manifest_path
from teco.runtimes import find
from teco_models import zoo

SIZES = "134x320,180x320,270x480"
RUNTIMES = "onnxruntime,openvino,openvino-bf16"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = [e.name for e in zoo.entries()]
    # Perceptual forms are the same graphs with other numbers.
    plain = [name for name in shipped if not name.endswith("-gan")]
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
    sys.exit(main())
