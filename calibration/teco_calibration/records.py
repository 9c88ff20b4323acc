"""Frozen dataclasses to plain data for JSON and back, strictly.

Reading refuses what the class would not have written: a field too many or too few, a value of
another kind, a number that is none. So a manifest that was edited by hand, or written by another
version, is refused where it is read, not where it is used.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def to_data(record: Any) -> dict[str, Any]:
    """A dataclass instance as dictionaries, lists and scalars."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in cast("dict[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in cast("list[Any]", value)]
        return value

    return plain(dataclasses.asdict(record))


def from_data(cls: type[_T], data: object, where: str = "", *, defaults: bool = False) -> _T:
    """Inverse of :func:`to_data`.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, a Literal, another such dataclass,
            a tuple of any length or a dictionary by name of one of these, any of these or None, or
            Any, which is taken as it is.
        data: what :func:`to_data` gave, or JSON made of it.
        where: what to call it in the message of an error; the class's name if not given.
        defaults: a field that the class gives a default may be absent, here and in what it holds:
            for records that grew, of which older ones are read.

    A class below ``cls`` that has a ``from_dict`` of its own is read by that.

    Raises:
        ValueError: it is anything else; names the field and what was found there.
    """
    where = where or cls.__name__
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is {data!r}, expected an object")
    given = cast("Mapping[str, object]", data)
    fields = dataclasses.fields(cast("Any", cls))
    needed = [f.name for f in fields if not (defaults and _has_default(f))]
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"{where} has no {missing[0]!r}")
    if unknown := sorted(given.keys() - {f.name for f in fields}):
        raise ValueError(f"{where} has an unknown {unknown[0]!r}")
    kinds = get_type_hints(cls)
    return cls(
        **{n: _read(kinds[n], value, f"{where}.{n}", defaults) for n, value in given.items()}
    )


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def _read(kind: Any, value: object, where: str, defaults: bool) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (kind,) = (a for a in args if a is not type(None))
        return _read(kind, value, where, defaults)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}, expected a list")
        items = cast("list[object]", value)
        return tuple(
            _read(args[0], item, f"{where}[{n}]", defaults) for n, item in enumerate(items)
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}, expected an object")
        named = cast("Mapping[str, object]", value)
        return {n: _read(args[1], item, f"{where}.{n}", defaults) for n, item in named.items()}
    if kind is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} is {value!r}, expected one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        if own := getattr(kind, "from_dict", None):
            return own(value)
        return from_data(cast("type[Any]", kind), value, where, defaults=defaults)
    # bool is an int to Python and not to us; JSON writes some floats without a point.
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed:
        raise ValueError(f"{where} is {value!r}, expected {kind.__name__}")
    if kind is float:
        try:
            number = float(cast("float", value))
        except OverflowError:  # an int of JSON has as many digits as it likes
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{where} is {number}, expected a finite number")
        return number
    return value
