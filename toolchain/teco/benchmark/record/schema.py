"""The layout of a record as JSON Schema, made from the record's classes and their docstrings.

``teco catalogue schema`` prints it; ``record.schema.json`` beside this file is its output.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from teco.benchmark.record.record import KIND, SCHEMA, Record

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """The schema as plain data."""
    definitions: dict[str, Any] = {}
    root = _class(Record, definitions)
    properties = root["properties"]
    properties["kind"] = {"const": KIND, **properties["kind"]}
    properties["schema"] = {"const": SCHEMA, **properties["schema"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{KIND}, schema {SCHEMA}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _class(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    kinds, told = get_type_hints(cls), _attributes(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    return {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
        "additionalProperties": False,
        "required": names,
        "properties": {
            name: {**_kind(kinds[name], definitions), "description": told[name]} for name in names
        },
    }


def _attributes(cls: type[Any]) -> dict[str, str]:
    """Field -> what the docstring of the class says of it."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + text):
        names, colon, meaning = entry.strip().partition(": ")
        if colon:
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def _kind(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        options = [_kind(a, definitions) for a in args if a is not type(None)]
        return {"anyOf": [*options, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _kind(args[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _kind(args[1], definitions)}
    if origin is Literal:
        return {"enum": list(args)}
    if dataclasses.is_dataclass(kind):
        cls = cast("type[Any]", kind)
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}  # before what it holds, which may name it again
            definitions[cls.__name__] = _class(cls, definitions)
        return {"$ref": f"#/$defs/{cls.__name__}"}
    return {} if kind is Any else {"type": _SCALARS[kind]}
