"""Reading and writing the record of a benchmark as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from teco.benchmark.record.gate import GateResult
from teco.benchmark.record.record import KIND, SCHEMA, Record
from teco.core.errors import TecoError
from teco.core.files import as_json, write_beside
from teco.core.text import from_json
from teco.measurement.records import Samples
from teco.measurement.statistics import summarise
from teco_calibration.records import from_data, to_data

AGAIN = "measure again with `teco bench --json FILE`"

NAMES_OF_2: Mapping[tuple[str, str], str] = {
    ("rows", "kernel"): "latency",
    ("rows", "pipeline"): "end_to_end",
    ("cold_start", "warm_up"): "pre_roll",
}
"""(name of the part, its field in schema 2) -> the field's name in schema 3."""

MOST_DIGITS = 19
"""Of a whole number, its sign among them: bytes and counts of 64 bits."""


def write(path: Path, record: Record) -> None:
    """Write a record under its final name.

    Raises:
        WriteError: it cannot be written.
    """
    write_beside(path, as_json(to_data(record)))


def read(path: Path) -> Record:
    """Inverse of :func:`write`.

    Raises:
        TecoError: the file cannot be read, is no record or one of another schema version, or its
            figures are not those of its samples.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise TecoError(
            f"{path} cannot be read as a record: {reason}", hint=AGAIN, exit_code=2
        ) from error
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> Record:
    """A record of its JSON; ``source`` names it in messages. Errors as of :func:`read`."""
    try:
        data: Any = from_json(text, parse_int=_whole)
    except ValueError as error:
        raise TecoError(
            f"{source} cannot be read as JSON: {error}", hint=AGAIN, exit_code=2
        ) from error
    fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    if fields.get("kind") != KIND:
        raise TecoError(f"{source} is no record of teco bench", hint=AGAIN, exit_code=2)
    if fields.get("schema") not in (2, SCHEMA):
        raise TecoError(
            f"{source} is a record of schema {fields.get('schema')!r}, this teco reads {SCHEMA} "
            "and 2",
            hint="measure it again with this teco, or read it with the teco that made it",
            exit_code=2,
        )
    try:
        if fields["schema"] == 2:
            fields = {**upgrade(fields), "schema": SCHEMA}
        record = from_data(Record, fields, "record")
        check(record)
    except (ValueError, RecursionError) as error:
        raise TecoError(
            f"{source} is no complete record: {error}", hint=AGAIN, exit_code=2
        ) from error
    return record


def upgrade(data: Any, under: str = "") -> Any:
    """A record of schema 2, as read from JSON, with the names of schema 3.

    Args:
        data: the record, or a part of it.
        under: the name that the part has.
    """
    if isinstance(data, list):
        return [upgrade(item, under) for item in cast("list[Any]", data)]
    if isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        return {NAMES_OF_2.get((under, k), k): upgrade(v, k) for k, v in fields.items()}
    return data


def _whole(text: str) -> int:
    """A whole number that arithmetic with floats can take; no figure of a record is larger."""
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has a whole number of {len(text)} digits")
    return int(text)


def check(record: Record) -> None:
    """Raise ValueError where a record contradicts itself."""
    keys = [row.key for row in record.rows]
    if len(set(keys)) != len(keys):
        raise ValueError("two rows have the same key")
    if record.complete and record.stopped:
        raise ValueError(f"it is complete and was stopped: {record.stopped!r}")
    for n, verdict in enumerate(record.gate):
        try:
            GateResult.from_dict(verdict)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"record.gate[{n}] is no verdict of the gate: {error}") from error
    for row in record.rows:
        if row.latency is not None:
            _check_samples(row.latency.host, f"{row.key}: latency.host")
            if row.latency.device is not None:
                _check_samples(row.latency.device, f"{row.key}: latency.device")
        if row.end_to_end is not None:
            _check_samples(row.end_to_end.gaps, f"{row.key}: end_to_end.gaps")
        if (roofline := row.roofline) is not None:
            for index in (roofline.gemm, roofline.copy):
                if not 0 <= index < len(record.ceilings):
                    raise ValueError(
                        f"{row.key}: roofline names ceiling {index}, which is not there"
                    )


def _check_samples(samples: Samples, where: str) -> None:
    if not samples.all or not all(samples.blocks) or min(samples.all) < 0:
        raise ValueError(f"{where} has no samples, a block without any, or some below zero")
    found, said = summarise(samples.blocks), samples.summary
    # The interval is drawn at random, from a fixed seed that NumPy may change.
    for name in ("count", "mean", "p50", "p90", "p99", "jitter", "outliers", "fps"):
        a, b = getattr(found, name), getattr(said, name)
        if name == "jitter" and b == 0 and max(map(len, samples.blocks)) == 1:
            continue  # early records have no jitter where every block is a single step
        if abs(a - b) > 1e-6 * max(abs(a), abs(b), 1e-9):
            raise ValueError(f"{where}: {name} is {b:g}, its samples give {a:g}")
