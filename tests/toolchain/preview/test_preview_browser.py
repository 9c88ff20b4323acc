"""The page of a preview in a real browser; see tests/support/browser.py for what that needs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import browser
import cv2
import numpy as np
import pytest
from accessibility import findings, looks
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from teco.core.pixels import Pixels
from teco.inference.upscale import Prospect
from teco.page.viewer import Crop
from teco.preview.measure import Measured
from teco.preview.moment import Moment
from teco.preview.page import write_page
from teco.preview.run import Choice, Preview

pytestmark = pytest.mark.slow

GREYS = {"bicubic": 60, "real-cpu": 120, "real-cpu-textured": 200}


def choice(name: str, grey: int) -> Choice:
    def flat(height: int, width: int, value: int) -> Pixels:
        return np.full((height, width, 3), value, np.uint8)

    frames = (4, 8)
    measured = Measured(
        frame_s=0.36, step_s=0.24, timed=20, repeats=0.0, length=None,
        pictures={n: flat(300, 400, grey + n) for n in frames},
        thumbnails={n: flat(120, 160, grey) for n in frames},
    )  # fmt: skip
    return Choice(
        name=name, spec=name, runtime="" if name == "bicubic" else "openvino", measured=measured,
        whole=Prospect(172_800, 640, 480, 62_000.0), memory=3 << 30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    found = Preview(
        moment=Moment(
            path=Path("A film with a long name, in two parts.mkv"), kind="clip", start=3600.0,
            frames=48, rate=Fraction(24), count=172_800, width=160, height=120,
            notices=("the file is cut short; it will be read to its last whole frame",),
        ),
        scale=4, runtime="auto", refused=(), frames=(4, 8), crop=Crop(90, 120, 300, 400, 480, 640),
        choices=tuple(choice(name, grey) for name, grey in GREYS.items()),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, found)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as window:
        yield window


def show(window: Any, page: Path, width: int = 1280, scheme: str = "light") -> Any:
    window.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.resize(window, width, 800)
    window.get(page.as_uri())
    WebDriverWait(window, 20).until(lambda w: canvas(w)[-2, -2].any())
    return window


def canvas(window: Any, ident: str = "view") -> np.ndarray:
    """(H, W, 3) RGB."""
    url = window.execute_script(
        "return document.getElementById(arguments[0]).toDataURL('image/png')", ident
    )
    coded = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_the_slider_goes_from_bicubic_to_each_choice(chromium, page) -> None:
    window = show(chromium, page)
    picture = canvas(window)
    assert picture.shape == (300, 400, 3)
    assert [int(picture[280, x, 0]) for x in (5, 395)] == [64, 124]
    slider = window.find_element("id", "view-first")
    assert slider.get_attribute("value") == "50"
    slider.send_keys(Keys.HOME)
    assert {int(canvas(window)[280, x, 0]) for x in (5, 395)} == {124}
    slider.send_keys(Keys.END)
    assert {int(canvas(window)[280, x, 0]) for x in (5, 395)} == {64}
    slider.send_keys(Keys.HOME)
    window.find_element("css selector", "#view-right option:last-child").click()
    WebDriverWait(window, 20).until(lambda w: int(canvas(w)[280, 395, 0]) == 204)
    window.find_element("css selector", "#view-frame option:last-child").click()
    WebDriverWait(window, 20).until(lambda w: int(canvas(w)[280, 395, 0]) == 208)
    assert [int(canvas(window, f"zoom-{n}")[120, 120, 0]) for n in range(2)] == [68, 208]
    before = canvas(window)
    window.find_element("id", "view").send_keys(Keys.ARROW_LEFT)
    assert not np.array_equal(canvas(window), before), "the frame of the magnifier moved"


def test_nothing_is_asked_of_the_network_and_nothing_fails(chromium, page) -> None:
    chromium.get_log("browser")
    window = show(chromium, page)
    assert window.get_log("browser") == []
    asked = window.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name for name in asked if not name.startswith("data:")] == []


@pytest.mark.fetched
def test_axe_finds_nothing(chromium, page) -> None:
    for look in looks(chromium, page.as_uri()):
        WebDriverWait(chromium, 20).until(lambda w: canvas(w)[-2, -2].any())
        assert findings(chromium) == [], look


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_everything_has_a_name(chromium, page, width, scheme) -> None:
    window = show(chromium, page, width, scheme)
    wide, room = window.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert wide == room
    # The table needs no scrolling, the outline lies on the picture that it is about.
    table, box, image, outline = window.execute_script(
        "const r = s => { const b = document.querySelector(s).getBoundingClientRect();"
        " return [b.left, b.right, b.top, b.bottom]; };"
        "return ['table', '.scroll', '.where img', '.where span'].map(r)"
    )
    assert table[1] <= box[1]
    assert image[0] < outline[0] < outline[1] < image[1]
    assert image[2] < outline[2] < outline[3] < image[3]
    unnamed = window.execute_script(
        "return [...document.querySelectorAll('select, input, canvas, img, [role=region]')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && "
        "!e.getAttribute('alt')).map(e => e.outerHTML)"
    )
    assert unnamed == []
    headings = window.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)"
    )
    assert headings == ["H1", "H2", "H2", "H2", "H2"]
    seen = np.frombuffer(window.get_screenshot_as_png(), np.uint8)
    corner = cv2.imdecode(seen, cv2.IMREAD_COLOR)[2, 2].mean()
    assert corner > 240 if scheme == "light" else corner < 40
