"""``teco doctor``."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from teco.runtimes.doctor import Part

WIDTH = 100


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this machine is, which runtimes it can run, and what would make the others work."""
    from teco.core import machine
    from teco.runtimes import RUNTIMES, doctor
    from teco.runtimes.base import package_version
    from teco_calibration.metrics.quality import Lpips
    from teco_models import zoo

    record = machine.inspect()
    runtimes = {
        r.name: doctor.Part(package_version(r), reason, doctor.what_to_type(reason or ""))
        for r in RUNTIMES
        for reason in (r.why_unavailable(),)
    }
    lpips = Lpips.why_unavailable()
    gpus, driver_cuda = doctor.find_gpus(), doctor.driver_cuda()
    toolkit, cuda = doctor.cuda_toolkit(), doctor.cuda_packages()
    builders, adapters = doctor.builders(), doctor.adapters()
    good_at = doctor.cpu_precisions(record.cpu_flags)
    if as_json:
        facts = {
            "machine": asdict(record),
            "runtimes": {name: part.reason for name, part in runtimes.items()},
            "lpips": lpips,
            "models": [e.name for e in zoo.entries()],
            "runtime_versions": {name: part.version for name, part in runtimes.items()},
            "commands": {n: p.command for n, p in (runtimes | builders).items() if p.reason},
            "gpus": [asdict(g) for g in gpus],
            "driver_cuda": driver_cuda,
            "cuda_toolkit": toolkit,
            "cuda_packages": cuda,
            "builders": {name: asdict(part) for name, part in builders.items()},
            "adapters": {name: asdict(part) for name, part in adapters.items()},
            "cpu_precisions": good_at,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    flags = f" ({', '.join(record.cpu_flags)})" if record.cpu_flags else ""
    _line("machine", f"{record.cpu}, {record.cores} cores{flags}, {record.memory_gib} GiB")
    fast = "; ".join(f"{kind} by {', '.join(names)}" for kind, names in good_at.items())
    _line("fast at", f"float32{f'; {fast}' if fast else ' alone: no instructions for less'}")
    for gpu in gpus:
        more = [f"compute capability {gpu.compute_capability}"] if gpu.compute_capability else []
        more += [gpu.memory] if gpu.memory else []
        more += [f"driver {gpu.driver}"] if gpu.driver else []
        _line("GPU", ", ".join((gpu.name, *more)))
    if not gpus:
        _line("GPU", "no NVIDIA GPU or driver found")
    packages = ", ".join(f"{k} {v}" for k, v in cuda.items())
    _line("CUDA", f"driver runs up to {driver_cuda}" if driver_cuda else "no driver")
    _line("", f"toolkit {toolkit or 'not found'}")
    _line("", f"packages {packages or 'none'}")
    _line("system", f"{record.os}, Python {record.python}")
    _line("packages", ", ".join(f"{k} {v}" for k, v in record.packages.items()))
    _table("runtimes", runtimes)
    _table("engines are built by", builders)
    _table("engines' device memory by, one is enough", adapters)
    _line("LPIPS", "yes" if lpips is None else lpips)
    _line("models", ", ".join(e.name for e in zoo.entries()) or "none shipped")


def _line(name: str, text: str) -> None:
    _wrapped(f"{name:10}", text)


def _table(title: str, parts: dict[str, Part]) -> None:
    click.echo(title)
    for name, part in parts.items():
        start = f"  {'yes' if part.reason is None else 'no ':3} {name:23} {part.version or '-':14} "
        # What is to be typed stands on a line of its own, to be copied.
        reason = part.reason or ""
        if part.command.startswith("pip"):
            reason = re.sub(r":? *\bpip (un)?install .*$", "", reason)
        _wrapped(start, reason)
        if part.command:
            click.echo(f"      -> {part.command}")


def _wrapped(start: str, text: str) -> None:
    """One entry, no line of it beyond :data:`WIDTH`."""
    click.echo(
        textwrap.fill(
            text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
            break_on_hyphens=False,
        ) or start.rstrip()
    )  # fmt: skip
