"""Decides which tasks travel together to an engine, and what becomes of them. Pure: time is in the reports.

What has happened goes in; `plan` returns the groups to send, `take_orders` the orders to groups, `take_recalls` the
groups that are not to run, `take_reports` what the slave reports to the master. See the package for the policy.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Final

from msgspec import Struct

from concurrent_nb.ids import task_name
from concurrent_nb.outcome import Status
from concurrent_nb.wire.codec import Buffer, ItemBuffers, encode_error, length
from concurrent_nb.wire.messages import Assign, ErrorReport, Needs, OutcomeFrame, StartedTask, TaskFrame, TaskRef
from concurrent_nb.workers.slave_side.attempts import Disposition, PoolReports

#: seconds of work in a group
GROUP_S: Final = 0.1
#: most tasks in a group, and most bytes of their own buffers
GROUP_TASKS_MAX: Final = 512
GROUP_BYTES_MAX: Final = 4 << 20
#: while tasks are expected to take less, in seconds, one more group per slot is sent than can run
SHORT_S: Final = 0.05
#: how much the last measured time counts in the expected one
_NEWS: Final = 0.3
#: a task whose group was lost so often before it had begun counts as one that dies with its worker
LOST_MAX: Final = 3

#: job, index, number of the attempt
Key = tuple[bytes, int, int]


class GroupTask(Struct, eq=False):
    """An attempt, until it has an outcome."""

    job: bytes
    function: bytes
    timeout_s: float | None
    needs: Needs | None
    frame: TaskFrame
    buffers: Sequence[Buffer]
    disposition: Disposition = Disposition.KEEP
    times_lost: int = 0  #: how often its group was lost before it had begun

    @property
    def key(self) -> Key:
        """Return its name here."""
        return self.job, self.frame.index, self.frame.attempt

    @property
    def ref(self) -> TaskRef:
        """Return its name on the wire."""
        return TaskRef(*self.key)

    def end(self, status: Status, body: bytes = b"") -> OutcomeFrame:
        """Return an outcome that no worker reports."""
        return OutcomeFrame(self.frame.index, self.frame.attempt, status, 0.0, 0, body)


class RunningGroup(Struct, eq=False):
    """A group that the engine has."""

    number: int
    tasks: dict[Key, GroupTask]  #: those without an outcome, in their order
    has_begun: bool = False
    run: bytes = b""  #: the last one that is known to have begun: an engine may run it again
    is_slow: bool = False  #: one of its tasks is slow, and the others were asked back


class OrderOf(Struct, frozen=True):
    """Withdraw these attempts from a group that has begun; with `stop`, also those that run."""

    number: int
    refs: list[TaskRef]
    stop: bool


class GroupScheduler:
    """The tasks of one engine.

    Args:
        slots: groups that the engine runs at the same time.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.is_draining = False
        self._numbers = 0
        self._waiting: deque[GroupTask] = deque()
        self._tasks: dict[Key, GroupTask] = {}
        self._groups: dict[int, RunningGroup] = {}
        self._group_of: dict[Key, RunningGroup] = {}
        self._estimates_s: dict[bytes, float] = {}  # by function
        self._orders: list[OrderOf] = []
        self._recalls: list[OrderOf] = []
        self._reports = PoolReports()

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome."""
        return len(self._tasks)

    @property
    def is_saturated(self) -> bool:
        """Return whether tasks wait."""
        return bool(self._waiting)

    @property
    def groups(self) -> list[int]:
        """Return the numbers of the groups that the engine has."""
        return list(self._groups)

    def has_group(self, number: int) -> bool:
        """Return whether the engine has this group."""
        return number in self._groups

    @property
    def runs_a_group(self) -> bool:
        """Return whether a group has begun and not ended."""
        return any(group.has_begun for group in self._groups.values())

    def tasks_of(self, number: int) -> list[GroupTask]:
        """Return the tasks of a group that have no outcome."""
        group = self._groups.get(number)
        return [] if group is None else list(group.tasks.values())

    def group_of(self, ref: TaskRef) -> int | None:
        """Return the group in which an attempt is, None if it waits or has ended."""
        group = self._group_of.get((ref.job, ref.index, ref.attempt))
        return None if group is None else group.number

    def has(self, ref: TaskRef) -> bool:
        """Return whether an attempt has no outcome."""
        return (ref.job, ref.index, ref.attempt) in self._tasks

    def attempts(self) -> list[TaskRef]:
        """Return all attempts without an outcome."""
        return [TaskRef(*key) for key in self._tasks]

    def take_reports(self) -> PoolReports:
        """Return what has happened since the last call."""
        reports, self._reports = self._reports, PoolReports()
        return reports

    def take_orders(self) -> list[OrderOf]:
        """Return the orders to groups since the last call."""
        orders, self._orders = self._orders, []
        return orders

    def take_recalls(self) -> list[OrderOf]:
        """Return the groups since the last call that are not to run, and what to order if they have begun meanwhile."""
        recalls, self._recalls = self._recalls, []
        return recalls

    # ------------------------------------------------------------------------------------------- events from the slave

    def assigned(self, run: Assign, buffers: ItemBuffers) -> None:
        """Add attempts. `buffers` has an entry for each task, or is empty if no task has buffers."""
        for at, frame in enumerate(run.tasks):
            own = buffers[at] if buffers else ()
            task = GroupTask(run.job, run.function, run.timeout_s, run.needs, frame, own)
            self._tasks[task.key] = task
            self._waiting.append(task)
        if self.is_draining:
            self.drain()

    def refuse(self, run: Assign, why: str) -> None:
        """End attempts that this engine cannot run."""
        for frame in run.tasks:
            text = f"task {task_name(run.job, frame.index)} {why}"
            body = encode_error(ErrorReport("TaskRefused", text, ""))
            self._reports.ended(run.job, OutcomeFrame(frame.index, frame.attempt, Status.ERROR, 0.0, 0, body))

    def withdrawn(self, refs: Iterable[TaskRef], stop: bool) -> None:
        """Return these attempts if they have not started; with `stop`, also stop those that have."""
        orders: dict[int, list[TaskRef]] = {}
        gone: set[int] = set()
        disposition = Disposition.CANCEL if stop else Disposition.RETURN
        for ref in refs:
            task = self._tasks.get((ref.job, ref.index, ref.attempt))
            if task is None or task.disposition >= disposition:
                continue
            task.disposition = disposition
            group = self._group_of.get(task.key)
            if group is None:
                gone.add(id(task))
                self._withdraw(task)
            elif group.has_begun:
                orders.setdefault(group.number, []).append(ref)
            elif all(each.disposition is Disposition.CANCEL for each in group.tasks.values()):
                self._recalls.append(OrderOf(group.number, [each.ref for each in group.tasks.values()], stop=True))
                self.group_ended(group.number)  # now, because the engine may be busy with others for hours
        if gone:
            self._waiting = deque(task for task in self._waiting if id(task) not in gone)
        self._orders += [OrderOf(number, found, stop) for number, found in orders.items()]

    def _withdraw(self, task: GroupTask) -> None:
        """Report a task that is not to run, and has not begun."""
        del self._tasks[task.key]
        if task.disposition is Disposition.CANCEL:
            self._reports.ended(task.job, task.end(Status.CANCELLED))
        else:
            self._reports.returned.append(task.ref)

    def drain(self) -> None:
        """Return what waits, now and from now on."""
        self.is_draining = True
        for task in self._waiting:
            del self._tasks[task.key]
            self._reports.returned.append(task.ref)
        self._waiting.clear()

    def functions_dropped(self, functions: Iterable[bytes]) -> None:
        """Forget functions that no task needs any more."""
        for function in functions:
            self._estimates_s.pop(function, None)

    def reset(self) -> list[int]:
        """Forget all tasks and groups; return the numbers of the groups, which are to be stopped."""
        groups = list(self._groups)
        self._waiting.clear()
        self._tasks.clear()
        self._groups.clear()
        self._group_of.clear()
        self._orders.clear()
        self._recalls.clear()
        self._reports = PoolReports()
        self.is_draining = False
        return groups

    # ------------------------------------------------------------------------------------------------ groups to send

    def plan(self) -> list[RunningGroup]:
        """Return the groups to send to the engine now."""
        planned = []
        while self._waiting and len(self._groups) < self._groups_max():
            planned.append(self._next_group())
        return planned

    def _groups_max(self) -> int:
        """Return how many groups the engine may have before the next one, which begins with the first waiting task."""
        expected_s = self._estimates_s.get(self._waiting[0].function)
        is_slow = expected_s is None or expected_s > SHORT_S or any(group.is_slow for group in self._groups.values())
        return self.slots if is_slow else 2 * self.slots

    def _next_group(self) -> RunningGroup:
        """Take the tasks of the next group from those that wait."""
        share = min(GROUP_TASKS_MAX, ceil(len(self._waiting) / self.slots))
        self._numbers += 1
        group = RunningGroup(self._numbers, {})
        total_s, total_bytes = 0.0, 0
        while self._waiting and len(group.tasks) < share:
            task = self._waiting[0]
            expected_s = self._estimates_s.get(task.function)
            size_bytes = sum(map(length, task.buffers))
            if group.tasks and (
                expected_s is None or total_s + expected_s > GROUP_S or total_bytes + size_bytes > GROUP_BYTES_MAX
            ):
                break
            group.tasks[task.key] = self._waiting.popleft()
            self._group_of[task.key] = group
            if expected_s is None:
                break
            total_s += expected_s
            total_bytes += size_bytes
        self._groups[group.number] = group
        return group

    # ----------------------------------------------------------------------------------------- events from the engine

    def begun(self, number: int, run: bytes = b"") -> None:
        """Note that a group runs; what was withdrawn before is ordered back from this run of it."""
        group = self._groups.get(number)
        if group is None or (group.has_begun and group.run == run):
            return
        if group.has_begun:
            group.is_slow = False  # the orders to the former run are lost with it
        group.has_begun, group.run = True, run
        for disposition in (Disposition.RETURN, Disposition.CANCEL):
            refs = [task.ref for task in group.tasks.values() if task.disposition is disposition]
            if refs:
                self._orders.append(OrderOf(number, refs, disposition is Disposition.CANCEL))

    def started(self, number: int, tasks: Iterable[StartedTask]) -> None:
        """Handle tasks that have been running for a while; those behind them are asked back."""
        group = self._groups.get(number)
        if group is None:
            return
        known = [task for task in tasks if (task.job, task.index, task.attempt) in group.tasks]
        self._reports.started += known
        if not known or group.is_slow:
            return
        group.is_slow = True
        running = {(task.job, task.index, task.attempt) for task in known}
        behind = [task.ref for key, task in group.tasks.items() if key not in running and not task.disposition]
        if behind:
            self._orders.append(OrderOf(number, behind, stop=False))

    def output(self, ref: TaskRef, stream: int, data: bytes) -> None:
        """Pass on what a task has written."""
        if (ref.job, ref.index, ref.attempt) in self._tasks:
            self._reports.output.append((ref, stream, data))

    def ended(
        self, number: int, job: bytes, frames: Sequence[OutcomeFrame], buffers: Sequence[Sequence[Buffer]]
    ) -> None:
        """Handle the outcomes of tasks of a group. Those that are known already are ignored: it may run twice."""
        for at, frame in enumerate(frames):
            key = job, frame.index, frame.attempt
            task = self._tasks.get(key)
            group = self._group_of.get(key)
            if task is None or group is None or group.number != number:
                continue
            self._forget(task, group)
            if frame.status < Status.CANCELLED:
                before_s = self._estimates_s.get(task.function)
                self._estimates_s[task.function] = (
                    frame.elapsed_s if before_s is None else before_s + _NEWS * (frame.elapsed_s - before_s)
                )
            self._reports.ended(job, frame, buffers[at] if buffers else ())

    def returned(self, number: int, refs: Iterable[TaskRef]) -> None:
        """Handle tasks that a group has not begun: they wait again, unless they were withdrawn."""
        again = []
        for ref in refs:
            group = self._group_of.get((ref.job, ref.index, ref.attempt))
            if group is None or group.number != number:
                continue
            task = group.tasks[ref.job, ref.index, ref.attempt]
            del group.tasks[task.key], self._group_of[task.key]
            if task.disposition or self.is_draining:
                self._withdraw(task)
            else:
                again.append(task)
        self._waiting.extendleft(reversed(again))

    def group_ended(self, number: int) -> None:
        """Note that the engine no longer has a group; what has no outcome waits again."""
        group = self._groups.get(number)
        if group is not None:
            self.returned(number, [task.ref for task in group.tasks.values()])
            del self._groups[number]

    def group_lost(self, number: int, reason: str) -> None:
        """Handle a group whose worker is gone, `reason` as in "its Dask worker died".

        The first task without an outcome counts a death if the group had begun, or was lost before too often.
        """
        group = self._groups.get(number)
        if group is None:
            return
        for task in list(group.tasks.values()):
            task.times_lost += 1
            if group.has_begun or task.times_lost >= LOST_MAX:
                text = f"{reason} while it had task {task_name(task.job, task.frame.index)}"
                self._forget(task, group)
                body = encode_error(ErrorReport("", text, ""))
                self._reports.ended(task.job, task.end(Status.DIED, body))
                break
        self.group_ended(number)

    def group_failed(self, number: int, reason: str) -> None:
        """Handle a group whose host has failed. If the group had not begun, no task counts a death."""
        group = self._groups.get(number)
        if group is not None and group.has_begun:
            self.group_lost(number, reason)
        else:
            self.group_ended(number)

    def _forget(self, task: GroupTask, group: RunningGroup) -> None:
        del self._tasks[task.key], self._group_of[task.key], group.tasks[task.key]
