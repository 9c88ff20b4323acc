"""Whether a page can be read by everybody: what axe finds, and labels that cover each other.

axe-core (MPL-2.0) is fetched by hand or by `.ci/run`, never by a test: ``python
tests/support/accessibility.py``. ``TECO_AXE`` names a folder that has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from browser import resize

from teco.core import npm_package
from teco.core.npm_package import Package

AXE = Package(
    "axe-core",
    "4.14.1",
    708405,
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ("axe.min.js",),
    "TECO_AXE",
    "tests",
)

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")

_RUN = """
const finish = arguments[arguments.length - 1];
axe.run().then((found) => finish(found.violations.map((one) =>
  `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(" ")}`)),
  (error) => finish([String(error)]));
"""

_COLLISIONS = """
const room = document.documentElement.clientWidth, found = [];
for (const svg of document.querySelectorAll("svg")) {
  const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim())
    .map((text) => [text.textContent.trim(), text.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0);
  texts.forEach(([one, a], n) => {
    if (a.left < -1 || a.right > room + 1) found.push(`${one} is cut off`);
    for (const [other, b] of texts.slice(n + 1)) {
      // A line's box is higher than its letters.
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) found.push(`${one} covers ${other}`);
    }
  });
}
return found;
"""


def show_as(page: Any, width: int, scheme: str, height: int = 800) -> None:
    """Give the page this much room, CSS pixels, and the scheme that the user prefers."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    resize(page, width, height)


def findings(page: Any) -> list[str]:
    """What axe finds on the page as it stands, a line for each rule; skips without axe."""
    if not AXE.is_kept and AXE.environment not in os.environ:
        reason = "needs axe-core of npm, once: python tests/support/accessibility.py"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    script = npm_package.find(AXE).files["axe.min.js"].read_text(encoding="utf-8")
    page.execute_script(script)
    return page.execute_async_script(_RUN)


def collisions(page: Any) -> list[str]:
    """Texts of the page's charts that cover each other or are cut off, as sentences."""
    return page.execute_script(_COLLISIONS)


def looks(page: Any, url: str) -> Iterator[tuple[int, str]]:
    """Open the page in each width and scheme, and name them."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            show_as(page, width, scheme)
            page.get(url)
            yield width, scheme


if __name__ == "__main__":
    npm_package.fetch(AXE)
