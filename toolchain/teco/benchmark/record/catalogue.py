"""The catalogue: records of many machines, each of which its owner has measured and sent in.

``python -m teco.benchmark.record.catalogue [FILE...]`` says of each record whether it may go in,
and why not; without a file it checks the whole folder ``catalogue`` beside this one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from teco.benchmark.record.record import Record
from teco.benchmark.record.store import read
from teco.core.errors import TecoError
from teco.model.opening import open_model
from teco_models import zoo

FOLDER = Path(__file__).with_name("catalogue")

FEWEST = 10
"""Samples of each row."""


def name_of(record: Record) -> str:
    """The file name that a record has in the catalogue: its processor, GPU and size."""
    words = [record.machine.cpu, *(gpu.split(",")[0] for gpu in record.machine.gpus[:1])]
    words.append(record.rows[0].size if record.rows else "")
    text = " ".join(words).lower().replace("(r)", "").replace("(tm)", "")
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-") + ".json"


def complaints(path: Path) -> tuple[str, ...]:
    """Why a record may not go in; () when it may."""
    try:
        record = read(path)
    except TecoError as error:
        return (error.message,)
    return tuple(_complaints(path, record))


def _complaints(path: Path, record: Record) -> Iterator[str]:
    if path.name != name_of(record):
        yield f"it should be called {name_of(record)}"
    if not record.complete:
        yield f"it is not complete: {record.stopped}"
    for warning in record.warnings:
        if warning.code in ("busy", "throttled"):
            yield warning.text
    if re.search(r"(^|[\s=])[~/]|[A-Za-z]:\\", record.command):
        yield "its command names a path of the machine it was made on; run it from the clone"
    if not record.noise:
        yield "it has no noise floor"
    timed = [row for row in record.rows if row.kernel is not None]
    if not timed:
        yield "it has no row that was timed"
    shipped = {entry.name for entry in zoo.entries()}
    for row in record.rows:
        if row.artifact.name not in shipped:
            yield f"{row.key}: only shipped models can be compared by others"
            continue
        model = open_model(row.artifact.name)
        if (
            row.artifact.kind == "onnx"
            and model.manifest is not None
            and row.artifact.sha256 != model.manifest.sha256
        ):
            yield f"{row.key}: the file is not the one that this teco ships; measure it again"
        if row.kernel is not None and row.kernel.host.summary.count < FEWEST:
            yield f"{row.key}: {row.kernel.host.summary.count} samples, expected {FEWEST} or more"


def main(arguments: list[str]) -> int:
    """Exit code: 0 all may go in, 1 some may not."""
    paths = [Path(a) for a in arguments] or sorted(FOLDER.glob("*.json"))
    bad = 0
    for path in paths:
        found = complaints(path)
        bad += bool(found)
        print(f"{path}: {'welcome' if not found else ''}".rstrip())
        for line in found:
            print(f"  {line}")
    if not paths:
        print(f"{FOLDER} holds no record yet")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
