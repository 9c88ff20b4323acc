"""One HTML file that asks for nothing: its style, scripts, data and pictures are inside it.

What a page says stands in it as text and tables; scripts add what moves. Its own policy forbids
every connection, so that it cannot need one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

_GENERATOR = '<meta name="generator" content="teco">'

STYLE = files("teco.page").joinpath("page.css").read_text(encoding="utf-8")
"""Of every page: colours in both schemes, text, tables, controls, the viewer."""


def document(
    *,
    title: str,
    head: str,
    main: str,
    footer: str,
    data: Mapping[str, str],
    scripts: Iterable[str],
    style: str = "",
) -> str:
    """The file as text.

    Args:
        title: of the window and the first heading; plain text.
        head: HTML below that heading.
        main: HTML of the sections.
        footer: HTML below them.
        data: id -> JSON text of a block that scripts read.
        scripts: JavaScript, in order, after the data.
        style: CSS beside :data:`STYLE`.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{_GENERATOR}<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title>"
        f'<link rel="icon" href="data:,"><style>{STYLE}{style}</style></head><body>'
        '<a class="skip" href="#main">To the results</a>'
        f'<header class="top"><h1>{escape(title)}</h1>{head}</header>'
        f'<main id="main">{main}</main><footer>{footer}</footer>'
        f"{''.join(_block(ident, text) for ident, text in data.items())}"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def is_ours(path: Path) -> bool:
    """Whether a file is such a page."""
    with path.open("rb") as file:
        return _GENERATOR.encode() in file.read(1000)


def _block(ident: str, text: str) -> str:
    """JSON inside a page: compact, and unable to end its own element."""
    compact = json.dumps(json.loads(text), separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{ident}">{compact}</script>'


def section(ident: str, title: str, body: str) -> str:
    """A part of the page under a heading of its own."""
    return (
        f'<section aria-labelledby="{ident}"><h2 id="{ident}">{escape(title)}</h2>{body}</section>'
    )


def picker(ident: str, label: str, options: Sequence[tuple[str, str]], chosen: str = "") -> str:
    """A list to choose from: (value, text) each."""
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(text)}</option>"
        for value, text in options
    )
    return f'<label>{escape(label)} <select id="{ident}">{items}</select></label>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of texts, its first column the rows' names; "" without rows.

    A column of dashes alone is left out: nobody measured it, as device memory without a device.
    """
    if not rows:
        return ""
    told = [n for n in range(len(header)) if n == 0 or any(row[n] != "-" for row in rows)]
    header, rows = [header[n] for n in told], [[row[n] for n in told] for row in rows]
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    label = f"<caption>{escape(caption)}</caption>" if caption else ""
    return scrolling(
        f"<table>{label}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        caption or header[0],
    )


def scrolling(table: str, label: str) -> str:
    """A wide table in a box that scrolls, by keyboard too."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{table}</div>'
    )
