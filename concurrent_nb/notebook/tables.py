"""Tables of slaves and jobs: HTML in a notebook, with the same as text for everything else.

Names may contain anything: they are cleaned, escaped and isolated, so that they neither run nor reorder anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from IPython.display import display

#: muted colours that are readable on light and dark pages, as the colour is never the only difference
_STATES = {"active": "#2e9e5b", "running": "#2e9e5b", "suspected": "#d0453f", "failed": "#d0453f"}


@dataclass(frozen=True, slots=True)
class ProgressCell:
    """A cell that shows how many of a number are done."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its twin as text.

    Args:
        title: what it lists, for screen readers.
        columns: titles; those that begin with ">" are aligned to the right.
        rows: cells; a cell that is the name of a state has its colour.
        text: the same as lines of text.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | ProgressCell]]
    text: str

    def html(self) -> str:
        """Return it as HTML that needs no style sheet and no script."""
        rights = [column.startswith(">") for column in self.columns]
        cells = zip(self.columns, rights, strict=True)
        head = "".join(
            f'<th scope="col" style="{_align(right)}">{escape(title.removeprefix(">"))}</th>' for title, right in cells
        )
        body = "".join(
            f"<tr>{''.join(_cell(cell, right) for cell, right in zip(row, rights, strict=True))}</tr>"
            for row in self.rows
        )
        style = "font-size:13px;color:inherit;font-variant-numeric:tabular-nums"
        return (
            f'<table aria-label="{escape(self.title)}" style="{style}">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def show(self) -> None:
        """Show it in the current cell."""
        data = {"text/plain": self.text, "text/html": self.html()}
        display(data, raw=True)  # type: ignore[no-untyped-call]


def _align(right: bool) -> str:
    return f"text-align:{'right' if right else 'left'};padding:2px 8px"


def _cell(cell: str | ProgressCell, right: bool) -> str:
    if isinstance(cell, ProgressCell):
        text = f"{cell.done:,} of {cell.total:,}"
        bar = f'<progress value="{cell.done}" max="{max(1, cell.total)}" aria-label="{text} done"></progress>'
        return f'<td style="{_align(right)};white-space:nowrap">{bar} {text}</td>'
    colour = f";color:{_STATES[cell]}" if cell in _STATES else ""
    return f'<td style="{_align(right)}{colour}"><bdi>{escape(cell)}</bdi></td>'
