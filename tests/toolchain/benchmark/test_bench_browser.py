"""The report in a real browser; see tests/support/browser.py for what that needs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_record
import cv2
import numpy as np
import pytest
from accessibility import collisions, findings, looks, show_as
from browser import chromium
from javascript import real_libraries

from teco.benchmark.record.record import Record
from teco.benchmark.report.answer import answer, mark, verdict
from teco.benchmark.report.columns import entries, measured
from teco.benchmark.report.html.page import write_html
from teco.core.files import as_json
from teco_calibration.records import to_data

pytestmark = [pytest.mark.slow, pytest.mark.fetched]


@pytest.fixture(scope="module")
def record() -> Record:
    return bench_record.record()


@pytest.fixture(scope="module")
def report(record, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(path, record, real_libraries(), *bench_record.gallery())
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as window:
        yield window


@pytest.fixture
def show(browser, report) -> Callable[..., Any]:
    """Open the report at a width, in light or dark, with or without what it folds."""

    def open_at(width: int = 1280, scheme: str = "light", *, unfolded: bool = True) -> Any:
        show_as(browser, width, scheme)
        browser.get(report.as_uri())
        settled(browser)
        if unfolded:
            unfold(browser)
        return browser

    return open_at


def unfold(browser: Any) -> None:
    """Open everything, and wait until its charts are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    drawn = "return [...document.querySelectorAll('.plot')].every(p => p.querySelector('svg'))"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(drawn))


def settled(browser: Any) -> None:
    """Wait until the viewer's pictures are decoded and painted."""
    from selenium.webdriver.support.ui import WebDriverWait

    script = "const c = document.getElementById('view'); return c && c.width > 0 && "
    script += "c.getContext('2d').getImageData(c.width - 2, c.height - 2, 1, 1).data[3] == 255"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(script))


def screenshot(browser: Any, selector: str = "") -> np.ndarray:
    """(H, W, 3) of an element, or of the part of the page that is seen."""
    if selector:
        png = browser.find_element("css selector", selector).screenshot_as_png
    else:
        png = browser.get_screenshot_as_png()
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def slide(browser: Any, name: str, value: float) -> None:
    """Move a slider as a user's input would."""
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input'));",
        f"view-{name}",
        value,
    )


def canvas(browser: Any, ident: str = "view") -> np.ndarray:
    """The pixels of a canvas, (H, W, 3) RGB."""
    url = browser.execute_script(
        "return document.getElementById(arguments[0]).toDataURL('image/png')", ident
    )
    coded = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_the_table_says_the_record(show, record, tmp_path) -> None:
    """Every figure that is on the screen, beside the record as it was saved."""
    browser = show()
    saved = json.loads(as_json(to_data(record)))
    found = browser.execute_script(
        "return [...document.querySelectorAll('#summary tbody tr')].map(tr => [tr.dataset.row, "
        "Object.fromEntries([...tr.querySelectorAll('td')].map(td => "
        "[td.dataset.key, [td.dataset.value, td.firstChild.textContent]]))])"
    )
    lines = entries(record)
    assert [row for row, _ in found] == [e.key for e in lines]
    for (_, cells), e in zip(found, lines, strict=True):
        for c in measured(lines):
            value, text = cells[c.key]
            assert text == c.text(e), (e.key, c.key)
            assert (float(value) if value else None) == c.value(e)
    by_key = {row["key"]: row for row in saved["rows"]}
    for key, cells in found[: len(by_key)]:
        row = by_key[key]
        assert float(cells["p50"][0]) == row["latency"]["host"]["summary"]["p50"]
        assert float(cells["end_to_end"][0]) == row["end_to_end"]["fps"]
        assert float(cells["psnr"][0]) == row["quality"]["means"]["psnr"]
        assert cells["peak"][1] == f"{row['memory']['peak'] / 2**20:.0f}"
    embedded = browser.execute_script("return document.getElementById('record').textContent")
    assert json.loads(embedded) == saved


def test_nothing_is_asked_of_the_network_and_nothing_fails(show, browser) -> None:
    show()
    browser.get_log("browser")
    show()
    assert browser.get_log("browser") == []
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []


def test_the_charts_are_drawn(show, record) -> None:
    browser = show()

    def marks(chart: str, what: str) -> int:
        return len(browser.find_elements("css selector", f"#{chart} svg {what}"))

    rows = len(record.rows)
    assert marks("pareto", "g[data-mark=dot] path") == rows
    assert marks("roofline", "g[data-mark=dot] path") == rows
    assert marks("spread", "g[data-mark=tick] line") == sum(
        len(row.latency.host.all) for row in record.rows
    )
    assert marks("frames", "g[data-mark=line] path") == rows + 2
    assert marks("cold", "g[data-mark=line] path") == rows
    # Another metric is another picture, and a curve can be hidden.
    before = browser.find_element("id", "pareto").get_attribute("innerHTML")
    browser.find_element("css selector", "#pareto-metric option[value=psnr]").click()
    assert browser.find_element("id", "pareto").get_attribute("innerHTML") != before
    before = browser.find_element("id", "cold").get_attribute("innerHTML")
    browser.find_element("css selector", "#cold-metric option[value=psnr]").click()
    assert browser.find_element("id", "cold").get_attribute("innerHTML") != before
    browser.find_element("css selector", "#frames-legend input").click()
    assert marks("frames", "g[data-mark=line] path") == rows + 1
    browser.find_element("css selector", "#frames-legend button:last-of-type").click()
    assert marks("frames", "g[data-mark=line] path") == 0


