"""The notebook runs from its first cell to its last, without Jupyter, and keeps nothing."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_no_run_is_kept_in_it() -> None:
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_it_needs_nothing_of_the_repository() -> None:
    for text in CODE:
        assert "examples/" not in text
        assert "../" not in text


def run(cells: list[str]) -> tuple[dict[str, Any], list[Any]]:
    """The names that are left, and what each cell shows: the value of its last line."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    for n, text in enumerate(cells):
        body = ast.parse(text).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"cell {n}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {n}", "eval"), names)
            shown.append(value._repr_png_() if hasattr(value, "_repr_png_") else value)
    return names, shown


@pytest.mark.slow
def test_it_runs_and_says_what_its_words_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    monkeypatch.chdir(tmp_path)
    names, shown = run(CODE)
    psnr = names["psnr"]
    assert psnr["teco"] > psnr["bicubic"] + 0.3
    assert psnr["teco"] > psnr["teco without the past"]
    assert shown[0] == ((404, 720, 3), (101, 180, 3))
    assert next(x for x in shown if isinstance(x, bytes)).startswith(b"\x89PNG")
    assert {name for name, *_ in shown[-1]} >= {"real-cpu", "live"}
    with av.open("large.mp4") as clip:
        assert (clip.streams.video[0].width, clip.streams.video[0].height) == (720, 404)
        assert sum(1 for _ in clip.decode(video=0)) == 16
