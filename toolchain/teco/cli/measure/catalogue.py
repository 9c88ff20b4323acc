"""``teco catalogue``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import put


@click.group("catalogue")
def command() -> None:
    """Records of many machines, which teco ships to compare with."""


@command.command("check")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Say whether records may be added to the catalogue, and why not.

    Without FILE, the records that are in it are checked.
    """
    from teco.benchmark.record import catalogue
    from teco.core.errors import FAILED, TecoError

    refused = 0
    for path in files or sorted(catalogue.FOLDER.glob("*.json")):
        found = catalogue.complaints(path)
        refused += bool(found)
        put(f"{path}: {'refused' if found else 'accepted'}")
        for line in found:
            put(f"  {line}")
    if refused:
        raise TecoError(
            f"{refused} record{'s' if refused > 1 else ''} cannot go into the catalogue",
            exit_code=FAILED,
        )


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of the record that `teco bench --json` writes."""
    import json

    from teco.benchmark.record.schema import schema as of_records

    put(json.dumps(of_records(), indent=2))
