"""Texts of strangers: nothing hidden, nothing turned round, nothing long."""

from typing import Final

import numpy
import pytest

from concurrent_nb.notebook.live.text import error_texts, line_of, lines_of, seconds_text, value_text

#: text of users, and how a line shows it
LINES: Final = {
    "plain": "plain",
    "a\nb\r\nc\td": "a\\nb\\nc d",
    "\x1b[31mred\x1b[0m\x1b[2J\x07": "red",
    "user\u202etxt.exe": "user\\u202etxt.exe",
    "zero\u200bwidth\ufeff": "zero\\u200bwidth\\ufeff",
    "\ud800": "\\ud800",
    "\u2028": "\\u2028",
    "שלום, naïve ✓": "שלום, naïve ✓",
    "<script>": "<script>",
}


@pytest.mark.parametrize(("text", "shown"), LINES.items())
def test_a_line_shows_what_is_there(text: str, shown: str) -> None:
    assert line_of(text) == shown


def test_what_is_long_is_cut_without_being_read_to_the_end() -> None:
    assert line_of("x" * 10**7, 10) == "xxxxxxxxx…"
    assert len(value_text(b"x" * 10**7)) <= 80
    assert len(value_text(list(range(10**5)))) <= 80
    assert len(value_text("\u202e" * 10**5)) <= 80
    text = lines_of("first\n" + "middle\n" * 10_000 + "last")
    assert text.startswith("first\n")
    assert text.endswith("last")
    assert len(text) < 6100


def test_a_value_is_shown_whatever_its_repr_does() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    class Lines:
        def __repr__(self) -> str:
            return "one\n   two"

    assert value_text(Lines()) == "one two"
    assert value_text(Bad()).startswith("<Bad")
    assert value_text(10**5000) == "<int>"
    assert value_text({"a": [1, (2, 3)]}) == "{'a': [1, (2, 3)]}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (numpy.float64(0.9716193656093489), "0.9716"),
        ([numpy.float64(0.5), numpy.int64(3), numpy.str_("x"), numpy.bool_(True)], "[0.5000, 3, 'x', True]"),
        ({"loss": numpy.float32(0.25), "n": (1.0, 2)}, "{'loss': 0.2500, 'n': (1.000, 2)}"),
        (numpy.array([0.123456, 2.0]), "array([0.1235, 2. ])"),
        (123456.789, "123,457"),
        (1.5e-7, "1.500e-07"),
        (float("nan"), "nan"),
        (0.0, "0"),
        (-1234.5, "-1234"),
        (10**5, "100000"),
    ],
)
def test_numbers_are_short_in_tables(value: object, text: str) -> None:
    assert value_text(value, digits=4) == text
    assert "numpy" not in value_text(value)
    assert "np." not in value_text(value)


def test_an_error_has_a_type_and_a_message() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert error_texts(ValueError("a\nb")) == ("ValueError", "a …")
    assert error_texts(ValueError("it died, so:\n  1. this\n  2. that")) == ("ValueError", "it died, so …")
    assert error_texts(ValueError("one two " * 50))[1].endswith((" one …", " two …"))
    assert error_texts(ValueError("no newline\n")) == ("ValueError", "no newline")
    assert error_texts(Odd()) == ("Odd", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.421, "0.42 s"), (12.34, "12.3 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")]
)
def test_times_are_written_as_people_do(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
