"""Tables for terminals: aligned, in the width that there is, in colour only where that is wanted."""

import io

import pytest

from concurrent_nb.cli.table import Column, Style, TableCell, cells_of, shortened, shown, style_of, table

COLUMNS = (
    Column("NAME", shrinks=True),
    Column("STATE"),
    Column("DONE", right=True),
    Column("HOST", shrinks=True, drop=1),
    Column("UP", drop=2),
)
ROWS: list[list[TableCell | str]] = [
    ["a", TableCell("active", "green"), "1,234", "host-1", "1 h"],
    ["a-much-longer-name", TableCell("draining", "yellow"), "7", "host-22.example.org", "5 min"],
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned() -> None:
    assert table(COLUMNS, ROWS, Style()) == [
        "NAME                STATE      DONE  HOST                 UP",
        "a                   active    1,234  host-1               1 h",
        "a-much-longer-name  draining      7  host-22.example.org  5 min",
    ]


@pytest.mark.parametrize("width", range(1, 90))
def test_lines_fit_a_narrow_terminal_as_far_as_possible(width: int) -> None:
    lines = table(COLUMNS, ROWS, Style(width))
    least = 6 + 2 + 8 + 2 + 5  # what may not shrink further
    assert all(cells_of(line) <= max(width, least) for line in lines)
    assert ("HOST" in lines[0]) == (width >= least + 8)
    assert ("UP" in lines[0]) == (width >= least + 15)
    assert "DONE" in lines[0]


def test_colours_do_not_disturb_the_columns() -> None:
    plain, coloured = table(COLUMNS, ROWS, Style()), table(COLUMNS, ROWS, Style(colours=True))
    assert "\x1b[32mactive\x1b[0m   " in coloured[1]
    codes = [f"\x1b[{code}m" for code in ("0", "2", "32", "33")]
    for line, expected in zip(coloured, plain, strict=True):
        for code in codes:
            line = line.replace(code, "")
        assert line.rstrip() == expected


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "\u202eabc", "\x9b2J", "\r", "\u2028"])
def test_nothing_controls_the_terminal(text: str) -> None:
    ((_, line),) = [table([Column("NAME")], [[text]], Style(colours=True))]
    assert line.isprintable()
    assert len(line) == len(text)
    assert shown(text).isprintable()


def test_wide_characters_take_two_cells() -> None:
    assert cells_of("日本") == 4
    assert cells_of("e\u0301") == 1
    assert shortened("日本語", 5) == "日本…"
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    lines = table([Column("A"), Column("B")], [["日本", "x"], ["abcd", "y"]], Style())
    assert lines[1:] == ["日本  x", "abcd  y"]


@pytest.mark.parametrize(
    ("variables", "colours"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    variables: dict[str, str], colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "77")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert style_of(Terminal()) == Style(77, colours)
    assert style_of(io.StringIO()) == Style()
