"""What a benchmark's reports say is what its record says."""

from __future__ import annotations

import base64
import html
import html.parser
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_record
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from javascript import STAND_INS, real_libraries

from teco.benchmark.quality.measure import Gallery
from teco.benchmark.record import store
from teco.benchmark.record.catalogue import FOLDER
from teco.benchmark.record.gate import GateResult
from teco.benchmark.record.record import Record
from teco.benchmark.report.answer import (
    GROUPS,
    answer,
    confidence_of,
    grouped_warnings,
    mark,
    verdict,
    with_interval,
)
from teco.benchmark.report.columns import (
    COLUMNS,
    TableRow,
    column,
    entries,
    measured,
    number,
    pareto_front,
)
from teco.benchmark.report.html import libraries
from teco.benchmark.report.html import page as html_page
from teco.benchmark.report.html.frames import encode
from teco.benchmark.report.markdown import markdown
from teco.benchmark.report.terminal import Lines, LiveTable, answer_text, bench_progress
from teco.core.errors import TecoError
from teco.core.files import as_json
from teco.core.names import common_prefix
from teco.measurement.records import Ratio, TimingWarning
from teco.page.viewer import Crop
from teco_calibration.records import to_data
from teco_calibration.temporal_gate.verdict import Bounds, Numbers, Verdict

ROW = bench_record.record().rows[0]


@pytest.fixture(scope="module")
def record() -> Record:
    return bench_record.record()


# --- columns -----------------------------------------------------------------------------------


def test_columns_read_the_record(record) -> None:
    lines = entries(record)
    first = lines[0]
    row = record.rows[0]
    expected = {
        "p50": row.latency.host.summary.p50, "p90": row.latency.host.summary.p90,
        "p99": row.latency.host.summary.p99, "jitter": row.latency.host.summary.jitter,
        "fps": row.latency.host.summary.fps, "end_to_end": row.end_to_end.fps, "in_time": 100.0,
        "share": 100 * row.roofline.share, "peak": 300.0, "psnr": row.quality.means["psnr"],
        "float32": math.inf, "drift": 0.01, "pre_roll": 4.0, "load": 120.0, "device": None,
        "flicker": None,
    }  # fmt: skip
    for key, value in expected.items():
        found = column(key).value(first)
        assert found == (None if value is None else pytest.approx(value)), key
    assert column("in_time").value(lines[2]) == pytest.approx(100 * 11 / 12)
    assert [e.key for e in lines[-2:]] == ["bicubic", "bilinear"]
    assert column("p50").value(lines[-1]) is None
    assert [column("ratio").value(e) for e in lines if e.is_fastest] == [1.0]
    shown = {c.key for c in measured(lines)}
    assert {"device", "gpu_memory", "flicker"} & shown == set()
    assert len({c.key for c in COLUMNS}) == len(COLUMNS)


def test_numbers_and_the_best(record) -> None:
    assert [number(v, 2) for v in (None, math.inf, -0.001, -1.5)] == ["-", "equal", "0.00", "-1.50"]
    lines = entries(record)
    p50 = column("p50")
    assert p50.best(lines) == {min((e for e in lines if e.row), key=p50.value).key}
    psnr = column("psnr")
    assert psnr.best(lines) == {max(lines, key=psnr.value).key}
    assert column("pre_roll").best(lines) == set(), "no better and no worse"
    assert column("peak").best(lines) == set(), "all the same"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_pareto_front(pairs: list[tuple[int, int]]) -> None:
    """Nothing on it is beaten, everything off it is, or is the same as one on it."""
    row = ROW

    def entry(n: int, ms: int, db: int) -> TableRow:
        summary = replace(row.latency.host.summary, p50=float(ms))
        host = replace(row.latency.host, summary=summary)
        quality = replace(row.quality, means={"psnr": float(db)})
        latency = replace(row.latency, host=host)
        return TableRow(
            key=str(n), model="", runtime="", row=replace(row, latency=latency), quality=quality
        )

    lines = [entry(n, *pair) for n, pair in enumerate(pairs)]
    front = [int(key) for key in pareto_front(lines, "psnr")]
    assert [pairs[n] for n in front] == sorted(pairs[n] for n in front)
    for n, (ms, db) in enumerate(pairs):
        beaten = any(a <= ms and b >= db and (a, b) != (ms, db) for a, b in pairs)
        same = any(pairs[m] == (ms, db) for m in front)
        assert (n in front) <= (not beaten)
        assert beaten or same


