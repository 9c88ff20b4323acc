"""``teco doctor``."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING

import click

from teco.cli.options import put

if TYPE_CHECKING:
    from teco.runtimes.doctor import DoctorReport, Part

WIDTH = 100


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this machine is, which runtimes it can run, and what would make the others work."""
    from teco.runtimes.doctor import examine

    report = examine()
    if as_json:
        put(json.dumps(report.as_dict(), indent=2))
    else:
        _print(report)


def _print(report: DoctorReport) -> None:
    machine = report.machine
    flags = f" ({', '.join(machine.cpu_flags)})" if machine.cpu_flags else ""
    _line("machine", f"{machine.cpu}, {machine.cores} cores{flags}, {machine.memory_gib} GiB")
    fast = "; ".join(f"{kind} by {', '.join(n)}" for kind, n in report.cpu_precisions.items())
    _line("fast at", f"float32{f'; {fast}' if fast else ' alone: no instructions for less'}")
    for gpu in report.gpus:
        capability = f"compute capability {gpu.capability}" if gpu.capability else ""
        driver = f"driver {gpu.driver}" if gpu.driver else ""
        _line("GPU", ", ".join(x for x in (gpu.name, capability, gpu.memory, driver) if x))
    if not report.gpus:
        _line("GPU", "no NVIDIA GPU or driver found")
    cuda = report.driver_cuda
    _line("CUDA", f"driver runs up to {cuda}" if cuda else "no driver")
    _line("", f"toolkit {report.cuda_toolkit or 'not found'}")
    _line("", f"packages {_versions(report.cuda_packages) or 'none'}")
    _line("system", f"{machine.os}, Python {machine.python}")
    _line("packages", _versions(machine.packages))
    if report.conflict is not None:
        _line("", report.conflict.reason or "")
        put(f"      -> {report.conflict.command}")
    _table("runtimes", report.runtimes)
    _table("engines are built by", report.builders)
    _table("engines' device memory by, one is enough", report.adapters)
    _line("LPIPS", report.lpips or "yes")
    _line("models", ", ".join(report.models) or "none shipped")


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _line(name: str, text: str) -> None:
    _wrapped(f"{name:10}", text)


def _table(title: str, parts: dict[str, Part]) -> None:
    put(title)
    for name, part in parts.items():
        start = f"  {'yes' if part.reason is None else 'no ':3} {name:23} {part.version or '-':14} "
        # What is to be typed stands on a line of its own, to be copied.
        reason = part.reason or ""
        if part.command.startswith("pip"):
            reason = re.sub(r":? *\bpip (un)?install .*$", "", reason)
        _wrapped(start, reason)
        if part.command:
            put(f"      -> {part.command}")


def _wrapped(start: str, text: str) -> None:
    """One entry, no line of it beyond :data:`WIDTH`."""
    put(
        textwrap.fill(
            text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
            break_on_hyphens=False,
        ) or start.rstrip()
    )  # fmt: skip
