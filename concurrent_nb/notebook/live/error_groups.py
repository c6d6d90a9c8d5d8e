"""Errors grouped by kind: a thousand tasks that fail in the same way are one line, with a count and one traceback.

Used by `job_view_model`. Messages that differ only in numbers are of one kind.
"""

import re
from bisect import insort
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.notebook.live.text import error_texts, lines_of

#: maximum number of kinds that are kept; errors of further kinds are only counted
KINDS_MOST: Final = 12
#: maximum number of tasks that are listed for a kind
TASKS_MOST: Final = 5

_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


class ErrorGroups:
    """The errors of a job, by kind, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], dict[str, Any]] = {}
        self._more = 0
        self.version = 0  #: incremented by each change

    def add(self, task: int, error: BaseException, traceback: Callable[[], str]) -> None:
        """Record that a task has failed; `traceback` is called only for the first error of a kind."""
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
        del kind["tasks"][TASKS_MOST:]  # the lowest numbers

    def parts(self) -> dict[str, Any]:
        """Return the content as plain data."""
        return {"kinds": [{**kind, "tasks": list(kind["tasks"])} for kind in self._kinds.values()], "more": self._more}
