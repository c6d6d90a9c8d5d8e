"""Events of a master that was started again with its journal: what had ended, and what its slaves still run.

Called by the scheduler, with an event and the time in seconds.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

from concurrent_nb.ids import JobId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import AttemptsOffered, OutcomesRestored
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot, is_system_host
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle, ends_job
from concurrent_nb.scheduling.task_queue import TaskQueue
from concurrent_nb.tasks.task_record import Buffer, JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import TaskRef

#: ends of tasks that their application looks after
_HANDED_BACK: Final = frozenset(map(int, (Status.TAKEN_BACK, Status.INPUT_GONE)))


class RestartEventHandler:
    """Handles what a restarted master learns from its journal and its slaves."""

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._over: dict[JobRecord, None] = {}  # jobs that end when all their outcomes are restored

    def outcomes_restored(self, event: OutcomesRestored, now: float) -> None:
        """End tasks that had ended. Their owners get the outcomes when they come back."""
        job = self._state.jobs.get(event.job)
        if job is None:
            return
        waited: list[TaskRecord] = []
        buffers: Iterable[Sequence[Buffer]] = event.buffers or repeat(())
        for item, own in zip(event.items, buffers, strict=False):
            task = job.tasks.get(item.index)
            if task is None or task.outcome is not None:
                continue
            if task.state is TaskState.WAITING:
                waited.append(task)
            task.attempt = item.attempt
            task.assigned_s = now - max(0.0, item.elapsed_s)
            task.accepted_s = min(task.accepted_s, task.assigned_s)
            if item.status in _HANDED_BACK:
                self._lifecycle.hand_back(task, Status(item.status))
            else:
                self._lifecycle.finish(task, item, own, event.slave)
                if ends_job(job, item.status):
                    self._over[job] = None
        self._state.waiting_ended(waited)
        if event.is_last and job in self._over:
            del self._over[job]
            self._lifecycle.end(job)

    def offered(self, event: AttemptsOffered, now: float) -> None:
        """Continue the attempts whose tasks wait; have the slave stop the others."""
        state = self._state
        slave = state.slaves.get(event.slave)
        if slave is None:
            return
        left: Counter[tuple[TaskQueue, str]] = Counter()
        for ref in event.tasks:
            job = state.jobs.get(JobId(ref.job))
            task = None if job is None else job.tasks.get(ref.index)
            if task is not None and task.slave == slave.id and task.attempt == ref.attempt:
                continue  # offered twice
            if task is None or not _may_go_on(task, ref):
                slave.refuse((JobId(ref.job), ref.index, ref.attempt))
                state.outbox.withdraw(slave.id, ref, stop=True)
                continue
            left[state.queue_for(task), task.job.owner] += 1
            task.attempt = ref.attempt - 1
            self._take(slave, task, now)
        for (queue, owner), count in left.items():
            queue.left(owner, count)
        state.placement_due = True
        slave.last_activity_s = now
        state.touch(slave)

    def _take(self, slave: SlaveState, task: TaskRecord, now: float) -> None:
        needs, unknown_s = task.needs, self._state.strategies.default.unknown_s
        if is_system_host(needs):
            slave.take_system_host(task, now)
        elif needs is not None and is_multi_slot(needs):
            slave.take_multi_slot(task, needs.cores or max(1, slave.slots), unknown_s, now)
        else:
            slave.take([task], unknown_s, now)


def _may_go_on(task: TaskRecord, ref: TaskRef) -> bool:
    """Return whether an attempt that a slave has can be the current one of its task."""
    return task.state is TaskState.WAITING and not task.cancelled and ref.attempt >= max(1, task.attempt)
