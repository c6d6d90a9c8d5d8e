"""The views of results that `--view` can show: a picture, the searched part of a range, or a table.

Used by `job_view_model`, which calls a view for each ended task and publication; `parts` returns the content as plain
data, and is cheap for any number of tasks.
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

#: maximum number of cells of the strip of a search
CELLS_MOST: Final = 320
#: rows of a table at its beginning, and at its end
ROWS_EACH: Final = 10
#: significant digits of a number in a table
DIGITS: Final = 4
_NUMBER: Final = re.compile(r"[-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|inf|nan)")
#: maximum length of the arguments of a task
LABEL_CHARACTERS: Final = 100


class EndedTask(Protocol):
    """A task that has ended, for a view: a TaskFuture."""

    index: int
    slave: str
    elapsed_s: float

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""

    def exception(self) -> BaseException | None:
        """Return the error of the task."""

    def result(self) -> Any:
        """Return the value of the task."""


class View(Protocol):
    """A way to show results."""

    def ended(self, task: EndedTask, state: int) -> None:
        """Take an ended task into account."""

    def published(self, index: int, value: Any) -> None:
        """Take a published partial result of a task into account."""

    def parts(self, states: bytearray) -> dict[str, Any]:
        """Return the content as plain data. `states` contains the state of each task."""


class ImageView:
    """A picture, made of the results."""

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
    """The searched part of a range, and the position of the hit."""

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
        return  # a search has no partial results

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
    """Return the states of all tasks as at most `most` digits.

    If a digit is for several tasks, it is their most important state: a hit, a failure, a running task.

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
    """Results as rows: the first and the last ones, ordered by task number or by value.

    Args:
        names: names of the arguments.
        values: returns the arguments of a task.
        by_value: order by value, with values that are not numbers last.
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
        if len(self._first) > ROWS_EACH:  # a row that is no longer among the first may be among the last
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
        return  # rows are only for results

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
        """Return the rows, and numbers where rows of ended tasks are left out, or 0 for tasks that have not ended."""
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


#: sort key of a row: 0 for numbers, the number, the task
_Key = tuple[int, float, int]


def given_text(value: Any) -> str:
    """Return an argument as text, rounded if that is long."""
    exact = value_text(value, 30)
    return exact if len(exact) <= 8 else value_text(value, 30, DIGITS)


def _number(value: Any) -> float | None:
    """Return a result as a number that can be compared; None if it is not a finite number."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts)
