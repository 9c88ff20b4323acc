"""Text of others: JSON that harms, and letters that steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco.core.text import from_json, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("title\x1b]0;x\x07", "title\\x1b]0;x\\x07"),
        ("a\rb", "a\\rb"),
        ("abc\u202edcb", "abc\\u202edcb"),
        ("\x9b2J", "\\x9b2J"),
        ("name\udcff", "name\\udcff"),
        ("ordinary\tlines\nof ünï \U0001f600 [b]", "ordinary\tlines\nof ünï \U0001f600 [b]"),
    ],
)
def test_what_steers_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_printed_and_once_is_enough(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a": "\\ud800"}', '{"\\uDCFF": 1}', '{"a": ' + "1" * 5000 + "}", "{"]
)
def test_json_that_harms_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each has words of its own
        from_json(text)


def test_ordinary_json_is_read() -> None:
    assert from_json('{"a": ["\\ud83d\\ude00", "\\\\ud800", 1.5]}') == {
        "a": ["\U0001f600", "\\ud800", 1.5]
    }
