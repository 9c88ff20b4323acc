"""What the page's script draws, worked out here: labels, points, curves, frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teco.benchmark.record.quality import Quality
from teco.benchmark.record.record import Record
from teco.benchmark.report.columns import TableRow
from teco.page.viewer import Pane, Shown, data
from teco_calibration.records import to_data
from teco_models.variant import SCALE


def means_of(e: TableRow) -> dict[str, float | None]:
    return {} if e.quality is None else dict(e.quality.means)


def points_of(record: Record, lines: Sequence[TableRow]) -> list[dict[str, Any]]:
    rows = [e for e in lines if e.row is not None]
    one_model = len({e.model for e in rows}) == 1
    found: list[dict[str, Any]] = []
    for index, e in enumerate(rows):
        assert e.row is not None
        roof = e.row.roofline
        host = e.host
        found.append(
            {
                "index": index,
                "key": e.key,
                "label": f"{e.model} on {e.runtime}",
                "short": e.runtime if one_model else e.model.removeprefix(f"teco-x{SCALE}-"),
                "runtime": e.runtime,
                "own": not e.row.measured_as,
                **{k: host and getattr(host, k) for k in ("p50", "p90", "p99", "low", "high")},
                "quality": means_of(e),
                "roof": None if roof is None else to_data(roof),
            }
        )
    return found


def _distinct(lines: Sequence[TableRow]) -> list[tuple[str, Quality]]:
    """(label, quality) of each run of frames that was measured, once."""
    found: dict[str, Quality] = {}
    for e in lines:
        if e.quality is not None:
            q = e.quality
            found.setdefault(f"{q.method} on {q.measured_on}" if q.measured_on else q.method, q)
    return list(found.items())


def series_of(lines: Sequence[TableRow]) -> list[dict[str, Any]]:
    return [
        {"label": label, "first": q.first, "frames": q.frames, "values": q.values}
        for label, q in _distinct(lines)
    ]


def cold_of(lines: Sequence[TableRow]) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "missing": {
                "psnr": [s - c for s, c in zip(cold.settled_psnr, cold.psnr, strict=True)],
                "lpips": [c - s for s, c in zip(cold.settled_lpips, cold.lpips, strict=True)],
            },
        }
        for label, q in _distinct(lines)
        if (cold := q.cold_start) is not None
    ]


def panes_of(record: Record, shown: Shown, shows: Mapping[str, str]) -> list[Pane]:
    """Left, middle and truth; nothing where no row's frames are shown."""
    runtimes: dict[str, list[str]] = {}
    models: dict[str, str] = {}
    for row in record.rows:
        if (name := shows.get(row.key)) is not None and name in shown.images:
            runtimes.setdefault(name, []).append(row.runtime)
            models[name] = row.artifact.name
    if not runtimes:
        return []
    rows = [(n, f"{models[n]} on {', '.join(some)}") for n, some in runtimes.items()]
    simple = [(q.method, q.method) for q in record.interpolations if q.method in shown.images]
    return [
        Pane("left", [*simple, *rows], "bicubic"),
        Pane("middle", rows),
        Pane("truth", [("truth", "truth")]),
    ]


def view_of(
    record: Record, shown: Shown, shows: Mapping[str, str], panes: Sequence[Pane]
) -> dict[str, Any]:
    """The viewer's pictures, their labels and each shown frame's PSNR."""
    quality: dict[str, Quality] = {q.method: q for q in record.interpolations}
    for row in record.rows:
        if (name := shows.get(row.key)) is not None and row.quality is not None:
            quality[name] = row.quality
    psnr = {name: [_at(q, frame) for frame in shown.frames] for name, q in quality.items()}
    return data(shown, panes, psnr)


def _at(quality: Quality, frame: int) -> float | None:
    """PSNR of a frame of the clip; None where it does not count."""
    values, n = quality.values.get("psnr", ()), frame - quality.first
    return values[n] if 0 <= n < len(values) else None
