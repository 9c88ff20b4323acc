"""Option types and progress shared by the commands."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.core.text import printable
from teco_models.variant import MIN_SIZE, SCALE

if TYPE_CHECKING:
    _SizeType = click.ParamType[tuple[int, int] | None]
    _MomentType = click.ParamType[float]
    _TimesType = click.ParamType[int]
else:
    _SizeType = _MomentType = _TimesType = (
        click.ParamType
    )  # a generic class only in the newest click


THREADS = click.IntRange(1, 1024)
"""As many as libteco and the GStreamer element take; a slip of the finger starts no more."""


class Size(_SizeType):
    """``HxW`` as (height, width); the word "dynamic" as None where allowed.

    Sizes of tensors are height first, those of screens width first, so that a size which makes a
    portrait is asked about on a terminal, and said in words elsewhere. "720p" is the picture that
    comes out of a network which enlarges four times, as in ``teco estimate``.
    """

    name = "HxW"

    def __init__(self, *, dynamic: bool = False) -> None:
        self.dynamic = dynamic

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int] | None:
        if isinstance(value, tuple) or value is None:
            return value
        if self.dynamic and value == "dynamic":
            return None
        if lines := re.fullmatch(r"(\d{3,4})[pP]", str(value)):
            size = int(lines[1]) // SCALE, round(int(lines[1]) * 16 / 9 / SCALE)
            say(f"note: {value} is what comes out: frames {size[1]} wide and {size[0]} high go in")
            return size
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if match is None:
            also = ' or "dynamic"' if self.dynamic else ""
            self.fail(
                f"{value!r} is no size; expected HEIGHTxWIDTH such as 180x320, or 720p{also}",
                param, ctx,
            )  # fmt: skip
        size = int(match[1]), int(match[2])
        if min(size) < MIN_SIZE:
            self.fail(f"{value} is too small, expected {MIN_SIZE}x{MIN_SIZE} or more", param, ctx)
        return self._as_meant(size) if size[0] > size[1] else size

    def _as_meant(self, size: tuple[int, int]) -> tuple[int, int]:
        h, w = size
        read = f"{h}x{w} is height x width: frames {w} wide and {h} high"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            say(f"note: {read}")
            return size
        keep = click.confirm(f"{read}. Is that meant? No: {h} wide and {w} high.", err=True)
        return size if keep else (w, h)


def complete_models(
    _ctx: click.Context, _param: click.Parameter | None, incomplete: str
) -> list[Any]:
    """Shell completion: shipped models, and files."""
    from click.shell_completion import CompletionItem

    from teco_models import zoo

    names = [e.name for e in zoo.entries() if e.name.startswith(incomplete)]
    found = [CompletionItem(name) for name in names]
    return found or [CompletionItem(incomplete, type="file")]


def complete_runtimes(
    _ctx: click.Context, _param: click.Parameter | None, incomplete: str
) -> list[str]:
    """Shell completion: runtimes; of a list, its last one."""
    from teco.runtimes import NAMES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in ("auto", *NAMES) if name.startswith(last)]


class Times(_TimesType):
    """How many times: 2, or as people write it, 2x and x2."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"[xX]?(\d{1,3})[xX]?", str(value))
        if match is None:
            self.fail(f"{value!r} is no scale; expected 2 or 4", param, ctx)
        return int(match[1])


def model_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--model",
        default=None,
        metavar="NAME|FILE",
        shell_complete=complete_models,
        help="A shipped model, an .onnx file, weights or an engine. "
        "[default: real-cpu, or what other options choose]",
    )(function)


def scale_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--scale", type=Times(), metavar="N",
        help="How many times as high and wide, 2 or 4. [default: what the model does, 4]",
    )(function)  # fmt: skip


def runtime_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--runtime",
        default="auto",
        show_default=True,
        metavar="NAME",
        shell_complete=complete_runtimes,
        help="auto, or one that `teco doctor` lists; auto measures which is fastest here.",
    )(function)


def choice_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--quality`` and ``--look``, for those who know what they want and no names."""
    for option in (
        click.option(
            "--look", type=click.Choice(["faithful", "textured"]),
            help="Nothing that is not in the clip, or sharper with invented texture. "
            "[default: faithful]",
        ),
        click.option(
            "--quality", type=click.Choice(["fast", "balanced", "best"]),
            help="Which network and runtime: fast may compute in bfloat16 or float16, balanced is "
            "float32, best takes the largest network (today as balanced). [default: balanced; on "
            "an NVIDIA GPU float16 too, where an exported form passed its gate]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def seconds_option(flag: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A moment of a clip, ``flag SECONDS`` or as players show it, ``1:02:03.5``."""
    return click.option(flag, type=ClipTime(), metavar="TIME", help=help)


