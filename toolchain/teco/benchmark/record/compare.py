"""Two records side by side: which is faster, by how much, how sure, and what else differs.

Blocks of two runs have nothing in common, so each run's are resampled independently. A difference
has to be larger than within one run, since what changes from one run to the next shows in neither's
samples: than :data:`teco.measurement.statistics.SMALLEST_ACROSS`, and than the noise of both runs.
Where the machines differ the ratio is still told, and beside it that it compares machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from teco.benchmark.record.record import Record, Row
from teco.measurement.records import Ratio
from teco.measurement.statistics import ratio_across

RELATIVE = 0.05
"""Change of memory below which it is not mentioned: page caches alone make that."""


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both records.

    Attributes:
        what: names it.
        before, after: as text.
        incomparable: whether it alone could explain a ratio.
    """

    what: str
    before: str
    after: str
    incomparable: bool


@dataclass(frozen=True)
class Pair:
    """A row that both records have.

    Attributes:
        key: of the row in the second record.
        ratio: of the latencies, after against before; None where one was not timed.
        by: "device" where both have the GPU's own times, else "host".
        before_ms, after_ms: medians; None where not timed.
        same_file: whether the artifact is the same, byte for byte.
        changes: what else changed, in sentences.
    """

    key: str
    ratio: Ratio | None
    by: str
    before_ms: float | None
    after_ms: float | None
    same_file: bool
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two records compared.

    Attributes:
        pairs: rows that both have.
        only_before, only_after: keys of the others.
        differences: between machines, versions and conditions.
    """

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def incomparable(self) -> tuple[Difference, ...]:
        """What could explain a ratio without any change of the model or of teco."""
        return tuple(d for d in self.differences if d.incomparable)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": "teco compare", "schema": 1, **asdict(self)}


def compare(before: Record, after: Record) -> Comparison:
    """Compare what both have: rows of the same model on the same runtime at the same size."""
    noise = max((n.share for r in (before, after) for n in r.noise), default=0.0)
    old = {_identity(row): row for row in before.rows}
    new = {_identity(row): row for row in after.rows}
    pairs = tuple(_pair(old[k], new[k], noise, before, after) for k in new if k in old)
    return Comparison(
        pairs=pairs,
        only_before=tuple(row.key for k, row in old.items() if k not in new),
        only_after=tuple(row.key for k, row in new.items() if k not in old),
        differences=tuple(_differences(before, after)),
    )


def _identity(row: Row) -> tuple[str, ...]:
    return row.key, row.runtime, row.size


def _pair(old: Row, new: Row, noise: float, before: Record, after: Record) -> Pair:
    ratio: Ratio | None = None
    medians: tuple[float | None, float | None] = (None, None)
    by = "host"
    if old.latency is not None and new.latency is not None:
        a, b = old.latency.host, new.latency.host
        if old.latency.device is not None and new.latency.device is not None:
            a, b, by = old.latency.device, new.latency.device, "device"
        medians = a.summary.p50, b.summary.p50
        ratio = ratio_across(new.key, old.key, b, a, noise)
    return Pair(
        key=new.key, ratio=ratio, by=by, before_ms=medians[0], after_ms=medians[1],
        same_file=old.artifact.sha256 == new.artifact.sha256,
        changes=tuple(_changes(old, new, before, after)),
    )  # fmt: skip


def _changes(old: Row, new: Row, before: Record, after: Record) -> Iterator[str]:
    if old.artifact.sha256 != new.artifact.sha256:
        yield f"the file changed ({old.artifact.sha256[:8]} to {new.artifact.sha256[:8]})"
    if old.artifact.precision_found != new.artifact.precision_found:
        yield f"precision: {old.artifact.proof or '-'} to {new.artifact.proof or '-'}"
    if old.memory is not None and new.memory is not None:
        for name, word in (("peak", "peak memory"), ("device", "memory of the GPU")):
            a, b = getattr(old.memory, name), getattr(new.memory, name)
            if a and b and abs(b / a - 1) > RELATIVE:
                yield f"{word}: {a / 2**20:.0f} to {b / 2**20:.0f} MiB ({b / a - 1:+.0%})"
    if old.quality is None or new.quality is None:
        return
    if before.clip != after.clip:
        yield "quality was measured on different clips and is not compared"
        return
    for metric, a in old.quality.means.items():
        b = new.quality.means.get(metric)
        if a is not None and b is not None and f"{a:.3f}" != f"{b:.3f}":
            yield f"{metric}: {a:.3f} to {b:.3f}"


def _differences(before: Record, after: Record) -> Iterator[Difference]:
    m, n = before.machine, after.machine
    for name in ("cpu", "cores", "cpu_flags", "gpus", "memory_gib", "os", "python"):
        a, b = _text(getattr(m, name)), _text(getattr(n, name))
        if a != b:
            yield Difference(name, a, b, name in ("cpu", "cores", "cpu_flags", "gpus"))
    for package in sorted({*m.packages, *n.packages}):
        a, b = m.packages.get(package, "-"), n.packages.get(package, "-")
        if a != b:
            # A package that ran a row is what a comparison may be about; it is told, not refused.
            yield Difference(package, a, b, False)
    c, d = before.conditions, after.conditions
    for name in ("threads", "affinity", "governor"):
        a, b = _text(getattr(c, name)), _text(getattr(d, name))
        if a != b:
            yield Difference(name, a, b, name != "affinity")
    for record, side in ((before, "before"), (after, "after")):
        hard = [w.text for w in record.warnings if w.code in ("busy", "throttled")]
        if hard:
            told = ("; ".join(hard), "-") if side == "before" else ("-", "; ".join(hard))
            yield Difference("a disturbed run", *told, True)
        if not record.complete:
            told = (record.stopped, "-") if side == "before" else ("-", record.stopped)
            yield Difference("an incomplete run", *told, False)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
