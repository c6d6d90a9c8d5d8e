"""Questions what a running task is doing: who is asked, and the answers. Pure, a part of `nodes.master.core`."""

from math import inf
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError, StackUnavailable
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.slave_requests import PendingRequest, SlaveRequests
from concurrent_nb.tasks.task_record import TaskRecord, TaskState
from concurrent_nb.wire import messages as m

#: seconds that a slave has for its answer; its worker has 2 of them
ANSWER_WITHIN_S: Final = 5.0
#: most characters of a slave's reason that are passed on
REASON_MAX: Final = 2000


class StackSample(msgspec.Struct, frozen=True):
    """What a running task was doing."""

    slave: str
    worker: int  #: pid
    seconds: float  #: for which it had run
    stack: str  #: as in a traceback: the most recent call last

    def as_json(self) -> dict[str, Any]:
        """Return it as the control channel answers."""
        return {"slave": self.slave, "worker": self.worker, "seconds": self.seconds, "stack": self.stack}


class StackRequests(SlaveRequests[StackSample]):
    """Questions for stacks, each settled once: with the stack, or with an error for its caller."""

    def __init__(self) -> None:
        super().__init__(ANSWER_WITHIN_S)

    def ask(self, task: TaskRecord, slave: str, now: float) -> m.SampleStack:
        """Add a question about a task that is assigned to this slave, and return the message for the slave."""
        assert task.slave is not None
        request = self._add(task.slave, slave, now, task.name)
        return m.SampleStack(request, m.TaskRef(task.job.id, task.index, task.attempt))

    def answered(self, slave: SessionId, message: m.StackSampled) -> None:
        """Handle a slave's answer. Raises ProtocolError for a malformed one, and for one without a question."""
        pending = self._asked(slave, message.request)
        if not 0 <= message.run_s < inf:
            raise ProtocolError(f"a task that has run for {message.run_s} s")
        if len(message.stack.encode(errors="replace")) > m.STACK_BYTES_MAX:
            raise ProtocolError(f"a stack of more than {m.STACK_BYTES_MAX} bytes")
        if message.stack:
            sample = StackSample(pending.name, message.worker, message.run_s, message.stack)
            self._settle(message.request, sample)
            return
        text = f"task {pending.about} was assigned to slave {pending.name!r}, which has no stack of it"
        self._settle(message.request, StackUnavailable(f"{text}: {message.error[:REASON_MAX]}"))

    def _error_lost(self, pending: PendingRequest, why: str) -> StackUnavailable:
        return StackUnavailable(f"slave {pending.name!r}, to which task {pending.about} was assigned, was lost: {why}")

    def _error_late(self, pending: PendingRequest) -> StackUnavailable:
        text = f"slave {pending.name!r}, to which task {pending.about} is assigned, has not answered"
        return StackUnavailable(f"{text} within {ANSWER_WITHIN_S:.0f} s: ask again")


def why_not_running(task: TaskRecord) -> str:
    """Return where a task is that no slave has, for messages; "" if a slave has it."""
    if task.outcome is not None:
        return "it has ended"
    return "" if task.state == TaskState.ASSIGNED else "it waits at the master for a slave"
