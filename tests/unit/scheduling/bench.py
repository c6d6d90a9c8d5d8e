"""A scheduler on a bench, with a clock that stands still, and names of what tests put on it.

The bench checks all invariants after every call. `client_events` and `slave_events` make the events that it is given,
`instructions` reads the instructions that it returns.
"""

from typing import Any

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import Event
from concurrent_nb.scheduling.instructions import Instruction
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy

JOB = JobId(b"job 1".ljust(16))
OTHER_JOB = JobId(b"job 2".ljust(16))
F = Digest(b"f" * 32)
G = Digest(b"g" * 32)
ME = SessionId(b"me")
YOU = SessionId(b"you")

OK, HIT, ERROR, CANCELLED, TIMEOUT, DIED, POISON, REFUSED = (
    Status.OK,
    Status.HIT,
    Status.ERROR,
    Status.CANCELLED,
    Status.TIMEOUT,
    Status.DIED,
    Status.POISON,
    Status.REFUSED,
)


class Bench:
    """A scheduler, and the time."""

    def __init__(self, strategy: Strategy | None = None, **settings: Any) -> None:
        self.scheduler = Scheduler(strategy or PullRoundRobinStrategy(ahead_s=0.02), **settings)
        self.now = 0.0

    def __call__(self, *events: Event) -> list[Instruction]:
        """Let events happen now."""
        instructions = self.scheduler.handle(*events, now=self.now)
        self.scheduler.validate()
        return instructions

    def after(self, seconds: float, *events: Event) -> list[Instruction]:
        """Let time pass, then events happen."""
        self.now += seconds
        return self(*events)

    @property
    def tasks_kept(self) -> int:
        """How many tasks the scheduler remembers."""
        return sum(len(job.tasks) for job in self.scheduler.jobs.values())
