"""What of a file survives, in every usual container: nothing is lost without a word.

The table in docs/clips.md is what this test finds; TECO_WRITE_DOCS=1 writes it there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.carried_over import PROPERTIES, ROUTES, Route, carried, fill

PAGE = Path(__file__).parents[3] / "docs" / "clips.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
MARKS = {"kept": "●", "converted": "◐", "named": "○", "": ""}

_found: dict[str, dict[str, str]] = {}


def fate(route: Route, folder: Path) -> dict[str, str]:
    """What becomes of each property; each route is taken once."""
    if str(route) not in _found:
        folder = folder / str(ROUTES.index(route))
        folder.mkdir()
        source = fill(folder / f"in{route.into}", route)
        _found[str(route)], _ = carried(source, folder / f"out{route.out}", route)
    return _found[str(route)]


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_nothing_is_lost_without_a_word(route, tmp_path) -> None:
    found = fate(route, tmp_path)
    assert [name for name, became in found.items() if became == "lost"] == []
    # The input really held something, and most of that is still there.
    assert list(found.values()).count("kept") >= 7


def table(folder: Path) -> str:
    """The table of the page."""
    lines = ["| | " + " | ".join(str(r).replace(".", "") for r in ROUTES) + " |"]
    lines.append("|---|" + ":-:|" * len(ROUTES))
    for name in PROPERTIES:
        cells = [MARKS[fate(route, folder)[name]] for route in ROUTES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_page_has_the_table_that_was_found(tmp_path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    expected = f"{before}{BEGIN}\n\n{table(tmp_path)}\n\n{END}{after}"
    if os.environ.get("TECO_WRITE_DOCS"):
        PAGE.write_text(expected, encoding="utf-8")
    assert page == expected, "TECO_WRITE_DOCS=1 writes the table anew"


def test_every_property_is_seen_somewhere(tmp_path) -> None:
    for name in PROPERTIES:
        assert any(fate(route, tmp_path)[name] for route in ROUTES), name
