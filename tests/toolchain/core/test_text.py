"""Text of others: JSON that harms, and letters that steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco.core.text import from_json, printable, spoken


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1 second"), (1.4, "1 second"), (59.4, "59 seconds"), (59.6, "1 minute"),
     (3599, "1 hour"), (5400, "1 hour 30 minutes"), (86_399, "1 day"), (90_000, "1 day 1 hour"),
     (86_400 + 300, "1 day")],
)  # fmt: skip
def test_times_are_said_as_people_plan(seconds, text) -> None:
    assert spoken(seconds) == text
