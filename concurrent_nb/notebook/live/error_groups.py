"""Errors folded by kind: a thousand tasks that fail alike are one line, with a count and one traceback.

Used by `story`. Messages that differ in numbers only are of one kind.
"""

import re
from bisect import insort
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.notebook.live.text import error_texts, lines_of

#: kinds that are kept; the errors of others are counted
KINDS_MOST: Final = 12
#: tasks that are named
TASKS_MOST: Final = 5

_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


class ErrorGroups:
    """The errors of a job, by kind, in the order in which the kinds came."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], dict[str, Any]] = {}
        self._more = 0
        self.version = 0  #: grows whenever there is something new

    def add(self, task: int, error: BaseException, traceback: Callable[[], str]) -> None:
        """Note that a task has failed; `traceback` is asked for the first of a kind only."""
        name, message = error_texts(error)
        key = (name, _NUMBER.sub("#", message))
        kind = self._kinds.get(key)
        self.version += 1
        if kind is None:
            if len(self._kinds) >= KINDS_MOST:
                self._more += 1
                return
            kind = {"type": name, "message": message, "count": 0, "tasks": [], "text": lines_of(traceback())}
            self._kinds[key] = kind
        kind["count"] += 1
        insort(kind["tasks"], task)
        del kind["tasks"][TASKS_MOST:]  # the first ones by number, whichever came first

    def parts(self) -> dict[str, Any]:
        """Give what is shown, as plain data."""
        return {"kinds": [{**kind, "tasks": list(kind["tasks"])} for kind in self._kinds.values()], "more": self._more}
