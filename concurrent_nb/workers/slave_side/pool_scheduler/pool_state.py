"""What the parts of the pool scheduler share: attempts and their queues, workers, reports for the slave. Pure."""

from collections.abc import Sequence
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.wire.codec import ItemBuffers
from concurrent_nb.wire.messages import Assign, OutcomeFrame
from concurrent_nb.workers.slave_side.attempts import Attempt, Buffer, Disposition, PoolReports
from concurrent_nb.workers.slave_side.pool_scheduler.attempt_queue import AttemptQueue
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerTable

#: time between two reads of the pages of busy workers, in seconds; a timeout is noticed that much later at most
PAGE_POLL_S: Final = 0.02
#: most suspects that are remembered
SUSPECTS_MAX: Final = 1000


class PoolState:
    """The attempts without an outcome, and the workers. An attempt is in a queue, or a worker has it."""

    def __init__(self, slots: int, ahead_s: float) -> None:
        self.slots = slots
        self.reports = PoolReports()
        self.degraded = False  #: no worker is started any more, and every attempt is returned
        self.draining = False  #: no attempt is started any more
        self.single_slot = AttemptQueue()  #: tasks of one slot
        self.multi_slot = AttemptQueue()  #: tasks of several slots
        self.system_hosts = AttemptQueue()  #: tasks that run a task system
        self.threads = AttemptQueue()  #: tasks in threads
        self.suspected = AttemptQueue()  #: those of them that are suspects
        self.attempts: dict[int, Attempt] = {}  #: by ticket: all without an outcome
        self.tickets: dict[tuple[bytes, int, int], int] = {}  #: by (job, index, number)
        self.workers = WorkerTable(ahead_s)
        self.thread_process = 0  #: the process in which threads are started; 0: a new one
        self.next_poll: float | None = None  #: when to call `tick` next
        self._queues = (self.single_slot, self.multi_slot, self.system_hosts, self.threads, self.suspected)
        self._suspects: dict[tuple[bytes, int], None] = {}  # by (job, index), the oldest first
        self._next_ticket = 1

    def follow(self, run: Assign, leader: Attempt, count: int) -> list[Attempt]:
        """Return new attempts of the first `count` tasks: the first is behind a leader, each other the one before."""
        pack, before = [], leader.ticket
        for frame in run.tasks[:count]:
            key = (run.job, frame.index, frame.attempt)
            if key in self.tickets:
                break
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            attempt = Attempt(
                ticket, run.job, frame.index, frame.attempt, run.function, None, frame.body, (), (), frame.kind
            )
            attempt.behind, before = before, ticket
            self.attempts[ticket] = attempt
            self.tickets[key] = ticket
            pack.append(attempt)
        return pack

    def add(self, run: Assign, buffers: ItemBuffers) -> None:
        """Queue new attempts; ignore those that are here already."""
        attempts, tickets = self.attempts, self.tickets
        single_slot = self.single_slot.append
        job, function, timeout_s, needs = run.job, run.function, run.timeout_s, run.needs
        for place, frame in enumerate(run.tasks):
            key = (job, frame.index, frame.attempt)
            if key in tickets:
                continue
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            own = buffers[place] if buffers else ()
            attempt = Attempt(
                ticket, job, frame.index, frame.attempt, function, timeout_s, frame.body, frame.sizes, own, frame.kind
            )
            attempts[ticket] = attempt
            tickets[key] = ticket
            if needs is None:
                single_slot(attempt)
            else:
                attempt.needs = needs
                attempt.suspect = (job, frame.index) in self._suspects
                self.queue_of(attempt).append(attempt)

    def check_over(self, ticket: int) -> None:
        """Raise ProtocolError unless this is the ticket of an attempt that has its outcome."""
        if ticket in self.attempts or not 0 < ticket < self._next_ticket:
            raise ProtocolError(f"named ticket {ticket}, which is not its own")

    def queue_of(self, attempt: Attempt) -> AttemptQueue:
        """Return the queue in which an attempt waits."""
        needs = attempt.needs
        if needs is None:
            return self.single_slot
        if needs.kind == "thread":
            return self.suspected if attempt.suspect else self.threads
        if needs.kind == "system_host":
            return self.system_hosts
        return self.multi_slot if needs.cores != 1 else self.single_slot

    def requeue(self, attempt: Attempt) -> None:
        """Put an attempt that a worker had to the front of its queue, unless its disposition is to end.

        One that needs a result which the worker has, or would have had, is returned.
        """
        if attempt.behind:
            if attempt.disposition > Disposition.RETURN:
                self._forget(attempt)
                self.reports.ended(attempt.job, attempt.end(Status.CANCELLED))
            else:
                self.return_to_master(attempt)
            return
        self.queue_of(attempt).push_front(attempt)
        if self.degraded or self.draining:
            disposition = max(attempt.disposition, Disposition.RETURN)
        else:
            disposition = attempt.disposition
        if disposition:
            self.remove_from_queue(attempt, disposition)

    def remove_from_queue(self, attempt: Attempt, disposition: Disposition) -> None:
        """End a waiting attempt: return it, or report it as cancelled."""
        self.queue_of(attempt).remove(attempt)
        if disposition is Disposition.RETURN:
            self.return_to_master(attempt)
        else:
            self._forget(attempt)
            self.reports.ended(attempt.job, attempt.end(Status.CANCELLED))

    def return_to_master(self, attempt: Attempt) -> None:
        """Report an attempt that will not run here."""
        self._forget(attempt)
        self.reports.returned.append(attempt.ref)

    def return_all(self) -> None:
        """Return all attempts that wait."""
        for queue in self._queues:
            for attempt in queue.clear():
                self.return_to_master(attempt)

    def finish(self, attempt: Attempt, frame: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Report the outcome of an attempt."""
        del self.attempts[attempt.ticket]  # not by a call: each task comes here
        del self.tickets[attempt.job, attempt.index, attempt.number]
        if attempt.suspect and frame.status != Status.DIED:
            self._suspects.pop((attempt.job, attempt.index), None)
        self.reports.ended(attempt.job, frame, buffers)

    def _forget(self, attempt: Attempt) -> None:
        del self.attempts[attempt.ticket]
        del self.tickets[attempt.job, attempt.index, attempt.number]

    def suspect(self, attempt: Attempt) -> None:
        """Remember that a task may have ended a process of threads."""
        self._suspects[attempt.job, attempt.index] = None
        if len(self._suspects) > SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]

    def clear(self) -> None:
        """Forget all attempts and reports. Workers keep theirs."""
        self.attempts.clear()
        self.tickets.clear()
        self._suspects.clear()
        for queue in self._queues:
            queue.clear()
        self.reports = PoolReports()
