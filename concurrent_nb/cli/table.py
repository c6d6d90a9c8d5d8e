"""Tables for terminals: aligned columns that fit the width, in colour only where that is wanted.

Pure but for `style_of`. Names come from other people and may contain anything, so characters that could control a
terminal, or reorder text, are replaced.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TextIO
from unicodedata import combining, east_asian_width

Colour = Literal["", "green", "yellow", "red", "dim", "bold"]

_CODES: Final[dict[str, str]] = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}
_GAP: Final = "  "
#: a column that has to shrink keeps at least so many cells
_LEAST: Final = 6


@dataclass(frozen=True, slots=True)
class Style:
    """How a stream shows tables."""

    width: int | None = None  #: cells of a line; None: no limit
    colours: bool = False


@dataclass(frozen=True, slots=True)
class TableCell:
    """A text with a colour."""

    text: str
    colour: Colour = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False  #: aligned to the right
    shrinks: bool = False  #: its texts may be shortened
    #: the column with the largest number is left out first on a narrow terminal; 0: never
    drop: int = 0


def style_of(stream: TextIO) -> Style:
    """Return how to show tables on a stream: colours and a width are for terminals only. Obeys NO_COLOR and COLUMNS."""
    if not stream.isatty():
        return Style()
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(shutil.get_terminal_size().columns, has_colours)


def shown(text: object) -> str:
    r"""Return a text on one line, without characters that control terminals or reorder text.

    >>> shown("a\x1b[31mb\nc")
    'a?[31mb?c'
    """
    return "".join(each if each.isprintable() else "?" for each in str(text))


def cells_of(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def shortened(text: str, cells: int) -> str:
    """Return a text that takes at most so many cells; an ellipsis stands for what is left out."""
    if cells_of(text) <= cells:
        return text
    kept, left = "", cells - 1
    for each in text:
        left -= cells_of(each)
        if left < 0:
            break
        kept += each
    return f"{kept}…" if cells > 0 else ""


def coloured(text: str, colour: Colour, style: Style) -> str:
    """Return a text in a colour, if the style has colours."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and style.colours else text


def table(columns: Sequence[Column], rows: Sequence[Sequence[TableCell | str]], style: Style) -> list[str]:
    """Return the lines of a table with a line of titles."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    wanted = [
        max([cells_of(column.title), *(cells_of(row[at].text) for row in cells)]) for at, column in enumerate(columns)
    ]
    used = _columns_that_fit(columns, wanted, style.width)
    widths = _widths({at: wanted[at] for at in used}, {at for at in used if columns[at].shrinks}, style.width)
    titles = [TableCell(column.title, "dim") for column in columns]
    return [_line(row, columns, widths, style) for row in (titles, *cells)]


def _cell(cell: TableCell | str) -> TableCell:
    return TableCell(shown(cell)) if isinstance(cell, str) else TableCell(shown(cell.text), cell.colour)


def _columns_that_fit(columns: Sequence[Column], wanted: Sequence[int], width: int | None) -> list[int]:
    """Return the columns to show: as few as necessary are left out."""
    used = list(range(len(columns)))
    if width is None:
        return used
    for at in sorted((at for at in used if columns[at].drop), key=lambda at: -columns[at].drop):
        least = [min(wanted[each], _LEAST) if columns[each].shrinks else wanted[each] for each in used]
        if sum(least) + len(_GAP) * (len(used) - 1) <= width:
            break
        used.remove(at)
    return used


def _widths(wanted: dict[int, int], shrinking: set[int], width: int | None) -> dict[int, int]:
    """Return the width of each column; the widest of those that may shrink shrink first."""
    widths = dict(wanted)
    while width is not None and sum(widths.values()) + len(_GAP) * (len(widths) - 1) > width:
        can = [at for at in shrinking if widths[at] > _LEAST]
        if not can:
            break
        widths[max(can, key=lambda at: widths[at])] -= 1
    return widths


def _line(row: Sequence[TableCell], columns: Sequence[Column], widths: dict[int, int], style: Style) -> str:
    parts: list[str] = []
    last = max(widths, default=0)
    for at, width in widths.items():
        text = shortened(row[at].text, width) if columns[at].shrinks else row[at].text
        padding = " " * (width - cells_of(text))
        body = coloured(text, row[at].colour, style)
        parts.append(padding + body if columns[at].right else body if at == last else body + padding)
    return _GAP.join(parts).rstrip()
