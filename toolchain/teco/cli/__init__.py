"""The ``teco`` command. One file per command; none is imported before it is asked for."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import click

from teco import __version__
from teco.core.text import printable

SECTIONS = {
    "watch": (
        "Enlarge and watch",
        {
            "upscale": "Enlarge a clip four times, or twice.",
            "preview": "Show a moment by every choice, and what the whole would take.",
            "models": "List the shipped models: for what, how large, how fast here.",
            "play": "Watch a clip enlarged, in mpv or ffplay.",
            "serve": "Serve a page that plays videos enlarged, in the browser.",
            "emit": "Write what a player needs: script or page, model, README.",
        },
    ),
    "deploy": (
        "Deploy",
        {
            "export": "Make a verified ONNX file of weights, and engines of it.",
            "verify": "Say whether an ONNX file or an engine is what it says.",
            "info": "Say what a model, a weights file or a variant is and costs.",
            "estimate": "Say what a variant will cost before anything is built.",
            "doctor": "Say what this machine can run, and what is missing.",
            "fetch": "Fetch what teco uses and does not carry, once.",
        },
    ),
    "measure": (
        "Measure",
        {
            "bench": "Measure latency, memory and quality.",
            "compare": "Compare two records of teco bench.",
            "catalogue": "Check records of teco bench for the shipped catalogue.",
            "eval": "Measure quality on clips with a ground truth.",
            "table": "Compare models on test sets, beside published figures.",
        },
    ),
    "research": (
        "Train and prune",
        {
            "train": "Train a network: flow start, recurrent stage, GAN stage.",
            "prune": "Make weights smaller: fewer blocks or channels.",
            "blend": "Mix networks of one family: the mean of their weights.",
            "reproduce": "Go through all steps to the paper's table, or list them.",
        },
    ),
}
"""Folder of the commands -> title of their section and, by command, the first line of its help.

Kept here so that ``teco --help`` imports no command.
"""

COMMANDS = {name: folder for folder, (_, names) in SECTIONS.items() for name in names}
"""Command -> folder that holds its module."""

_OTHER_WORDS = {
    "enlarge": "upscale", "upsample": "upscale", "super-resolve": "upscale", "enhance": "upscale",
    "convert": "export", "compile": "export", "build": "export", "quantize": "export",
    "benchmark": "bench", "profile": "bench", "time": "bench", "evaluate": "eval", "psnr": "eval",
    "finetune": "train", "distil": "train", "cut": "prune", "download": "fetch", "watch": "play",
    "list": "models", "zoo": "models", "compare-models": "table", "check": "verify",
    "version": "doctor", "web": "serve", "vapoursynth": "emit",
}  # fmt: skip
"""What other tools call a command -> what it is called here."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"teco.cli.{COMMANDS[cmd_name]}.{cmd_name}")
        command: click.Command = module.command
        if not any(p.name == "verbose" for p in command.params):
            command.params.append(_verbose())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from teco.core.names import did_you_mean

        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            if name in _OTHER_WORDS:
                near = f"did you mean {_OTHER_WORDS[name]}?"
            else:
                near = did_you_mean(name, COMMANDS).strip() or "`teco --help` lists all"
            ctx.fail(f"there is no command {name!r}. {near.capitalize()}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.values():
            with formatter.section(title):
                formatter.write_dl(list(names.items()), col_max=12)


def _listen(verbose: bool) -> None:
    from teco.core import log

    log.to_stderr(lambda line: click.echo(printable(line), err=True), verbose=verbose)


def _verbose() -> click.Option:
    """``-v``, which every command takes."""

    def apply(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            _listen(verbose=True)

    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=apply,
        help="Say more of what is done, for finding faults.",
    )  # fmt: skip


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="teco")
def cli() -> None:
    """TecoGAN video super-resolution from weights to a player.

    Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 it failed, 2 wrong
    usage, 3 this machine cannot (a GPU, a driver or an extra is missing).
    """
    _listen(verbose=False)


_INTERRUPTED = "interrupted; no unfinished file was left"


def main() -> None:
    """Entry point: every error is one sentence and a hint, never a traceback."""
    stopped = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    # SIGTERM unwinds like Ctrl-C, so that temporary files are removed.
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    # What OpenCV says about a damaged picture, we say in a sentence.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        (_meant(error) if isinstance(error, click.NoSuchOption) else error).show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain(_INTERRUPTED)
        code = 1
    except BrokenPipeError:
        # The reader of our stdout has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MemoryError:
        _complain("out of memory", "use a smaller clip or fewer threads")
        code = 1
    except Exception as error:
        from teco.core.errors import Interrupted

        if stopped and not isinstance(error, Interrupted):
            # Extension modules that were being imported make an ImportError of an interrupt.
            _complain(_INTERRUPTED)
            code = 1
        else:
            code = _explain(error)
    _leave(code if isinstance(code, int) else 0)


_MEANT = {
    "--size": "--to", "--resolution": "--to", "--res": "--to", "--height": "--to", "-s": "--scale",
    "--factor": "--scale", "--gpu": "--runtime", "--device": "--runtime", "--cuda": "--runtime",
    "--provider": "--runtime", "--fps": "--rate", "--output": "-o", "--name": "--model",
    "--network": "--model", "--weights": "--model", "--overwrite": "--force", "-f": "--force",
    "-y": "--force", "--precision": "--fp16", "--half": "--fp16", "--begin": "--start",
    "--from": "--start", "--duration": "--end", "--encoder": "--codec", "--vcodec": "--codec",
    "-c:v": "--codec", "--quantise": "--int8", "--quantize": "--int8", "--clips": "--data",
    "--input": "--clip", "--preset-quality": "--quality", "--mode": "--quality",
}  # fmt: skip
"""Options as other tools call them -> ours."""


def _meant(error: click.NoSuchOption) -> click.UsageError:
    """The same with the option that people mean who know other tools."""
    command = error.ctx.command if error.ctx is not None else None
    known = {flag for p in command.params for flag in p.opts} if command is not None else set[str]()
    meant = _MEANT.get(error.option_name)
    if meant not in known:
        return error
    text = f"No such option {error.option_name!r}. Did you mean {meant!r}?"
    return click.UsageError(text, ctx=error.ctx)


def _explain(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    # TecoError, ClipError and ModelError share these fields, not a base class: the packages
    # below do not know this one.
    message = getattr(error, "message", None)
    if message is not None:
        _complain(str(message), str(getattr(error, "hint", "")))
        return int(getattr(error, "exit_code", 1))
    if os.environ.get("TECO_DEBUG"):
        raise error
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        _complain(
            f"out of memory on the device: {str(error).splitlines()[0]}",
            "use a smaller clip, batch or crop",
        )
        return 1
    from teco.core.memory import is_refused_memory

    if is_refused_memory(error):
        _complain("out of memory", "use a smaller clip or fewer threads")
        return 1
    if isinstance(error, OSError) and error.strerror:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return 1
    _complain(
        f"internal error, {type(error).__name__}: {error}",
        "this is a bug; run it again with TECO_DEBUG=1 and report what it prints",
    )
    return 1


def _leave(code: int) -> NoReturn:
    if any(t.name.startswith("teco-") for t in threading.enumerate()):
        # Left behind, blocked on a pipe (see teco.inference.upscale). It holds the lock of standard
        # input or output, which the interpreter would wait for in vain.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(message: str, hint: str = "") -> None:
    click.echo(printable(f"teco: {message}"), err=True)
    if hint:
        click.echo(printable(f"  hint: {hint}"), err=True)
