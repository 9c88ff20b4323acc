"""Draws the layers for the architecture page from the contract that CI checks.

A hook of MkDocs: ``<!-- layers: ID -->`` in a page becomes a picture of the contract of that id in
pyproject.toml, each part with the first line of its docstring. So the picture cannot drift from the
rule.
"""

from __future__ import annotations

import ast
import html
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_ROOTS = {"teco": "toolchain", "teco_models": "models", "teco_calibration": "calibration"}
_STYLE = "border:1px solid; border-radius:4px; padding:.3em .7em; margin:.2em; flex:1 1 12em"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs asks this for every page."""
    return re.sub(r"<!-- layers: (\w+) -->", lambda match: _drawn(match[1]), markdown)


def _drawn(contract_id: str) -> str:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (found,) = (c for c in contracts["contracts"] if c["id"] == contract_id)
    container = found.get("containers", [""])[0]
    rows = [
        f'<div style="display:flex; flex-wrap:wrap">{"".join(map(_box, parts))}</div>'
        for layer in found["layers"]
        if (parts := [".".join(filter(None, (container, p.strip()))) for p in layer.split("|")])
    ]
    return f'<div role="figure" aria-label="{html.escape(found["name"])}">{"".join(rows)}</div>'


def _box(module: str) -> str:
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(_summary(module)))
    return f'<div style="{_STYLE}"><code>{module}</code><br>{text}</div>'


def _summary(module: str) -> str:
    """First line of a module's docstring, without importing it."""
    path = ROOT / _ROOTS[module.split(".")[0]] / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.splitlines()[0] if text else ""
