"""``teco compare``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import json_option, put, say


@click.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option("Write the comparison as JSON.")
def command(before: Path, after: Path, json_file: Path | None) -> None:
    """Compare two records that `teco bench --json` wrote: AFTER against BEFORE.

    Prints how much longer each candidate takes, with the 99% interval of that and a verdict, and
    everything that differs between the machines, their software and the conditions.
    """
    from teco.benchmark.record.compare import compare
    from teco.benchmark.record.store import read
    from teco.benchmark.report.render import comparison_table
    from teco.core.errors import TecoError
    from teco.core.files import as_json, write_beside

    found = compare(read(before), read(after))
    if not found.pairs:
        raise TecoError(
            f"{before} and {after} have no row in common: the same model on the same runtime at "
            "the same size",
            hint=f"before: {', '.join(found.only_before) or '(none)'}; "
            f"after: {', '.join(found.only_after) or '(none)'}",
        )
    put(comparison_table(found), nl=False)
    if json_file is not None:
        write_beside(json_file, as_json(found.as_dict()))
        say(f"comparison: {json_file}")