def test_common_prefix() -> None:
    assert common_prefix(["teco-x4-b3", "teco-x4-b10"]) == "teco-x4-"
    assert common_prefix(["a", "b"]) == ""
    assert common_prefix(["teco-x4-b3"]) == ""


# --- the answer --------------------------------------------------------------------------------

FAST, SLOW = "<b>live</b> on openvino-bf16", "teco-x4-b3-c64-bp-lk on onnxruntime"


def with_verdicts(record: Record, **verdicts: str) -> Record:
    """The record with other verdicts on its rows: nth row of the ratios -> verdict."""
    changed = [
        replace(r, verdict=verdicts.get(f"row{n}", r.verdict)) for n, r in enumerate(record.ratios)
    ]
    return replace(record, ratios=tuple(changed))


def test_the_answer_is_the_fastest_and_by_how_much(record) -> None:
    found = answer(record)
    e = found.lines[0]
    assert e.key == FAST
    assert e.is_fastest
    assert [x.host.p50 for x in found.lines if x.host] == sorted(
        x.host.p50 for x in found.lines if x.host
    )
    assert [x.key for x in found.lines[-2:]] == ["bicubic", "bilinear"]
    assert found.headline.startswith(f"Fastest: {FAST}, {column('p50').text(e)} ms, ")
    # Against the next, which is ONNX Runtime on the same model: said once.
    (ratio,) = [r for r in record.ratios if r.row == "<b>live</b> on onnxruntime"]
    assert found.headline.count("times faster than") == 1
    assert f"{with_interval(ratio)} times faster than onnxruntime" in found.headline
    assert found.rest.startswith("Its frames differ from float32 by up to 21 of 255; in float32 ")
    lpips = {x.key: column("lpips").value(x) for x in found.lines if x.row}
    assert f"Best LPIPS: {min(lpips, key=lpips.__getitem__)}, {min(lpips.values()):.4f} (bic" in (
        found.rest
    )
    assert [c.key for c in found.columns] == ["p50", "fps", "lpips", "peak"]
    for text in (answer_text(record), html.unescape(markdown(record).replace("*", ""))):
        assert " ".join(text.split()).startswith(found.sentence)


def test_the_answer_says_what_is_not_proven(record) -> None:
    lines = entries(with_verdicts(record, row0="undecided", row1="equal"))
    told = answer(with_verdicts(record, row0="undecided", row1="equal"))
    rows = [r.row for r in record.ratios]
    assert told.headline.startswith("Fastest, not proven: ")
    verdicts = {e.key: verdict(e, lines) for e in lines}
    assert verdicts[FAST] == "fastest, not proven"
    assert verdicts[rows[0]].startswith("undecided, ")
    assert verdicts[rows[1]] == "as fast"
    assert verdicts[rows[2]].endswith("times slower")
    assert verdicts["bicubic"] == "-"
    assert "may be as fast" in told.headline
    assert answer(with_verdicts(record, row1="equal")).headline.endswith("is as fast.")
    assert verdict(entries(record)[-3], entries(record)) == "fastest"


def test_one_row_is_compared_with_nothing(record) -> None:
    alone = answer(replace(record, rows=record.rows[:1], ratios=()))
    assert alone.headline.startswith(f"{SLOW}: ")
    assert "a step" in alone.headline
    assert [verdict(e, alone.lines) for e in alone.lines] == ["-", "-", "-"]


def test_rows_that_are_not_float32_are_marked(record) -> None:
    lines = {e.key: e for e in entries(record)}
    assert mark(lines[SLOW]) == "", "one step is rounding"
    assert "21 of 255" in mark(lines[FAST])
    row = replace(record.row(FAST), distance=None)
    unknown = replace(record, rows=(*record.rows[:-1], row))
    assert mark(entries(unknown)[-3]) == "bf16, not compared with float32"
    assert "--clip" in answer(unknown).rest


