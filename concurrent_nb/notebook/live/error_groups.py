"""Errors grouped by kind, as texts for people. Used by `job_view_model`."""

from collections.abc import Callable
from typing import Any

from concurrent_nb.notebook.live.text import error_texts, lines_of
from concurrent_nb.tasks.error_kinds import ErrorKinds


class ErrorGroups:
    """The errors of a job, by kind, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._kinds = ErrorKinds()
        self.version = 0  #: incremented by each change

    def add(self, task: int, error: BaseException, traceback: Callable[[], str]) -> None:
        """Record that a task has failed; `traceback` is called only for the first error of a kind."""
        self.version += 1
        self._kinds.add(task, *error_texts(error), lambda: lines_of(traceback()))

    def parts(self) -> dict[str, Any]:
        """Return the content as plain data."""
        return self._kinds.parts()
