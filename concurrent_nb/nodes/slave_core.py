"""The slave without sockets and processes: messages of the master to its workers, their reports back.

    frames of the master -> Session -> Crew (workers.pool) -> Reports -> Session -> frames for the master

Called by `SlaveNode`'s poll loop, by the simulator and by the tour in tests/test_life_of_a_task.py.
"""

from collections.abc import Sequence
from typing import Protocol

from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers
from concurrent_nb.wire.session import Session


class Reports(Protocol):
    """What workers have to say since the last time."""

    outcomes: list[tuple[bytes, list[m.OutcomeFrame], list[Sequence[Buffer]]]]  #: by job
    started: list[m.TaskRef]
    returned: list[m.TaskRef]
    output: list[tuple[m.TaskRef, int, bytes]]
    degraded: str  #: why no worker is started any more, "" while they are; all tasks are returned then


class Crew(Protocol):
    """What a slave needs of its workers. `workers.pool.Pool` has it; so have the tests' and the simulator's crews."""

    def add_function(self, digest: bytes, body: bytes, buffers: Buffers) -> None:
        """Keep a pickled function (a long body is the first buffer)."""

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""

    def assign(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        tasks: Sequence[m.TaskFrame],
        buffers: ItemBuffers,
        now: float,
        needs: m.Needs | None = None,
    ) -> None:
        """Run these attempts, each of which will be reported once as an outcome or as returned."""

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Return what has not started; with `stop`, cancel what has."""

    def take_reports(self) -> Reports:
        """Give what has happened since the last call."""


class SlaveCore:
    """Everything that a slave says and hears.

    Args:
        name: what the master calls this slave.
        epoch: the master's life.
        crew: its workers.
        interval_s: seconds between two signs of life.
    """

    def __init__(self, name: str, epoch: int, crew: Crew, interval_s: float) -> None:
        self.name = name
        self.session = Session(epoch, "to_slave")
        self._crew = crew
        self._interval_s = interval_s
        self._said_at = -interval_s
        self.degraded = ""  #: why the crew cannot work any more
        self.kernel_requests: list[int] = []  #: questions for the slave's kernel that have no answer yet

    @property
    def closed_by_master(self) -> str | None:
        """The master's reason once it has ended the session."""
        return self.session.closed_by_peer

    def received(self, frames: Sequence[Buffer], now: float) -> None:
        """Take one envelope of the master. Raises ProtocolError; the session is over then."""
        for item in self.session.receive(frames, now):
            message = item.message
            if type(message) is m.Assign:
                self._crew.assign(
                    message.job, message.function, message.timeout_s, message.tasks, item.buffers, now, message.needs
                )
            elif type(message) is m.Function:
                self._crew.add_function(message.digest, message.body, item.buffers[0] if item.buffers else ())
            elif type(message) is m.Withdraw:
                self._crew.withdraw(message.tasks, message.stop, now)
            elif type(message) is m.DropFunctions:
                self._crew.drop_functions(message.digests)
            elif type(message) is m.OpenKernel:
                self.kernel_requests.append(message.request)

    def kernel_opened(self, access: m.KernelAccess | None, error: str = "") -> None:
        """Answer all who have asked for the kernel: how to attach, or why there is none."""
        for request in self.kernel_requests:
            self.session.send(m.KernelOpened(request, access, error))
        self.kernel_requests.clear()

    def resize(self, slots: int, credit: int) -> None:
        """Tell the master how much fits from now on."""
        self.session.send(m.Capacity(slots, credit))

    @property
    def all_heard(self) -> bool:
        """Say whether the master has acknowledged everything that was said."""
        return not (self.session.in_flight or self.session.backlog)

    def step(self, now: float) -> list[list[Buffer]]:
        """Give all envelopes that should leave now."""
        reports = self._crew.take_reports()
        for task, stream, data in reports.output:
            self.session.send(m.Output(task, stream, data))
        if reports.started:
            self.session.send(m.Started(self.name, reports.started))
        for job, frames, buffers in reports.outcomes:
            self.session.send(m.Outcomes(job, self.name, frames), buffers)
        self.degraded = self.degraded or reports.degraded
        if reports.returned:
            self.session.send(m.Returned(reports.returned))
        envelopes = self.session.flush(now)
        if not envelopes and now - self._said_at >= self._interval_s:
            envelopes = [self.session.keepalive()]
        if envelopes:
            self._said_at = now
        return envelopes

    def next_deadline(self) -> float:
        """When `step` should be called again at the latest."""
        keepalive = self._said_at + self._interval_s
        due = self.session.next_deadline()
        return keepalive if due is None else min(keepalive, due)