def test_float32_beside_the_fastest_is_its_own_model_in_float32(record) -> None:
    twin = "<b>live</b> on onnxruntime"
    words = "in float32 onnxruntime takes"
    assert words in answer(record).rest

    def changed(**changes: Any) -> str:
        rows = (replace(r, **changes) if r.key == twin else r for r in record.rows)
        return answer(replace(record, rows=tuple(rows))).rest

    assert words in changed()
    # Rounding, and yet not float32; then another model's row is the only one in it.
    assert "in float32" not in changed(precision="int8")
    assert "in float32" not in changed(latency=None)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "expected"),
    [
        (2.0, 1.95, 2.1, "2.00 ± 0.10"), (1.5348, 1.3314, 1.6191, "1.53 ± 0.20"),
        (13.3, 12.6, 14.0, "13.3 ± 0.7"),
        (1.5, 0.414, 3.21, "1.5 (0.41 to 3.3)"), (78.4, 18.7, 174.2, "78 (18 to 175)"),
        (60.0, 50.0, 70.0, "60 ± 10"), (3.52, 3.52, 3.52, "3.5"),
    ],
)  # fmt: skip
def test_what_is_told_is_no_narrower_than_the_interval(ratio, low, high, expected) -> None:
    found = Ratio(row="a", against="b", ratio=ratio, low=low, high=high, verdict="slower", why="")
    assert with_interval(found) == expected
    if "±" in expected:
        middle, half = map(float, expected.split(" ± "))
        assert middle - half - 1e-9 <= low < high <= middle + half + 1e-9


def test_warnings_are_grouped_and_make_the_confidence(record) -> None:
    def warned(*codes: str) -> Record:
        texts = tuple(TimingWarning(code=c, row="", text=f"{c} {n}") for n, c in enumerate(codes))
        return replace(record, warnings=texts, unavailable=(), static=())

    levels = {
        ("busy", "few"): "low", ("throttled",): "low", ("drift", "drift"): "fair",
        ("a-later-word",): "fair", ("few",): "high", (): "high",
    }  # fmt: skip
    for codes, level in levels.items():
        assert confidence_of(warned(*codes)) == level, codes
    assert confidence_of(replace(warned(), complete=False, stopped="x")) == "low"
    untimed = replace(
        warned(), rows=tuple(replace(r, latency=None) for r in record.rows), ratios=()
    )
    for nothing in (untimed, replace(untimed, rows=())):
        assert answer(nothing).doubts == "Confidence low: nothing was timed, no warnings"
    first, *others = record.ratios
    alone = replace(first, low=first.ratio, high=first.ratio)
    for ratio in (replace(first, verdict="undecided"), alone):
        doubtful = answer(replace(warned(), ratios=(ratio, *others)))
        assert doubtful.doubts == "Confidence fair: no warnings, 1 comparison undecided"
    mixed = warned("drift", "a-later-word", "busy", "drift")
    assert list(grouped_warnings(mixed)) == [GROUPS["busy"], GROUPS["drift"], "a-later-word"]
    doubts = answer(mixed).doubts
    assert doubts.startswith("Confidence low: 4 warnings (")
    assert f"{GROUPS['drift']} 2" in doubts
    text = answer_text(mixed)
    assert "drift 3" not in text, "folded"
    assert "drift 3" in answer_text(mixed, details=True)
    assert answer(warned()).doubts == "Confidence high: no warnings"


# --- text --------------------------------------------------------------------------------------


def test_the_answer_fits(record) -> None:
    text = answer_text(record)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "jitter" not in text
    assert "built for sm_89" in text, "what was named and did not run is no detail"


