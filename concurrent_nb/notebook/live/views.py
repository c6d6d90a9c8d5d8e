"""What `--view` shows of the results themselves: a picture, the searched part of a range, or a table.

Used by `story`, which tells a view what has happened; `parts` gives what is shown, as plain data, and is cheap however
many tasks there are.
"""

from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, HIT, RUNNING, STATE_WORDS, WAITING
from concurrent_nb.notebook.live.picture import NotPixels, Picture
from concurrent_nb.notebook.live.text import error_texts, line_of, shorten, value_text
from concurrent_nb.shipping.tiles import Tile

#: cells of the strip of a search at most
CELLS_MOST: Final = 320
#: rows of a table from the front and from the end
ROWS_EACH: Final = 10
#: of the arguments of a task that are named
LABEL_CHARACTERS: Final = 100


class Ended(Protocol):
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

    def ended(self, task: Ended, state: int) -> None:
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

    def ended(self, task: Ended, state: int) -> None:
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

    def ended(self, task: Ended, state: int) -> None:
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
    """Results as rows: the first and the last ones, by the tasks' numbers."""

    def __init__(self, names: Sequence[str], values: Callable[[int], Sequence[Any]]) -> None:
        self._names = [line_of(name, 30) for name in names]
        self._values = values
        self._first: list[int] = []
        self._last: list[int] = []
        self._rows: dict[int, list[str]] = {}
        self._ended = 0

    def ended(self, task: Ended, state: int) -> None:
        if state == CANCELLED:
            return
        self._ended += 1
        rows, number = self._rows, task.index
        insort(self._first, number)
        rows[number] = []
        if len(self._first) > ROWS_EACH:  # what is no longer among the first may be among the last
            insort(self._last, self._first.pop())
        if len(self._last) > ROWS_EACH:
            del rows[self._last.pop(0)]
        if number in rows:
            rows[number] = self._row(task, state)

    def _row(self, task: Ended, state: int) -> list[str]:
        if state == FAILED:
            error = task.exception()
            shown = shorten(": ".join(filter(None, error_texts(error))), 80) if error is not None else ""
        else:
            shown = value_text(task.result())
        given = [value_text(value, 30) for value in self._values(task.index)]
        word = STATE_WORDS[state]
        return [str(task.index), *given, shown, line_of(task.slave, 30), f"{task.elapsed_s:.3f}", word]

    def published(self, index: int, value: Any) -> None:
        return  # rows are results

    def parts(self, states: bytearray) -> dict[str, Any]:
        shown = len(self._first) + len(self._last)
        return {
            "kind": "table",
            "columns": ["task", *self._names, "value", "slave", "seconds", "status"],
            "first": [self._rows[index] for index in self._first],
            "last": [self._rows[index] for index in self._last],
            "left_out": self._ended - shown,
        }