def test_the_sliders_change_the_picture(show) -> None:
    """Bicubic, candidate and truth are flat greys here: 60, 120 and 30, and 3 of the frame."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser = show()
    whole = canvas(browser)
    assert whole.shape == (96, 112, 3)
    greys = [int(whole[80, x, 0]) for x in (5, 56, 107)]
    assert greys == [63, 123, 33]
    before = screenshot(browser, "#view")
    slide(browser, "first", 100)
    assert browser.execute_script("return document.getElementById('view-second').value") == "100"
    assert {int(canvas(browser)[80, x, 0]) for x in (5, 56, 107)} == {63}
    after = screenshot(browser, "#view")
    assert before.shape == after.shape
    assert np.abs(before.astype(int) - after).mean() > 5
    slide(browser, "first", 0)
    slide(browser, "second", 100)
    assert {int(canvas(browser)[80, x, 0]) for x in (5, 56, 107)} == {123}
    slide(browser, "second", 0)
    assert {int(canvas(browser)[80, x, 0]) for x in (5, 56, 107)} == {33}
    assert [int(canvas(browser, f"zoom-{n}")[120, 120, 0]) for n in range(3)] == [63, 123, 33]
    browser.find_element("css selector", "#view-frame option:last-child").click()
    WebDriverWait(browser, 20).until(lambda b: int(canvas(b, "zoom-2")[120, 120, 0]) == 39)


def test_the_keyboard_does_all_of_it(show) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = show()
    slider = browser.find_element("id", "view-first")
    before = canvas(browser)
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert float(slider.get_attribute("value")) == 38
    assert not np.array_equal(canvas(browser), before)
    view = browser.find_element("id", "view")
    before = canvas(browser)
    view.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert not np.array_equal(canvas(browser), before), "the frame of the magnifier moved"
    button = browser.find_element("css selector", '#summary th[data-key="p50"] button')
    button.send_keys(Keys.ENTER)
    order = browser.execute_script(
        "return [...document.querySelectorAll('#summary tbody td[data-key=p50]')]"
        ".map(td => td.dataset.value)"
    )
    values = [float(v) for v in order if v]
    assert values == sorted(values)
    assert order[len(values) :] == ["", ""], "what was not measured comes last"
    head = browser.find_element("css selector", '#summary th[data-key="p50"]')
    assert head.get_attribute("aria-sort") == "ascending"
    reached = browser.execute_script(
        "return [...document.querySelectorAll('a[href], button, input, select, summary, "
        "canvas#view, .scroll')].every(e => e.tabIndex >= 0)"
    )
    assert reached


def test_the_first_screen_is_the_answer(show, record) -> None:
    """At 1280x800: the sentence, its table, a chart, one line of warning; the rest is folded."""
    browser = show(unfolded=False)
    found = answer(record)
    first = browser.execute_script(
        "return ['.answer', '.doubts', '#answer', '#pareto svg[role=img]'].map(s => { "
        "const e = document.querySelector(s); "
        "return [e.textContent, e.getBoundingClientRect().bottom, e.clientHeight]; })"
    )
    assert first[0][0] == found.headline
    assert first[1][0].startswith(found.doubts)
    assert first[1][2] < 40, "one line"
    assert all(bottom <= 800 for _, bottom, _ in first)
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#answer tbody tr')].map(tr => "
        "[tr.dataset.row, tr.lastChild.textContent])"
    )
    assert [key for key, _ in rows] == [e.key for e in found.lines]
    for (_, told), e in zip(rows, found.lines, strict=True):
        assert told == verdict(e, found.lines) + mark(e)
    open_ones = browser.execute_script("return document.querySelectorAll('details[open]').length")
    assert open_ones == 0


@pytest.mark.parametrize("unfolded", [False, True])
def test_axe_finds_nothing_and_no_label_covers_another(browser, report, unfolded) -> None:
    for look in looks(browser, report.as_uri()):
        settled(browser)
        if unfolded:
            unfold(browser)
        assert collisions(browser) == [], look
        assert findings(browser) == [], look


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(show, width, scheme) -> None:
    """Nothing but the boxes meant for it scrolls sideways; text stands out from its ground."""
    browser = show(width, scheme)
    sides = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth, innerWidth]"
    wide, room, window = browser.execute_script(sides)
    assert window == width
    assert wide == room
    clipped = browser.execute_script(
        "return [...document.querySelectorAll('main svg text')].filter(t => {"
        "const b = t.getBoundingClientRect(); return b.width && (b.left < -1 || b.right > "
        "document.documentElement.clientWidth + 1); }).map(t => t.textContent)"
    )
    assert clipped == []
    seen = screenshot(browser)
    assert seen.shape[1] == width
    corner = seen[2, 2].mean()
    assert corner > 240 if scheme == "light" else corner < 40
    for name in ("--ink", "--muted", "--accent", "--warn", *(f"--s{n}" for n in range(8))):
        assert contrast(browser, name, "--panel") >= (4.5 if not name.startswith("--s") else 3), (
            name
        )


def contrast(browser: Any, ink: str, ground: str) -> float:
    """WCAG 2's contrast of two of the page's colours."""

    def luminance(name: str) -> float:
        value = browser.execute_script(
            "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])", name
        ).strip()
        channels = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
