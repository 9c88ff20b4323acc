"""Text from files of others: what JSON may hold, and what a terminal may be shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_UNPRINTABLE = re.compile(
    # C0 without tab and line feed, DEL and C1; marks that reorder or hide text (UAX #9, "Trojan
    # Source"); surrogates, which stand for bytes of a file name that are no UTF-8.
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060\\u2066-\\u2069"
    "\\ufeff\\ud800-\\udfff]"
)


def printable(text: str) -> str:
    """Text as a terminal may be shown it: what would move its cursor, change its colours, its
    title or the order of the letters is spelt out (``\\x1b``).

    Tabs and line feeds stay.
    """
    return _UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def spoken(seconds: float) -> str:
    """How long something takes, in the words in which people plan: days and hours, hours and
    minutes, minutes, or seconds."""
    if seconds < 59.5:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' * (whole != 1)}"
    days, rest = divmod(round(seconds / 60), 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = [(days, "day"), (hours, "hour"), (minutes if not days else 0, "minute")]
    return " ".join(f"{n} {unit}{'s' * (n != 1)}" for n, unit in parts if n)


def from_json(text: str | bytes, *, parse_int: Callable[[str], Any] | None = None) -> Any:
    """The value that JSON text stands for.

    Args:
        text: as it lies in the file.
        parse_int: makes something else of whole numbers.

    Raises:
        ValueError: it is no JSON, is nested too deeply to be read, has a whole number of thousands
            of digits, or half a surrogate pair, which no output could be given.
    """
    try:
        value = json.loads(text, parse_int=parse_int)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "\\ud" in (text if isinstance(text, str) else text.decode("latin-1")).lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it has half a surrogate pair in a text") from error
    return value
