"""What `--view` shows of the results themselves: a picture, the searched part of a range, or a table.

Used by `story`, which tells a view what has happened; `parts` gives what is shown, as plain data, and is cheap however
many tasks there are.
"""

import math
import re
from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, HIT, RUNNING, STATE_WORDS, WAITING
from concurrent_nb.notebook.live.picture import NotPixels, Picture
from concurrent_nb.notebook.live.text import error_texts, line_of, shorten, value_text
from concurrent_nb.shipping.runtime.tiles import Tile

#: cells of the strip of a search at most
CELLS_MOST: Final = 320
#: rows of a table from the front and from the end
ROWS_EACH: Final = 10
#: significant ones of a number in a table
DIGITS: Final = 4
_NUMBER: Final = re.compile(r"[-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|inf|nan)")
#: of the arguments of a task that are named
LABEL_CHARACTERS: Final = 100


class EndedTask(Protocol):
    """What a view is told of a task that has ended: a TaskFuture."""

    index: int
    slave: str
    elapsed_s: float

    def cancelled(self) -> bool:
        """Return whether it has no result."""

    def exception(self) -> BaseException | None:
        """Return what it raised."""

    def result(self) -> Any:
        """Return what it returned."""


class View(Protocol):
    """One way to show results."""

    def ended(self, task: EndedTask, state: int) -> None:
        """A task has ended."""

    def published(self, index: int, value: Any) -> None:
        """A task has given a partial result."""

    def parts(self, states: bytearray) -> dict[str, Any]:
        """Give what is shown, as plain data. `states` has the state of each task."""


class ImageView:
    """A picture that fills up."""

    def __init__(self, tasks: int, size: tuple[int, int] | None) -> None:
        self.picture = Picture(tasks, size)
        self._odd = 0
        self._first_odd = ""

    def ended(self, task: EndedTask, state: int) -> None:
        if state in (DONE, HIT):
            self.published(task.index, task.result())

    def published(self, index: int, value: Any) -> None:
        for part in value if _are_tiles(value) else (value,):
            try:
                self.picture.add(index, part)
            except NotPixels as error:
                self._odd += 1
                self._first_odd = self._first_odd or line_of(f"task {index}: {error}", 160)

    def parts(self, states: bytearray) -> dict[str, Any]:
        picture = self.picture
        limits = [] if picture.range is None else [f"{value:.4g}" for value in picture.range]
        return {
            "kind": "image",
            "width": picture.width,
            "height": picture.height,
            "step": picture.step,
            "range": limits,
            "odd": self._odd,
            "first_odd": self._first_odd,
        }


def _are_tiles(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Tile)


class SearchView:
    """The searched part of a range, and where the hit is."""

    def __init__(self, tasks: int, label: Callable[[int], str]) -> None:
        self._tasks = tasks
        self._label_of = label
        self._hit: dict[str, Any] | None = None

    def ended(self, task: EndedTask, state: int) -> None:
        if state == HIT and self._hit is None:
            self._hit = {"index": task.index, "label": self._label(task.index), "value": value_text(task.result())}

    def _label(self, index: int) -> str:
        return line_of(self._label_of(index), LABEL_CHARACTERS)

    def published(self, index: int, value: Any) -> None:
        return  # a search has an answer or none

    def parts(self, states: bytearray) -> dict[str, Any]:
        return {
            "kind": "search",
            "tasks": self._tasks,
            "cells": strip(states),
            "first": self._label(0) if self._tasks else "",
            "last": self._label(self._tasks - 1) if self._tasks else "",
            "hit": self._hit,
            "over": not any(state in (WAITING, RUNNING) for state in states),
            "searched": states.count(DONE) + states.count(HIT),
            "cancelled": states.count(CANCELLED),
            "failed": states.count(FAILED),
        }


