"""What a master with a journal has not acknowledged to a slave: it gets it again when it was started anew. Pure.

A slave keeps one beside its workers, for all its sessions with that master.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import ItemBuffers

#: (job, index, attempt)
AttemptName = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class OutcomesTag:
    """Marks outcomes in a session, which returns it when the master has them."""

    number: int


class Unacknowledged:
    """Outcomes that the master has not acknowledged, and attempts whose start was reported."""

    def __init__(self) -> None:
        self._outcomes: dict[int, tuple[bytes, Sequence[m.OutcomeFrame], ItemBuffers]] = {}
        self._number = 0
        self._started: dict[AttemptName, m.StartedTask] = {}

    def keep(self, job: bytes, items: Sequence[m.OutcomeFrame], buffers: ItemBuffers) -> OutcomesTag:
        """Keep outcomes until they are acknowledged; return the tag to send them with."""
        self._number += 1
        self._outcomes[self._number] = job, items, buffers
        if self._started:
            for item in items:
                self._started.pop((job, item.index, item.attempt), None)
        return OutcomesTag(self._number)

    def acknowledged(self, tag: OutcomesTag) -> None:
        """Note that the master has these outcomes."""
        self._outcomes.pop(tag.number, None)

    def note_started(self, tasks: Sequence[m.StartedTask]) -> None:
        """Note that the start of attempts is reported."""
        for task in tasks:
            self._started[task.job, task.index, task.attempt] = task

    def note_returned(self, tasks: Sequence[m.TaskRef]) -> None:
        """Note that attempts are returned."""
        if self._started:
            for task in tasks:
                self._started.pop((task.job, task.index, task.attempt), None)

    def refs(self) -> list[m.TaskRef]:
        """Return the attempts whose outcomes are kept."""
        return [m.TaskRef(job, it.index, it.attempt) for job, items, _ in self._outcomes.values() for it in items]

    def started(self) -> list[m.StartedTask]:
        """Return the attempts that run, as far as that was reported."""
        return list(self._started.values())

    def take(self) -> list[tuple[bytes, Sequence[m.OutcomeFrame], ItemBuffers]]:
        """Return the outcomes, to be kept again when they are sent again."""
        outcomes, self._outcomes = list(self._outcomes.values()), {}
        return outcomes
