"""``teco reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import put, say

if TYPE_CHECKING:
    from teco.reproduction.steps import Step
    from teco.reproduction.table3 import Protocol

    _CountsType = click.ParamType[tuple[int, ...]]
else:
    _CountsType = click.ParamType  # a generic class only in the newest click


class _Counts(_CountsType):
    """Numbers with commas between."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            return value if isinstance(value, tuple) else tuple(map(int, str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; expected one such as 7,5,3,1", param, ctx)


@click.command("reproduce")
@click.argument("table", metavar="table-3", type=click.Choice(["table-3"]))
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR",
    help="To train on. [default: REDS; with --small the shipped clip]",
)  # fmt: skip
@click.option(
    "--test", "tests", type=click.Path(path_type=Path), metavar="DIR|CLIP", multiple=True,
    help="A set to measure on. Repeatable. [default: ToS3 and Vid4; with --small "
    "the shipped clip]",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="Of everything that is made. [default: runs/table-3; with --small runs/table-3-small]",
)  # fmt: skip
@click.option(
    "--blocks", type=_Counts(), metavar="N,N,...",
    help="What is left of 10 blocks. [default: 7,5,3,1, the table's; the study's text has 9 too]",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--workers", type=click.IntRange(0, 256), default=1, show_default=True,
    help="Data processes of a training.",
)  # fmt: skip
@click.option("--small", is_flag=True, help="The same chain in minutes; its figures say nothing.")
@click.option("--dry-run", is_flag=True, help="List data, commands and hours, and leave.")
@click.option(
    "--measure", is_flag=True,
    help="Time a few iterations here first, for the hours of --dry-run.",
)  # fmt: skip
def command(
    table: str,
    data: Path | None,
    tests: tuple[Path, ...],
    out: Path | None,
    blocks: tuple[int, ...] | None,
    device: str,
    workers: int,
    small: bool,
    dry_run: bool,
    measure: bool,
) -> None:
    """Go through all steps to the table of the study that teco starts from, or list them.

    Trains TecoGAN with 10 blocks on REDS, prunes it to 7, 5, 3 and 1, trains each on, 300,000
    iterations a network, and measures all on ToS3 and Vid4 beside the published rows. Every step is
    a command of teco; one that is done is skipped, and after Ctrl-C the same command goes on.
    """
    from teco.core.machine import require_extra
    from teco.reproduction.steps import Journal, run_steps
    from teco.reproduction.table3 import PRUNED, Protocol, check, measuring, steps

    protocol = Protocol(
        out=out or Path("runs") / (f"{table}-small" if small else table), data=data, tests=tests,
        blocks=tuple(PRUNED) if blocks is None else blocks, device=device, workers=workers,
        small=small,
    )  # fmt: skip
    journal = Journal(protocol.out / "steps.json")
    if measure or not dry_run:
        for module in ("torch", "safetensors", "tensorboard"):
            require_extra(module, "torch", "training")
    if measure:
        run_steps(measuring(protocol), journal, say)
    chain = steps(protocol)
    if dry_run:
        _list(protocol, chain, journal)
        return
    check(protocol)
    say(_hours(protocol, chain))
    run_steps(chain, journal, say)
    put(protocol.out / "table.md")
    if small:
        say(
            "note: the small form shows that every step works here; after so few iterations its "
            "figures say nothing about the networks"
        )


def _list(protocol: Protocol, chain: list[Step], journal: Any) -> None:
    """Everything to the table, on stdout."""
    from teco.core.errors import TecoError
    from teco.evaluation.table.published import STUDY, STUDY_BLOCKS_NOTE, STUDY_CONDITIONS
    from teco.reproduction.hours import PUBLISHED, estimates
    from teco.reproduction.table3 import needed

    put(f"{STUDY}.\nConditions: {STUDY_CONDITIONS}.\n{STUDY_BLOCKS_NOTE}")
    put("\nData")
    for one in needed(protocol):
        put(f"  {one.name}: {one.path} ({'there' if one.path.exists() else 'not there'})")
        put(f"    {one.contents}\n    from {one.source}")
    put("\nSteps")
    expected = estimates(chain, protocol.out, protocol.device)
    for place, step in enumerate(chain, start=1):
        try:
            state = "done" if journal.is_done(step) else "to do"
        except TecoError as error:
            state = error.message
        cost = ""
        if (of := expected.get(step.name)) is not None:
            cost = f", {f'{of.done:,} of ' if of.done else ''}{of.total:,} iterations"
            if of.hours and not protocol.small:
                not_here = " on the study's V100, not timed here" if of.source == PUBLISHED else ""
                cost += f", {_time(of.hours)}{not_here}"
        put(f"  {place:2} {step.name}: {state}{cost}\n     {step.text}")
    put(f"\n{_hours(protocol, chain)}")


def _hours(protocol: Protocol, chain: list[Step]) -> str:
    """What all training has left, and what that is estimated from."""
    from teco.reproduction.hours import PUBLISHED, estimates

    if protocol.small:
        return "The small form is a minute of one core's work: 52 seconds on an AMD EPYC (Zen 5)."
    expected = estimates(chain, protocol.out, protocol.device).values()
    left = sum(one.hours for one in expected)
    if not left:
        return "Nothing is left to train."
    sources = "; ".join(dict.fromkeys(one.source for one in expected if one.hours))
    text = f"Training has {_time(left)} left, estimated from {sources}."
    if PUBLISHED in sources:
        text += (
            " What was not timed on this machine may take many times as long; --measure times it."
        )
    return f"{text} Cutting, fetching and the table come on top."


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours:,.0f} hours ({hours / 24:,.1f} days)"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
