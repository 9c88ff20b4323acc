"""``teco doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this machine is, which runtimes it can run, and what would make the others work."""
    from teco import machine
    from teco.runtimes import RUNTIMES
    from teco_calibration.quality import Lpips
    from teco_models import zoo

    record = machine.inspect()
    runtimes = {r.name: r.why_unavailable() for r in RUNTIMES}
    lpips = Lpips.why_unavailable()
    if as_json:
        facts = {
            "machine": asdict(record),
            "runtimes": runtimes,
            "lpips": lpips,
            "models": [e.name for e in zoo.entries()],
        }
        click.echo(json.dumps(facts, indent=2))
        return
    flags = f" ({', '.join(record.cpu_flags)})" if record.cpu_flags else ""
    click.echo(f"machine   {record.cpu}, {record.cores} cores{flags}, {record.memory_gib} GiB")
    click.echo(f"GPU       {'; '.join(record.gpus) or 'no NVIDIA GPU or driver found'}")
    click.echo(f"system    {record.os}, Python {record.python}")
    versions = ", ".join(f"{k} {v}" for k, v in record.packages.items())
    click.echo(f"packages  {versions}")
    click.echo("runtimes")
    for name, reason in runtimes.items():
        click.echo(
            f"  {'yes' if reason is None else 'no ':3} {name:18}{'' if reason is None else reason}"
        )
    click.echo(f"LPIPS     {'yes' if lpips is None else lpips}")
    click.echo(f"models    {', '.join(e.name for e in zoo.entries()) or 'none shipped'}")
