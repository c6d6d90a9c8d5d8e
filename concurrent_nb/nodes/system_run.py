"""What an application holds of a task system that it has pushed: its job."""

from collections.abc import Sequence
from typing import Any

import msgspec

from concurrent_nb.nodes.futures import Counts, Job
from concurrent_nb.shipping.notes import Note, SystemCounts

_NOTHING = SystemCounts("waiting", 0, 0, 0, 0, 0, 0, 0, False, 0.0, [])


class SystemRun(Job):
    """A task system on the cluster: its result, how far it is, its end.

    Made by `ApplicationNode.push_tasksystem`. Its counts are those of the system's own tasks. If the process in which
    the system runs dies, the system is run again from its start, three times at most.
    """

    told: SystemCounts = _NOTHING  #: what its host has said last

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the end; return what the system's `gather_result` gave.

        Raises what a method of the system or, unless the system takes errors, a task has raised; CancelledError if it
        was cancelled; TimeoutError after `timeout_s` seconds.
        """
        (value,) = self.results(timeout_s)
        return value

    def stats(self) -> dict[str, Any]:
        """Tell how far the system is, as `MasterHandle.stats` does there; what it says is a moment old."""
        stats: dict[str, Any] = msgspec.to_builtins(self.told)
        return stats

    def counts(self) -> Counts:
        """Tell how many of the system's tasks are where."""
        told = self.told
        if self._ended_s is not None:
            return Counts(0, 0, told.done, told.failed, told.cancelled + told.unfinished)
        return Counts(told.waiting, told.running, told.done, told.failed, told.cancelled)

    def task_said(self, index: int, notes: Sequence[Note]) -> None:
        """Note what the host has said."""
        for note in notes:
            if isinstance(note, SystemCounts):
                self.told = note
        super().task_said(index, notes)
