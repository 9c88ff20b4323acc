"""``teco verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from teco.cli.options import (
    not_a_pipe,
    progress,
    put,
    say,
    threads_option,
)


@click.command("verify")
@click.argument("file", metavar="FILE")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What it was made from, where that is no shipped model: .safetensors or .pth.",
)
@click.option("--model", metavar="NAME", help="The shipped model it was made from.")
@click.option(
    "--clip",
    metavar="CLIP",
    callback=not_a_pipe,
    help="Ground truth for the gate. [default: frames made on the spot]",
)
@click.option(
    "--frames",
    type=click.IntRange(min=2),
    help="Recurrent frames of the gate. [default: what the bounds of its precision ask for]",
)
@click.option(
    "--runtime",
    metavar="NAME",
    help="What runs it. [default: onnxruntime, or the engine's own where it can run here]",
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    weights: Path | None,
    model: str | None,
    clip: str | None,
    frames: int | None,
    runtime: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say whether an ONNX file or an engine is what it says.

    Its bytes, ports and types against its manifest, its pictures against the float32 step of its
    weights. Ends with 1 if something does not hold.
    """
    from teco.verification.report import VerifyOptions
    from teco.verification.verify import verify

    options = VerifyOptions(
        weights=weights,
        model=model,
        clip=clip,
        frames=frames,
        runtime=None if runtime == "auto" else runtime,
        threads=threads,
    )
    with progress("gate") as bar:
        report = verify(file, options, bar)
    if as_json:
        put(json.dumps(report.as_dict(), indent=2))
    else:
        about = ", ".join(x for x in (report.variant, report.precision, report.size) if x)
        put(f"{report.path}{f': {about}' if about else ''}")
        width = max(len(f.check) for f in report.findings)
        for finding in report.findings:
            put(f"  {finding.answer:8}{finding.check:{width}}  {finding.text}")
        put(report.verdict)
    for line in (report.refused, report.wanting):
        if line:
            say(f"teco: {line}")
    sys.exit(report.exit_code)