def test_the_details_fit_and_say_the_record(record) -> None:
    text = answer_text(record, details=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    for e in entries(record):
        for key in ("p50", "p99", "end_to_end", "peak", "psnr", "lpips", "float32", "load"):
            assert column(key).text(e) in text
    assert "built for sm_89" in text


def test_markdown_says_the_record(record) -> None:
    text = markdown(record)
    found = answer(record)
    said = f"**{html.escape(found.headline)}** {html.escape(found.rest)}"
    assert text.startswith(f"{said}\n\n| model | runtime | p50 ms |")
    first, rest = text.split("<summary>Every figure</summary>")
    rows = [line for line in first.splitlines() if line.startswith("| `")]
    for line, e in zip(rows, found.lines, strict=True):
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        assert cells[2:-1] == [c.text(e) for c in found.columns]
        assert cells[-1] == "; ".join(filter(None, (verdict(e, found.lines), mark(e))))
    rows = [line for line in rest.splitlines() if line.startswith("| `")]
    speed = rows[: len(record.rows)]
    for line, e in zip(speed, [e for e in entries(record) if e.row], strict=True):
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        assert cells[1] == e.runtime
        assert cells[2] == column("p50").text(e)
    assert sum("**" in line for line in rows) >= 2
    assert "- not run: tensorrt: no NVIDIA GPU was found\n" in text
    assert "112x96, 12 frames, degraded (BD)" in text
    stopped = replace(record, complete=False, stopped="interrupted at: timing steps")
    assert markdown(stopped).startswith("**Incomplete, interrupted at: timing steps. Fastest")


def test_nothing_of_a_record_becomes_html_in_markdown(record) -> None:
    tag = "<img src=x\n\nonerror=1>"
    row = record.rows[0]
    artifact = replace(row.artifact, name=f"a`{tag}|b")
    hostile = replace(
        record,
        rows=(replace(row, key=f"{tag} on it", runtime=f"{tag}|c", artifact=artifact),),
        ratios=(), warnings=(TimingWarning(code=tag, row="", text=tag),),
        unavailable=(replace(record.unavailable[0], model=tag, why=tag),),
        machine=replace(record.machine, cpu=tag),
        clip=replace(record.clip, name=tag), complete=False, stopped=tag,
    )  # fmt: skip
    text = markdown(hostile)
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=1&gt;") > 8
    tables = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert cells[:3] == [cells[0]] * 3
    # Between backticks it stays as it is: no HTML is made of that.
    assert f"| `{bench_record.MODELS[1]}` |" in markdown(record)


def test_speed_that_was_measured_once_is_said_to_be(record) -> None:
    """A row that shows the speed of another one with the same graph says so."""
    slow, *others = record.rows
    duplicate = replace(
        slow, key="twin on onnxruntime", artifact=replace(slow.artifact, name="twin"),
        measured_as=slow.key,
    )  # fmt: skip
    shared = replace(record, rows=(slow, duplicate, *others))
    sentence = f"measured once: twin as {slow.artifact.name}."
    assert sentence in markdown(shared)
    assert sentence in " ".join(answer_text(shared, details=True).split())
    assert "speed shared" in html_page.page(shared, None, {}, STAND_INS)
    assert "measured once: " not in markdown(record)
    lines = entries(shared)
    assert lines[1].ratio == lines[0].ratio
    assert verdict(lines[1], lines) == verdict(lines[0], lines)


def test_records_without_quality_or_rows(record) -> None:
    bare = replace(
        record, clip=None, interpolations=(),
        rows=tuple(replace(r, quality=None, distance=None, roofline=None) for r in record.rows),
    )  # fmt: skip
    for text in (answer_text(bare), markdown(bare), html_page.page(bare, None, {}, STAND_INS)):
        assert "PSNR" not in text.partition("<script>")[0]
        assert "p50" in text
    empty = replace(bare, rows=(), ratios=(), noise=(), complete=False, stopped="interrupted")
    assert markdown(empty).startswith("**Incomplete, interrupted. Nothing was timed.**")
    assert "Nothing was timed" in html_page.page(empty, None, {}, STAND_INS)
    assert answer_text(empty).startswith("Not run: engine.onnx: ")


def test_a_record_is_shown_again(record, teco, tmp_path) -> None:
    path, page, table = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.md"
    store.write(path, record)
    done = teco("bench", "--from", path, "--markdown", table)
    done.says()
    assert done.stdout.decode() == answer_text(record)
    assert table.read_text() == markdown(record)
    done = teco("bench", "--from", path, "--details")
    assert done.stdout.decode() == answer_text(record, details=True)
    for options in (("live",), ("--budget", 20), ("--json", tmp_path / "x.json")):
        teco("bench", "--from", path, *options).refuses(2, "--from shows a record")
    teco("bench", "--from", page).refuses(2, "cannot be read as a record")


def test_records_of_before_are_answered_too() -> None:
    """Of schema 2, as the catalogue has them."""
    (path, *_) = sorted(FOLDER.glob("*.json"))
    assert json.loads(path.read_text())["schema"] == 2
    old = store.read(path)
    found = answer(old)
    assert found.headline.startswith("Fastest: live on openvino-bf16, 13.5 ms, 2.67 ± 0.11 times")
    assert found.confidence == "fair"
    assert max(map(len, answer_text(old).splitlines())) <= 100
    assert "47 of 255" in markdown(old)
    assert html.escape(found.headline) in html_page.page(old, None, {}, STAND_INS)


# --- while it runs -----------------------------------------------------------------------------


def shown(key: str, model: str, runtime: str) -> Any:
    """What a table needs of a candidate."""
    return SimpleNamespace(
        key=key, model=SimpleNamespace(name=model), runtime=SimpleNamespace(name=runtime)
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_table_fills_in(record, monkeypatch) -> None:
    monkeypatch.setattr("teco.benchmark.report.terminal.EVERY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    keys = [shown(row.key, row.artifact.name, row.runtime) for row in record.rows]
    with bench_progress(keys, stream) as progress:
        assert isinstance(progress, LiveTable)
        progress.phase("timing steps")
        progress.advance("timing steps", 3, 10)
        before = stream.tell()
        progress.row(replace(record.rows[0], quality=None))
    drawn = stream.getvalue()
    p50 = column("p50").text(entries(record)[0])
    assert p50 not in drawn[:before]
    assert p50 in drawn[before:]
    assert "3/10" in drawn
    assert "timing steps" in drawn


def test_no_thread_draws_while_steps_are_timed(monkeypatch) -> None:
    import threading

    monkeypatch.setenv("TERM", "xterm")
    before = threading.active_count()
    with bench_progress([shown("m on r", "m", "r")], Terminal()) as progress:
        progress.phase("timing steps")
        assert threading.active_count() == before


def test_lines_where_there_is_no_terminal(monkeypatch) -> None:
    clock = iter([0.0, 0.0, 1.0, 12.0, 13.0])
    monkeypatch.setattr("teco.benchmark.report.terminal.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with bench_progress([], stream) as progress:
        assert isinstance(progress, Lines)
        progress.phase("timing steps")
        progress.advance("timing steps", 1, 40)
        progress.advance("timing steps", 12, 40)
        progress.advance("timing steps", 13, 40)
    assert stream.getvalue() == "timing steps\ntiming steps: 12 of 40, 28 s left\n"


def test_many_rows_scroll_with_the_one_that_is_filled(record) -> None:
    live = LiveTable([shown(f"m{n} on r", f"m{n}", "r") for n in range(40)], Terminal())
    rows = [
        TableRow(key=f"m{n} on r", model="", runtime="", row=None, quality=None) for n in range(40)
    ]
    for latest in (0, 20, 39):
        live._latest = f"m{latest} on r"
        lines = live._shown(rows, 10)
        assert len(lines) == 10
        assert rows[latest] in lines


# --- the page ----------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page holds: cells of its summary, its blocks of data, and whatever points outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str], tuple[str, str]] = {}
        self.data: dict[str, str] = {}
        self.links: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self._row = self._key = self._value = self._script = ""
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        given = dict(attributes)
        self.links += [v for k, v in given.items() if k in ("src", "href") and v]
        if tag == "tr":
            self._row = given.get("data-row", "")
        if tag == "td" and "data-key" in given:
            self._key, self._value = given["data-key"], given["data-value"]
        if tag == "small":
            self._key = ""
        if tag == "script":
            self._script = given.get("id", "code")
        self._heading = tag == "h2"

    def handle_endtag(self, tag) -> None:
        if tag in ("td", "script"):
            self._key = self._script = ""

    def handle_data(self, data) -> None:
        if self._script:
            self.data[self._script] = self.data.get(self._script, "") + data
        elif self._key:
            self.cells[self._row, self._key] = (self._value, data)
        elif self._heading:
            self.headings.append(data)


@pytest.fixture(scope="module")
def text(record) -> str:
    gallery, shows = bench_record.gallery()
    return html_page.page(record, encode(gallery), shows, STAND_INS)


def test_the_page_holds_the_record_and_its_figures(record, text) -> None:
    page = Page(text)
    assert json.loads(page.data["record"]) == json.loads(as_json(to_data(record)))
    for e in entries(record):
        for c in measured(entries(record)):
            value, shown = page.cells[e.key, c.key]
            assert shown == c.text(e)
            expected = c.value(e)
            assert (float(value) if value else None) == expected
    assert "Frames side by side" in page.headings


def test_the_page_tells_late_frames_and_verdicts(record) -> None:
    """What was played and judged stands in the page, refusals with their reasons."""
    row = record.rows[0]
    assert row.playback is not None
    slow = replace(row.playback, shown=5, late=2, dropped=3, late_ms=(0.0, 7.4, 61.6))
    good = Numbers(
        frames=20, every=1, on_truth=False, psnr=(52.0, None), max_steps=(1, 0), within_one=1.0
    )
    bounds = Bounds(name="fp16", frames=20, max_steps=2)
    verdicts = (
        GateResult("a", "x", "pytorch", Verdict(bounds=bounds, numbers=good)),
        GateResult(
            "b", "x", "pytorch", Verdict(bounds=bounds, numbers=replace(good, max_steps=(9,)))
        ),
        GateResult("c", "x", note="it has no <reference>"),
    )
    changed = replace(
        record,
        rows=(replace(row, playback=slow), *record.rows[1:]),
        gate=tuple(one.as_dict() for one in verdicts),
    )
    body = html_page.page(changed, {}, {}, STAND_INS)
    assert (
        f"<td>25</td><td>{bench_record.FRAMES}</td><td>5</td><td>2</td><td>3</td><td>62 ms</td>"
        in body
    )
    (a,) = re.findall(r'<th scope="row">a on x</th>(.*?)</tr>', body)
    assert a == "<td>fp16</td><td>accepted</td><td>52.0 dB</td><td>1</td><td>-</td>"
    (b,) = re.findall(r'<th scope="row">b on x</th>(.*?)</tr>', body)
    assert "<td>refused</td>" in b
    assert "is 9 of 255" in b
    (c,) = re.findall(r'<th scope="row">c on x</th>(.*?)</tr>', body)
    assert "not judged" in c
    assert "it has no &lt;reference&gt;" in c


def test_columns_that_nobody_measured_are_left_out(record, text) -> None:
    assert all(row.memory.device is None for row in record.rows)
    assert "growth in 1,000 frames" in text
    assert "on the GPU" not in text
    rows = [replace(r, memory=replace(r.memory, device=1 << 30)) for r in record.rows[:1]]
    body = html_page.page(replace(record, rows=(*rows, *record.rows[1:])), {}, {}, STAND_INS)
    assert '<th scope="col">on the GPU</th>' in body
    assert "<td>1024</td>" in body


def test_the_page_needs_no_network(text) -> None:
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)http", text.partition("<script")[0])


def test_what_users_wrote_is_text(text) -> None:
    """A model's name, a command, a path: none of it can become an element."""
    head = text.partition('<script type="application/json"')[0]
    assert "<b>live</b>" not in head
    assert "&lt;b&gt;live&lt;/b&gt;" in head
    assert "report.html </script>" not in text


def test_licences_are_in_the_page(text) -> None:
    assert "<pre>Copyright A &lt;B&gt;" in text
    assert text.index(STAND_INS.scripts[0]) < text.index(STAND_INS.scripts[1])


def test_pictures_are_lossless_and_within_a_budget() -> None:
    rng = np.random.default_rng(0)
    gallery = Gallery(frames=(1, 4, 8))
    originals = {
        name: [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3)]
        for name in ("truth", "bicubic", "model")
    }
    gallery.pixels = {**originals, "unfinished": [originals["truth"][0]]}
    whole = encode(gallery)
    assert whole is not None
    assert whole.frames == (1, 4, 8)
    assert set(whole.images) == {"truth", "bicubic", "model"}
    for name, uris in whole.images.items():
        for uri, original in zip(uris, originals[name], strict=True):
            coded = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
            back = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            assert np.array_equal(back, original)
    each = 40 * 60 * 3
    assert encode(gallery, 2 * each).frames == (1, 8)
    assert encode(gallery, each).frames == (4,)
    cut = encode(gallery, each // 4)
    assert cut.crop == Crop(10, 15, 20, 30, 40, 60)
    assert encode(Gallery()) is None


def test_write_html_leaves_nothing_half_done(record, tmp_path, untouched) -> None:
    with pytest.raises(OSError, match="could not be written"), untouched(tmp_path):
        html_page.write_html(tmp_path / "absent" / "r.html", record, STAND_INS)
    html_page.write_html(tmp_path / "r.html", record, STAND_INS)
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("flag", "suffix"), [("--html", ".html"), ("--markdown", ".md")])
def test_reports_that_cannot_be_written_are_refused_first(teco, tmp_path, flag, suffix) -> None:
    (tmp_path / f"taken{suffix}").mkdir()
    for name, words in (
        (f"absent/r{suffix}", "does not exist"),
        ("r.txt", f"should end in {suffix}"),
        (f"taken{suffix}", "is a folder"),
    ):
        done = teco("bench", "live", flag, tmp_path / name)
        done.refuses(2, words)
    done = teco("bench", "live", flag, f"/proc/r{suffix}")
    done.refuses(2, "cannot be written")


# --- the libraries -----------------------------------------------------------------------------


@pytest.fixture
def report_js(tmp_path, monkeypatch) -> Path:
    """A project that has both packages, named by the environment."""
    for name, script in (("d3", "d3.min.js"), ("@observablehq/plot", "plot.umd.min.js")):
        package = tmp_path / "js" / "node_modules" / name
        (package / "dist").mkdir(parents=True)
        (package / "dist" / script).write_text(f"var {script[:2]} = 1;")
        (package / "LICENSE").write_text(f"terms of {name}")
        (package / "package.json").write_text(json.dumps({"name": name, "version": "9.8.7"}))
    monkeypatch.setenv("TECO_REPORT_JS", str(tmp_path / "js"))
    return tmp_path / "js"


def test_libraries_and_licences_of_a_folder(report_js) -> None:
    found = libraries.find()
    assert found.scripts == ("var d3 = 1;", "var pl = 1;")
    for words in ("D3 9.8.7:\n\nterms of d3", "Observable Plot 9.8.7:\n\nterms of @obs",
                  "Robert Penner", "Charles Karney", "Cynthia Brewer", "Mapbox", "isoformat",
                  "Mikola Lysenko"):  # fmt: skip
        assert words in found.licences


@pytest.mark.parametrize("script", ["x = '</SCRIPT>'", "<!-- x"])
def test_a_script_that_would_end_the_page_is_refused(report_js, script) -> None:
    (report_js / "node_modules" / "d3" / "dist" / "d3.min.js").write_text(script)
    with pytest.raises(TecoError, match="cannot stand inside a page"):
        libraries.find()


def test_the_libraries_are_looked_for_before_the_measuring(teco, tmp_path, monkeypatch) -> None:
    def run(_bench) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("teco.benchmark.run.Bench.run", run)
    monkeypatch.setenv("TECO_REPORT_JS", str(tmp_path))
    bench = ("bench", "live", "--html", tmp_path / "r.html")
    teco(*bench).refuses(2, f"TECO_REPORT_JS names {tmp_path}", "does not hold d3", "npm install")
    monkeypatch.delenv("TECO_REPORT_JS")
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "offline").as_uri())
    teco(*bench).refuses(
        3, "d3 7.9.2 is needed and could not be fetched",
        "teco fetch report --from", "TECO_REPORT_JS",
        after=("d3 7.9.2 is fetched once, 0.2 MB",),
    )  # fmt: skip
    assert not (tmp_path / "r.html").exists()


@pytest.mark.fetched
def test_the_real_libraries_can_stand_in_a_page() -> None:
    d3, plot = real_libraries().scripts
    assert "https://d3js.org" in d3[:40]
    assert "@observablehq/plot" in plot[:40]
