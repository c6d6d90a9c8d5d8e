"""Errors folded by kind: a thousand tasks that fail in the same way are one kind, with a count and one traceback.

The master keeps them of each job that has errors, a notebook of each job that it shows. Messages that differ only in
numbers are of one kind. Pure, and bounded.
"""

import re
from bisect import insort
from collections.abc import Callable
from typing import Any, Final

#: maximum number of kinds that are kept; errors of further kinds are only counted
KINDS_MOST: Final = 12
#: maximum number of tasks that are listed for a kind
TASKS_MOST: Final = 5

_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


class ErrorKinds:
    """The errors of a job, by kind, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], dict[str, Any]] = {}
        self._more = 0

    def add(self, task: int, name: str, message: str, text: Callable[[], str]) -> None:
        """Record that a task has failed.

        Args:
            task: its number.
            name: of the error's type.
            message: short.
            text: returns the traceback; called only for the first error of a kind.
        """
        key = (name, _NUMBER.sub("#", message))
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS_MOST:
                self._more += 1
                return
            kind = {"type": name, "message": message, "count": 0, "tasks": [], "text": text()}
            self._kinds[key] = kind
        kind["count"] += 1
        if len(kind["tasks"]) < TASKS_MOST or task < kind["tasks"][-1]:
            insort(kind["tasks"], task)
            del kind["tasks"][TASKS_MOST:]  # the lowest numbers

    def parts(self) -> dict[str, Any]:
        """Return the content as plain data."""
        return {"kinds": [{**kind, "tasks": list(kind["tasks"])} for kind in self._kinds.values()], "more": self._more}
