"""The catalogue: records of many machines, each measured and sent in by its owner.

``teco catalogue check`` says of a record whether it may be added to the folder ``catalogue`` beside
this file, and why not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from teco.benchmark.record.record import Record
from teco.benchmark.record.store import read
from teco.core.errors import TecoError
from teco.model.opening import open_model
from teco_models import zoo

FOLDER = Path(__file__).with_name("catalogue")

FEWEST = 10
"""Samples that each row needs."""


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
    timed = [row for row in record.rows if row.latency is not None]
    if not timed:
        yield "it has no row that was timed"
    shipped = {entry.name for entry in zoo.entries()}
    for row in record.rows:
        if row.artifact.name not in shipped:
            yield f"{row.key}: only shipped models can be compared by others"
            continue
        model = open_model(row.artifact.name)
        forms = (model, *(model.form(target) for target in ("openvino", "web")))
        known = {form.manifest.sha256 for form in forms if form.manifest is not None}
        if row.artifact.kind == "onnx" and row.artifact.sha256 not in known:
            yield f"{row.key}: the file is not the one that this teco ships; measure it again"
        if row.latency is not None and row.latency.host.summary.count < FEWEST:
            yield f"{row.key}: {row.latency.host.summary.count} samples, expected {FEWEST} or more"
