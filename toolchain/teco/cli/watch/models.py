"""``teco models``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from teco.cli.options import progress, put, say, threads_option

SIZE = (180, 320)
"""LR (h, w) that steps are timed at: the size of the published comparisons, 720p out."""


@click.command("models")
@click.option("--all", "everything", is_flag=True, help="Those for papers as well.")
@click.option("--time/--no-time", default=True, help="Time a step of each here. [default: on]")
@click.option("--again", is_flag=True, help="Time them anew: the machine was busy, say.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(everything: bool, time: bool, again: bool, threads: int | None, as_json: bool) -> None:
    """List the shipped models: what for, how large, and how long a frame takes here.

    A frame of 320x180 is timed on the runtime that --runtime auto takes, in float32, and on the
    fastest one whatever it computes in (--quality fast); each once, then it is remembered.
    """
    from teco.model.choice import LARGEST, TEXTURED, shipped
    from teco.model.opening import DEFAULT_OF_SCALE

    models = shipped()
    known = [m for m in models if everything or m.purpose == "ordinary clips"]
    rows: list[dict[str, Any]] = [asdict(model) for model in known]
    if time:
        with progress("timing", "models") as show:
            for done, row in enumerate(rows):
                show(done, len(rows))
                row |= _times(row["name"], threads, again)
    if as_json:
        put(json.dumps(rows, indent=2))
        return
    chosen = {name: [] for name in (m.name for m in known)}
    for scale, name in DEFAULT_OF_SCALE.items():
        options = "" if scale == max(DEFAULT_OF_SCALE) else f"--scale {scale}"
        chosen.get(name, []).append(options or "the default")
        if LARGEST[scale] != name:
            chosen.get(LARGEST[scale], []).append(f"{options} --quality best".strip())
        if scale in TEXTURED:
            chosen.get(TEXTURED[scale], []).append(f"{options} --look textured".strip())
    head = ("model", "enlarges", "for", "look", "parameters", "MB", "float32", "fast", "taken by")
    lines: list[tuple[str, ...]] = [head]
    lines.extend(_line(row, "; ".join(chosen[row["name"]]), everything) for row in rows)
    keep = [n for n in range(len(head)) if any(line[n] for line in lines[1:])]
    widths = {n: max(len(line[n]) for line in lines) for n in keep}
    for line in lines:
        put("  ".join(line[n].ljust(widths[n]) for n in keep).rstrip())
    if time:
        say(f"milliseconds for a frame of {SIZE[1]}x{SIZE[0]}; other sizes take time by their area")
    if everything:
        say(
            "those for papers are not the papers' own: back-projection (-bp) and a Lucas-Kanade "
            "step (-lk), or no flow net (live), are teco's, and they were trained on other clips"
        )
    left = len(models) - len(known)
    if left:
        say(f"{left} more are for papers, not for clips that people have: teco models --all")


def _line(row: dict[str, Any], chosen: str, everything: bool) -> tuple[str, ...]:
    """The cells of a model; empty ones where all are the same."""
    return (
        row["name"], f"{row['scale']} times", row["purpose"] if everything else "", row["look"],
        f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.1f}",
        *(_milliseconds(row, kind) for kind in ("float32", "fast")), chosen,
    )  # fmt: skip


def _times(name: str, threads: int | None, again: bool) -> dict[str, Any]:
    """Runtime and milliseconds, in float32 and at its fastest."""
    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, Wish, choose
    from teco.runtimes.auto import step_seconds

    model, options = open_model(name), SessionOptions(threads=threads)
    found: dict[str, Any] = {}
    wishes: dict[str, Wish] = {"float32": "float32", "fast": "any"}
    for kind, wish in wishes.items():
        chosen = choose(model, "auto", options, wish, size=SIZE)
        ms = 1000 * step_seconds(chosen.runtime, chosen.model, SIZE, options, again=again)
        found[kind] = {"runtime": chosen.runtime.name, "ms": round(ms, 1)}
    return found


def _milliseconds(row: dict[str, Any], kind: str) -> str:
    return f"{row[kind]['ms']:.0f} ms, {row[kind]['runtime']}" if kind in row else ""
