"""``teco preview``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from teco.cli.options import (
    put,
    report_option,
    runtime_option,
    say,
    scale_option,
    seconds_option,
)


def _page_of(path: Path, asked: Path | None) -> Path:
    """Where the page goes; only a page of teco's is replaced."""
    from teco.core.errors import USAGE, TecoError
    from teco.core.files import check_target
    from teco.page.document import is_ours

    page = asked or Path(f"{path.resolve().stem}-preview.html")
    check_target(page, overwrite=True, source=path)
    if page.exists() and not is_ours(page):
        raise TecoError(
            f"{page} exists already, and is no page that teco wrote",
            hint="give another name by -o",
            exit_code=USAGE,
        )
    return page


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first on the left, the others on the right."""
    lines = [header, *rows]
    wide = [max(len(line[n]) for line in lines) for n in range(len(header))]
    return "".join(
        "  ".join(
            cell.rjust(w) if n else cell.ljust(w)
            for n, (cell, w) in enumerate(zip(line, wide, strict=True))
        )
        + "\n"
        for line in lines
    )


@click.command("preview")
@click.argument("source", metavar="IN")
@report_option("-o", "page", ".html", "The page. [default: IN-preview.html in this folder]")
@seconds_option("--at", "Which moment, as 62.5 or 1:02.5. [default: the middle]")
@click.option(
    "--seconds", type=click.FloatRange(0, 60, min_open=True), default=2.0, show_default=True,
    help="How much of it.",
)  # fmt: skip
@click.option(
    "--model", "models", multiple=True, metavar="NAME|FILE",
    help="A choice; give it once for each. [default: those for ordinary clips on a CPU]",
)  # fmt: skip
@scale_option
@runtime_option
@click.option(
    "--frames", type=click.IntRange(1, 1000),
    help="All of so many frames, however long they take. [default: what 6 seconds allow]",
)  # fmt: skip
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
def command(
    source: str,
    page: Path | None,
    at: float | None,
    seconds: float,
    models: tuple[str, ...],
    scale: int | None,
    runtime: str,
    frames: int | None,
    show: bool,
) -> None:
    """Show a moment of the clip IN by every choice, and what the whole would take.

    Bicubic interpolation and the models go over the same frames, on the fastest float32 runtime
    here. A table of time and memory goes to stdout; a page with the pictures side by side, which
    needs no network, to a file. IN is a video file, a folder of pictures, or a picture.
    """
    import webbrowser

    from teco.core.errors import USAGE, TecoError
    from teco.model.opening import open_for_scale, ordinary_models
    from teco.preview.moment import find
    from teco.preview.page import HEADER, command_of, notes, rows, write_page
    from teco.preview.run import BICUBIC, preview
    from teco_models.variant import SCALE

    path = Path(source)
    moment = find(path, at=at, seconds=seconds, frames=frames)
    if models:
        opened = [open_for_scale(name, scale) for name in dict.fromkeys(models)]
        if len({m.variant.scale for m in opened}) > 1:
            said = ", ".join(f"{m.name} enlarges {m.variant.scale} times" for m in opened)
            raise TecoError(
                f"pictures of two sizes cannot be laid over each other: {said}",
                hint="give models of one scale",
                exit_code=USAGE,
            )
        if odd := next((m for m in opened if m.planes is not None), None):
            raise TecoError(
                f"{odd.name} takes {odd.planes} planes, and a preview compares RGB pictures",
                hint="give the model it is made from, or export it with --io uint8",
                exit_code=USAGE,
            )
        names = [BICUBIC, *(m.name for m in opened)]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise TecoError(
                f"two choices are called {twice}",
                hint="give one of the files another name",
                exit_code=USAGE,
            )
    else:
        open_for_scale(None, scale)  # says which scales there are
        opened = ordinary_models(scale or SCALE)
    page = _page_of(path, page)
    for text in moment.notices:
        say(f"note: {text}")
    found = preview(moment, opened, runtime, patient=frames is not None, tell=say)
    write_page(page, found)
    put(_table(HEADER, rows(found)), nl=False)
    for text in notes(found):
        if text not in moment.notices:
            say(f"note: {text}")
    say(f"page: {page}")
    say(f"next: {' '.join(command_of(found, found.choices[1]))}")
    if show and not webbrowser.open(page.resolve().as_uri()):
        say(f"note: there is no browser here to open {page} with")