def strip(states: bytearray, most: int = CELLS_MOST) -> str:
    """Write the states of all tasks as at most `most` digits.

    Where a cell stands for several tasks, what is rare and matters comes first: a hit, a failure, what runs.

    >>> strip(bytearray([2, 2, 1, 0]), 2)
    '21'
    """
    total = len(states)
    if total <= most:
        return "".join(map(str, states))
    cells = []
    for number in range(most):
        part = states[number * total // most : (number + 1) * total // most]
        first = next((state for state in (HIT, FAILED, RUNNING) if state in part), None)
        cells.append(max((DONE, CANCELLED, WAITING), key=part.count) if first is None else first)
    return "".join(map(str, cells))


class TableView:
    """Results as rows: the first and the last ones, by the tasks' numbers or by their values.

    Args:
        names: of the arguments.
        values: gives the arguments of a task.
        by_value: in the order of the values, those that are no numbers last.
    """

    def __init__(self, names: Sequence[str], values: Callable[[int], Sequence[Any]], by_value: bool = False) -> None:
        self._names = [line_of(name, 30) for name in names]
        self._values = values
        self._by_value = by_value
        self._first: list[_Key] = []
        self._last: list[_Key] = []
        self._rows: dict[int, list[str]] = {}
        self._ended = 0
        self._least: tuple[float, int] | None = None
        self._greatest: tuple[float, int] | None = None

    def ended(self, task: EndedTask, state: int) -> None:
        if state == CANCELLED:
            return
        self._ended += 1
        number = _number(task.result()) if state in (DONE, HIT) else None
        if number is not None:
            self._least = min(self._least or (number, task.index), (number, task.index))
            if self._greatest is None or number > self._greatest[0]:
                self._greatest = (number, task.index)
        key = (0 if number is not None else 1, number or 0.0, task.index) if self._by_value else (0, 0.0, task.index)
        rows = self._rows
        insort(self._first, key)
        rows[task.index] = []
        if len(self._first) > ROWS_EACH:  # what is no longer among the first may be among the last
            insort(self._last, self._first.pop())
        if len(self._last) > ROWS_EACH:
            del rows[self._last.pop(0)[2]]
        if task.index in rows:
            rows[task.index] = self._row(task, state)

    def _row(self, task: EndedTask, state: int) -> list[str]:
        if state == FAILED:
            error = task.exception()
            shown = shorten(": ".join(filter(None, error_texts(error))), 80) if error is not None else ""
        else:
            shown = value_text(task.result(), digits=DIGITS)
        given = [given_text(value) for value in self._values(task.index)]
        took = f"{task.elapsed_s:,.3f}" if task.elapsed_s >= 0.001 else f"{task.elapsed_s:.5f}"
        return [str(task.index), *given, shown, line_of(task.slave, 30), took, STATE_WORDS[state]]

    def published(self, index: int, value: Any) -> None:
        return  # rows are results

    def parts(self, states: bytearray) -> dict[str, Any]:
        columns = ["task", *self._names, "value", "slave", "seconds", "status"]
        rows = [*self._rows.values()]
        return {
            "kind": "table",
            "columns": columns,
            "right": [bool(rows) and _are_numbers([row[at] for row in rows]) for at in range(len(columns))],
            "rows": self._shown(),
            "best": [] if self._limits() == "" else [str(end[1]) for end in (self._least, self._greatest) if end],
            "limits": self._limits(),
        }

    def _shown(self) -> list[list[str] | int]:
        """Give the rows, and a number where some are left out: of tasks that have ended, 0 if none of them has."""
        shown: list[list[str] | int] = []
        before: int | None = None
        for keys, left_out in ((self._first, 0), (self._last, self._ended - len(self._first) - len(self._last))):
            for key in keys:
                if left_out or (not self._by_value and key[2] != (0 if before is None else before + 1)):
                    shown.append(left_out)
                shown.append(self._rows[key[2]])
                before, left_out = key[2], 0
        return shown

    def _limits(self) -> str:
        least, greatest = self._least, self._greatest
        if least is None or greatest is None or least[0] == greatest[0]:
            return ""
        return f"least {self._of(*least)} · greatest {self._of(*greatest)}"

    def _of(self, number: float, index: int) -> str:
        given = zip(self._names, self._values(index), strict=False)
        label = ", ".join(["", *(f"{name} = {given_text(value)}" for name, value in given)])
        return f"{value_text(number, digits=DIGITS)} (task {index}{label})"


#: where a row stands: numbers first, then the number, then the task
_Key = tuple[int, float, int]


def given_text(value: Any) -> str:
    """Write an argument: as the user has, if that is short."""
    exact = value_text(value, 30)
    return exact if len(exact) <= 8 else value_text(value, 30, DIGITS)


def _number(value: Any) -> float | None:
    """Give what can be compared of a result; None if it is no number."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts)
