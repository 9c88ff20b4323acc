"""The report: a record, and frames where there are some, as one HTML file without a network.

What it says stands in the page as text and tables; the script adds charts, sorting and the viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from teco.benchmark.quality.measure import Gallery
from teco.benchmark.record.record import Record
from teco.benchmark.report.answer import MAIN_METRICS, Answer, answer, grouped_warnings
from teco.benchmark.report.columns import TITLES, TableRow, column, entries, pareto_front
from teco.benchmark.report.html import tables
from teco.benchmark.report.html.data import (
    cold_of,
    means_of,
    panes_of,
    points_of,
    series_of,
    view_of,
)
from teco.benchmark.report.html.frames import encode
from teco.benchmark.report.html.libraries import Libraries
from teco.benchmark.report.markdown import conditions, not_run, shared_speed
from teco.core.files import as_json, write_beside
from teco.page.document import document, picker, scrolling, section
from teco.page.viewer import SCRIPT, Pane, Shown, viewer
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, UNITS, Metric
from teco_calibration.records import to_data


def write_html(
    path: Path,
    record: Record,
    libraries: Libraries,
    gallery: Gallery | None = None,
    shows: Mapping[str, str] | None = None,
) -> None:
    """Write the report under its final name.

    Args:
        path: that can be written.
        record: what was measured.
        libraries: what draws the charts (:func:`teco.benchmark.report.html.libraries.find`, before
            the measuring too).
        gallery: frames of the truth, the interpolations and the candidates.
        shows: row key -> the method in the gallery whose frames are the row's.

    Raises:
        WriteError: it cannot be written.
    """
    shown = encode(gallery) if gallery else None
    write_beside(path, page(record, shown, shows or {}, libraries).encode())


def page(
    record: Record, shown: Shown | None, shows: Mapping[str, str], libraries: Libraries
) -> str:
    """The report as text."""
    lines = entries(record)
    found = answer(record)
    metrics: list[Metric] = [
        m for m in UNITS if any(e.quality and m in e.quality.means for e in lines)
    ]
    panes = panes_of(record, shown, shows) if shown else []
    charts = [
        ("pareto-title", "Quality against latency", _pareto(record, metrics)),
        ("spread-title", "Latency", _spread(record)),
    ]
    drawn = [chart for chart in charts if chart[2]]
    sections = [
        ("summary-title", "Every figure", _summary(record, lines)),
        *drawn[1:],
        ("ratios-title", "Against the fastest", tables.ratios(record)),
        ("playback-title", "Playback", tables.playback(record)),
        ("roofline-title", "Distance to the limit", _roofline(record)),
        ("frames-title", "Quality frame by frame", _frames(record, metrics)),
        ("cold-title", "After a reset", _cold_start(lines)),
        ("viewer-title", "Frames side by side", _viewer(shown, panes)),
        ("distance-title", "Distance from float32", tables.distances(record)),
        ("gate-title", "The temporal gate", tables.gate(record)),
        ("memory-title", "Memory", tables.memory(record)),
        ("other-title", "Not run", tables.static(record) + tables.unavailable(record)),
        ("method-title", "How it was measured", _method(record)),
    ]
    kept = [(ident, title, body) for ident, title, body in sections if body]
    contents = "".join(f'<li><a href="#{i}">{escape(t)}</a></li>' for i, t, _ in kept)
    rest = "".join(section(ident, title, body) for ident, title, body in kept)
    table = scrolling(tables.verdicts(found), "The answer") if found.columns else ""
    data = {
        "record": as_json(to_data(record)).decode(),
        "extra": as_json(_extra(record, lines, metrics)).decode(),
    }
    if shown and panes:
        data["shown"] = as_json(view_of(record, shown, shows, panes)).decode()
    return document(
        title=_title(record),
        head=_head(record, found),
        main=f'<div class="first">{table}{section(*drawn[0]) if drawn else ""}</div>'
        '<details id="all"><summary>Everything that was measured</summary>'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>{rest}</details>',
        footer=_footer(record, libraries),
        data=data,
        scripts=[*libraries.scripts, _resource("page.js"), SCRIPT],
        style=_resource("report.css"),
    )


def _extra(
    record: Record,
    lines: Sequence[TableRow],
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    """What the script draws beside the record."""
    return {
        "points": points_of(record, lines),
        "interpolations": [
            {"label": e.model, "quality": means_of(e)} for e in lines if e.row is None
        ],
        "metrics": [
            {
                "key": m,
                "title": column(m).title,
                "better": "high" if m in HIGHER_IS_BETTER else "low",
            }
            for m in metrics
        ],
        "fronts": {m: pareto_front(lines, m) for m in metrics},
        "series": series_of(lines),
        "cold": cold_of(lines),
    }


def _resource(name: str) -> str:
    return files("teco.benchmark.report.html").joinpath(name).read_text(encoding="utf-8")


def _title(record: Record) -> str:
    models = list(dict.fromkeys(row.artifact.name for row in record.rows))
    what = models[0] if len(models) == 1 else f"{len(models)} models"
    return f"teco bench: {what}" if models else "teco bench"


def _head(record: Record, found: Answer) -> str:
    """The answer, how far to trust it, and the conditions."""
    rest = f'<p class="rest">{escape(found.rest)}</p>' if found.rest else ""
    items = [
        f"<li>{escape(group)}: {escape(text)}</li>"
        for group, texts in grouped_warnings(record).items()
        for text in texts
    ]
    items += [f"<li>not run: {escape(what)}: {escape(why)}</li>" for what, why in not_run(record)]
    doubts = f'<p class="doubts">{escape(found.doubts)}.</p>'
    if items:
        doubts = (
            f'<details class="doubts {found.confidence}"><summary>{escape(found.doubts)}</summary>'
            f"<ul>{''.join(items)}</ul></details>"
        )
    return (
        f'<p class="answer">{escape(found.headline)}</p>{rest}{doubts}'
        f'<p class="lead">{escape(" ".join(conditions(record)))}</p>'
    )


def _footer(record: Record, libraries: Libraries) -> str:
    return (
        "<p>Made by <code>"
        + escape(record.command or "teco bench")
        + '</code></p><p><a class="button" id="save" download="teco-bench.json" href="#record">'
        "Save the record (JSON, every sample)</a></p>"
        "<p>Charts: Observable Plot and D3, both ISC licence, inside this file.</p>"
        "<details class=licences><summary>Licences of both, and of what they bundle</summary>"
        f"<pre>{escape(libraries.licences)}</pre></details>"
    )


# --- sections --------------------------------------------------------------------------------


def _summary(record: Record, lines: Sequence[TableRow]) -> str:
    shared = shared_speed(record)
    return (
        "<p>\u2605 marks the best of a column; a dash, what was not measured. Click a heading to "
        "sort.</p>"
        + (f"<p>{escape(shared)}</p>" if shared else "")
        + scrolling(tables.summary(lines), "Summary table")
        + f"<details><summary>What the columns are</summary>{tables.meanings(lines)}</details>"
    )


def _figure(ident: str, label: str, caption: str) -> str:
    return (
        f'<figure><div class="plot" id="{ident}" data-name="{escape(label)}; the tables have its '
        f'figures"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _metric_picker(ident: str, metrics: Sequence[Metric]) -> str:
    chosen = next((m for m in MAIN_METRICS if m in metrics), "")
    return (
        '<div class="controls">'
        + picker(ident, "Quality by", [(m, TITLES[m]) for m in metrics], chosen)
        + "</div>"
    )


def _pareto(record: Record, metrics: Sequence[Metric]) -> str:
    if not metrics or not any(row.latency and row.quality for row in record.rows):
        return ""
    return _metric_picker("pareto-metric", metrics) + _figure(
        "pareto",
        "Quality against latency",
        "Up and to the left is better. Filled marks lie on the Pareto front (dashed): nothing "
        "else is both as fast and as good. Bars through the marks are 95% intervals of the "
        "median. The same figures stand in the tables.",
    )


def _spread(record: Record) -> str:
    if not any(row.latency for row in record.rows):
        return ""
    return _figure(
        "spread",
        "Latency of every step",
        "Every step measured is a line; outliers are shown and count. Models that run the same "
        "graph on other weights were measured once. Of more than 600 steps evenly many are drawn, "
        "and all of the slowest.",
    )


def _roofline(record: Record) -> str:
    if not any(row.roofline for row in record.rows):
        return ""
    return _figure(
        "roofline",
        "Roofline",
        "The lines are the most this machine was measured to do in this run: multiply-adds "
        "on the flat part, memory on the slope. A step below its line leaves that share unused. "
        "Bytes are those that any implementation must move: weights, LR and HR frame and state, "
        "each once. Labels that have no room are left out.",
    ) + tables.ceilings(record)


def _frames(record: Record, metrics: Sequence[Metric]) -> str:
    if not metrics:
        return ""
    notes = dict.fromkeys(n for e in entries(record) if e.quality for n in e.quality.notes)
    told = "".join(f"<p>{escape(note)}.</p>" for note in notes)
    return (
        _metric_picker("frames-metric", metrics)
        + '<fieldset class="legend" id="frames-legend" aria-label="Curves shown"></fieldset>'
        + _figure(
            "frames",
            "Quality frame by frame",
            "Frames that count, by the official rules. Curves are named by the runtime that made "
            "the frames; on other float32 runtimes they are the same within one 8-bit step "
            "(see the distance from float32).",
        )
        + told
    )


def _cold_start(lines: Sequence[TableRow]) -> str:
    table = tables.cold_starts(lines)
    if not table:
        return ""
    curves = [e.quality.cold_start for e in lines if e.quality and e.quality.cold_start]
    metrics: list[Metric] = ["psnr", "lpips"] if any(c.lpips for c in curves) else ["psnr"]
    picker = _metric_picker("cold-metric", metrics)
    return (
        "<p>What a frame lacks after the recurrence was reset, beside the same frame of a run "
        "that began long before. The pre-roll is as many frames as a player should run and drop "
        "before the one it shows.</p>"
        + picker
        + '<fieldset class="legend" id="cold-legend" aria-label="Curves shown"></fieldset>'
        + _figure(
            "cold",
            "Quality missing after a reset",
            "Above 0 the frames are worse than without the reset; mean over the places at which "
            "the recurrence was reset. The dotted line is the least that any suggestion allows.",
        )
        + table
    )


def _viewer(shown: Shown | None, panes: Sequence[Pane]) -> str:
    if shown is None or not panes:
        return ""
    c = shown.crop
    cut = (
        f" The middle {c.width}x{c.height} of {c.full_width}x{c.full_height} is shown, to keep "
        "this file small."
    )
    text = "Lossless frames: left, middle, and the truth on the right."
    frames = [(str(n), str(frame)) for n, frame in enumerate(shown.frames)]
    return viewer(panes, frames, text + ("" if c.is_whole else cut))


def _method(record: Record) -> str:
    c, m = record.conditions, record.machine
    facts: list[tuple[str, str]] = [
        ("CPU", f"{m.cpu}, {m.cores} cores, {m.memory_gib:.0f} GiB"),
        ("instructions", ", ".join(m.cpu_flags)),
        ("GPU", ", ".join(m.gpus)),
        ("system", f"{m.os}, Python {m.python}"),
        ("packages", ", ".join(f"{k} {v}" for k, v in m.packages.items())),
        ("threads", c.pinning),
        ("governor", c.governor or ""),
        ("load", "" if c.load_before is None else f"{c.load_before:.2f} before"
                 + ("" if c.load_after is None else f", {c.load_after:.2f} after")),
        ("other programs", "" if c.busy_share is None else f"{c.busy_share:.0%} of the processors"),
        ("clock", f"{c.clock}; one reading takes {c.timer_overhead_ns:.0f} ns, its step is "
                  f"{c.timer_resolution_ns:.0f} ns"),
        ("order", f"at most {c.block} steps in a row, in random order (seed {c.seed})"),
        ("measured", f"{record.created}, in {record.seconds:.0f} s"),
        *[(f"noise, {n.row}", f"the same twice: {n.ratio:.3f} ({n.low:.3f} to {n.high:.3f})")
          for n in record.noise],
    ]  # fmt: skip
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    notes = "".join(
        f"<li>{escape(row.key)}: {escape(note)}</li>" for row in record.rows for note in row.notes
    )
    return f'<dl class="facts">{told}</dl>' + (f"<ul>{notes}</ul>" if notes else "")
