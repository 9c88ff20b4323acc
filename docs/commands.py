"""Writes the reference of the command line, and of the bench's record, from what defines them.

A hook of MkDocs: ``<!-- commands -->`` in a page becomes every command of teco with its usage, its
help and its options, as ``teco COMMAND --help`` prints them; ``<!-- record -->`` the fields of
``record.schema.json``. So neither can drift from the program.
"""

from __future__ import annotations

import json
import re
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from teco.cli import SECTIONS, cli

SCHEMA = Path(__file__).parents[1] / "toolchain/teco/benchmark/record/record.schema.json"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs asks this for every page."""
    for name, made in (("commands", _commands), ("record", _record)):
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def _commands() -> str:
    parts: list[str] = []
    above = click.Context(cli, info_name="teco")
    for title, names in SECTIONS.values():
        parts.append(f"## {title}")
        for name in names:
            command = cli.get_command(above, name)
            assert command is not None
            parts += _command(command, click.Context(command, info_name=name, parent=above), 3)
    return "\n\n".join(parts)


def _command(command: click.Command, context: click.Context, level: int) -> list[str]:
    """A command, and those below it, as Markdown."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) and record[1]
    ]
    parts = [
        f"{'#' * level} {context.command_path}",
        f"```text\n{usage}\n```",
        _text(cleandoc(command.help or "")),
        "\n".join(f"- `{names}`: {_text(said)}" for names, said in options),
    ]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            inside = click.Context(below, info_name=name, parent=context)
            parts += _command(below, inside, level + 1)
    return parts


def _text(text: str) -> str:
    """Words of a help as Markdown: signs that mean something there stand for themselves."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<*_\[])", r"\\\1", p) for p in pieces)


def _record() -> str:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [f"## {schema['title']}", _fields(schema)]
    for name, part in sorted(schema["$defs"].items()):
        parts += [f"### {name}", _text(part.get("description", "")), _fields(part)]
    return "\n\n".join(filter(None, parts))


def _fields(part: dict[str, Any]) -> str:
    """The fields of an object, each with its kind."""
    return "\n".join(
        f"- `{name}` ({_kind(field)}): {_text(field.get('description', ''))}"
        for name, field in part.get("properties", {}).items()
    )


def _kind(field: dict[str, Any]) -> str:
    """What a field may hold, in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    kind = str(field.get("type", "any"))
    if kind == "array" and isinstance(field.get("items"), dict):
        return f"list of {_kind(field['items'])}"
    return kind