class ClipTime(_MomentType):
    """Seconds, MINUTES:SECONDS or HOURS:MINUTES:SECONDS, as seconds."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        match = re.fullmatch(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?([0-5]?\d(?:\.\d{0,9})?)", text)
        if match is not None and ":" in text:
            return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])
        try:
            return float(text)
        except ValueError:
            self.fail(
                f"{value!r} is no time; expected seconds such as 62.5, or 1:02.5 or 0:01:02.5",
                param, ctx,
            )  # fmt: skip


def threads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--threads", type=THREADS, help="CPU threads of the network. [default: all]"
    )(function)


class Renamed(click.Option):
    """An option with an older name, which still works and is not shown.

    Args:
        older: such as ``--warm-up``.
    """

    def __init__(self, *args: Any, older: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._older = older

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown = self.opts
        self.opts = [*shown, self._older]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


def reverse_warm_up_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--reverse-warm-up",
        cls=Renamed,
        older="--warm-up",
        type=click.IntRange(0, 1000),  # frames that are held in memory
        default=0,
        show_default=True,
        help="Coming frames run backwards, and dropped, at a scene's start.",
    )(function)


def not_a_pipe(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    """Callback for clips that are read more than once."""
    if value == "-" or (isinstance(value, tuple) and "-" in value):
        raise click.BadParameter("the clip is read twice, which a pipe cannot be; give a file")
    return value


def check_writable(path: Path) -> None:
    """Raise BadParameter where a file cannot be made or replaced there; tried, not guessed."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror or error}") from error


def json_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--json FILE``; that the file can be made is known before the long work, not after."""
    return report_option("--json", "json_file", ".json", help)


def report_option(
    flag: str, name: str, suffix: str, help: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``flag FILE``; that the file can be made is known before the long work, not after.

    Args:
        flag: such as ``--html``.
        name: of the parameter, which is a Path or None.
        suffix: that the file must have.
        help: of the option.
    """

    def check(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        # Whatever else lies there, weights or a clip, is not to be written over by a slip.
        if path.suffix.lower() != suffix:
            raise click.BadParameter(f"{path} should end in {suffix}")
        if not path.resolve().parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist")
        if path.is_dir():
            raise click.BadParameter(f"{path} is a folder, expected a file")
        check_writable(path)
        if suffix == ".json" and path.with_suffix(".onnx").exists():
            model = path.with_suffix(".onnx").name
            raise click.BadParameter(f"{path} is where the manifest of {model} lies")
        return path

    return click.option(
        flag, name, type=click.Path(path_type=Path), callback=check, metavar="FILE", help=help
    )


class _Rate:
    """Units a second since the first that was told of. What came before, such as opening or
    exporting networks, is no part of the rate; nor is work that was resumed, or a count before this
    one."""

    def __init__(self) -> None:
        self._began = self._first = self._last = -1.0

    def __call__(self, done: int) -> float:
        """0 while there is nothing to tell it from."""
        now = time.monotonic()
        if self._last < 0 or done < self._last:
            self._began, self._first = now, done
        self._last = done
        return (done - self._first) / max(now - self._began, 1e-9)


@contextmanager
def progress(label: str, unit: str = "frames") -> Generator[Callable[[int, int | None], None]]:
    """Show how far long work is, on stderr: a bar on a terminal, a line now and then elsewhere.

    Yields:
        A function of (done, total or None).
    """
    rate_of = _Rate()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None, rate="")

            def show(done: int, total: int | None) -> None:
                rate = rate_of(done)
                bar.update(
                    task, completed=done, total=total, rate=f"{rate:.1f} {unit}/s" if rate else ""
                )

            yield show
        return

    last = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        rate = rate_of(done)
        if now - last < 10:
            return
        last = now
        pace = f", {rate:.2f}/s" if rate else ""
        left = f", {(total - done) / rate:.0f} s left" if total and rate and total > done else ""
        say(f"{label}: {done}{f' of {total}' if total else ''} {unit}{pace}{left}")

    yield tell


def say(text: str) -> None:
    """A line on stderr, as :func:`put` puts it."""
    click.echo(printable(text), err=True)


def put(text: object, *, nl: bool = True) -> None:
    """Text on stdout. What came from a file of others cannot steer the terminal: see
    :func:`teco.core.text.printable`."""
    click.echo(printable(str(text)), nl=nl)


def weights_file(spec: str) -> Path:
    """The weights that a name or a file stands for.

    Raises:
        TecoError: there is no such thing, or it is an ONNX file.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.model.opening import open_model

    opened = open_model(spec)
    source = opened.weights
    if source is None:
        raise TecoError(
            f"{spec} is {opened.kind}, which holds no weights to work on",
            hint="give the .safetensors or .pth file it was exported from",
            exit_code=USAGE,
        )
    return source
