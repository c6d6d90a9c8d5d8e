"""The pool of an engine: takes the place of a slave's workers, and hands groups of tasks to an engine.

It has no thread: the slave's loop calls it. Events of the engine's threads wait in a queue, with a descriptor that
wakes the loop. `group_scheduler` decides which groups are sent.
"""

import logging
import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from concurrent_nb.engines.engine_interface import Engine
from concurrent_nb.engines.failing_hosts import FailingHosts
from concurrent_nb.engines.group_messages import (
    EngineSession,
    Group,
    HostReport,
    Orders,
    Parcel,
    SharedObject,
    pack,
    read_report,
)
from concurrent_nb.engines.group_scheduler import GroupScheduler, GroupTask, OrderOf, RunningGroup
from concurrent_nb.engines.report_order import ReportOrder
from concurrent_nb.errors import ProtocolError
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.tasks.shared_objects import object_id
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, ItemBuffers, length, slices_of, split_off
from concurrent_nb.workers.protocol.records import ClusterAt
from concurrent_nb.workers.slave_side.attempts import PoolReports
from concurrent_nb.workers.slave_side.pool import Pool, make_launcher

log = logging.getLogger(__name__)

#: objects of at most this size travel with each group that needs them
SMALL_BYTES: Final = 16 * 1024
#: seconds between the interrupt of a task and the kill of its worker
GRACE_S: Final = 1.0


class EnginePool:
    """Runs tasks on an engine. Implements `nodes.slave.loop.SlavePool` and `engine_interface.EngineEvents`.

    Args:
        engine: is opened here, and closed with the pool.

    Raises what `Engine.open` raises; the engine is closed then.
    """

    initializer_failed = False  #: an engine's workers have none of ours

    def __init__(self, engine: Engine) -> None:
        self.fds_version = 0
        self.cluster: ClusterAt | None = None  #: not passed on: the engine's workers need not reach the master
        self._engine = engine
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = Wakeup()
        self._session = EngineSession(
            secrets.token_bytes(16),
            socket.gethostname(),
            list(sys.path),
            "",  # the engine sets it where no worker can be on another machine
            GRACE_S,
        )
        self._segments = SegmentReader()  # shared memory of the application
        self._local: Pool | None = None  # for system hosts, when there is one
        try:
            self._session = engine.open(self._session, self)
        except BaseException:
            self.close()
            raise
        self._scheduler = GroupScheduler(max(1, engine.slots))
        self._functions: dict[bytes, tuple[bytes, Sequence[Buffer | m.Slice]]] = {}
        self._handles: dict[bytes, SegmentHandle] = {}  # of the segments, as they were announced
        self._stored: dict[bytes, Any] = {}  # the engine's handles of objects, by name
        self._sent_count: dict[bytes, int] = {}  # how often an object was sent with a group
        self._sent: dict[int, tuple[Parcel, list[m.Slice], list[bytes]]] = {}  # groups, and what they need
        self._recalled: dict[int, Orders] = {}  # groups that are not to run, until they report their end
        self._order = ReportOrder()
        self._stacks: list[m.StackSampled] = []
        self._restarts = 0
        self._failing = FailingHosts()
        self._now = 0.0
        self._degraded = ""
        self._was_degraded = False

    # ------------------------------------------------------------------------------------- called by the slave's core

    def start(self, now: float) -> None:
        """Do nothing: hosts start when they get their first group."""

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a function until a group needs it."""
        known = self._functions.get(digest)
        if known is not None and slices_of(split_off(known[1])[0]) != slices_of(split_off(buffers)[0]):
            self._drop_object(digest)  # what is in the engine's store refers to memory that is used otherwise by now
        self._functions[digest] = body, buffers
        if self._local is not None:
            self._local.add_function(digest, body, buffers)

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        self._scheduler.functions_dropped(digests)
        for digest in digests:
            self._functions.pop(digest, None)
            self._drop_object(digest)
        if self._local is not None:
            self._local.drop_functions(digests)

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Open a segment of shared memory, from which groups get their large arguments."""
        handle = self._handles[segment] = SegmentHandle(segment, pid, fd, size)
        try:
            self._segments.add(handle)
        except (CannotOpen, OSError) as error:  # its owner is gone, or there are too many open files
            log.warning("shared memory of an application cannot be opened: %s", error)
        if self._local is not None:
            self._local.add_segment(segment, pid, fd, size)

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Close segments, and forget what of them is in the engine's store."""
        gone = set(segments)
        self._segments.drop(segments)
        for segment in segments:
            self._handles.pop(segment, None)
        for name in [name for name in {*self._stored, *self._sent_count} if name.split(b"/", 2)[-1] in gone]:
            self._drop_object(name)
        if self._local is not None:
            self._local.drop_segments(segments)

    def release(self, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Return slices to system hosts: results of an engine's workers are in no shared memory of this machine."""
        if self._local is not None:
            self._local.release(slices, clean=clean)

    def hold_notes(self, hold: bool) -> None:
        """Slow down system hosts. Notes of an engine's tasks are as slow as the engine's messages."""
        if self._local is not None:
            self._local.hold_notes(hold)

    def assign(self, run: m.Assign, buffers: ItemBuffers, now: float) -> None:
        """Run these attempts: task systems here, all others on the engine."""
        needs = run.needs
        if needs is not None and needs.kind == "system_host":
            self._local_pool(now).assign(run, buffers, now)
            return
        if needs is not None and needs.cores > 1:
            why = f"needs {needs.cores} cores, and a worker of the engine {self._engine.name!r} has one"
            self._scheduler.refuse(run, why)
            return
        if needs is not None and not needs.cores:
            run = msgspec.structs.replace(run, needs=m.Needs(1, needs.kind))
        self._scheduler.assigned(run, buffers)

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Return these attempts if they have not started; with `stop`, also stop those that have."""
        self._scheduler.withdrawn(tasks, stop)
        if self._local is not None:
            self._local.withdraw(tasks, stop, now)

    def has(self, ref: m.TaskRef) -> bool:
        """Return whether this attempt is here, and its end is in no report yet."""
        return self._scheduler.has(ref) or (self._local is not None and self._local.has(ref))

    def attempts(self) -> list[m.TaskRef]:
        """Return all attempts that are here, and whose end is in no report yet."""
        return self._scheduler.attempts() + ([] if self._local is None else self._local.attempts())

    def follow(self, run: m.Assign, now: float) -> int:
        """Return 0: a group of the engine is complete when it begins."""
        return 0

    def sample_stack(self, request: int, ref: m.TaskRef, now: float) -> None:
        """Ask the host of a running task for its stack."""
        number = self._scheduler.group_of(ref)
        if number is not None:
            self._give_order(Orders(number, sample_stacks=[m.SampleStack(request, ref)]))
        elif self._local is not None:
            self._local.sample_stack(request, ref, now)
        else:
            self._stacks.append(m.StackSampled(request, 0, 0.0, "", "it has not begun, or has ended"))

    def restart_workers(self, now: float, *, stop: bool) -> None:
        """Have each host replace its worker before its next group; with `stop` immediately."""
        self._restarts += 1
        if stop:
            for number in self._scheduler.groups:
                self._give_order(Orders(number, restart=True))

    @property
    def outdated(self) -> int:
        """Return 0: no task of a later group runs in an old worker."""
        return 0

    @property
    def is_saturated(self) -> bool:
        """Return whether tasks wait."""
        return self._scheduler.is_saturated

    @property
    def usable_slots(self) -> int:
        """Return how many groups the engine runs at the same time."""
        return self._scheduler.slots

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome."""
        return self._scheduler.unfinished + (0 if self._local is None else self._local.unfinished)

    def drain(self, now: float) -> None:
        """Return what has not started, now and from now on."""
        self._scheduler.drain()
        if self._local is not None:
            self._local.drain(now)

    def take_reports(self) -> PoolReports:
        """Send what can be sent; return what has happened since the last call."""
        if self._degraded and not self._was_degraded:
            self._was_degraded = True
            self._scheduler.drain()
            for number in self._scheduler.groups:
                self._scheduler.group_ended(number)
        self._advance()
        reports = self._scheduler.take_reports()
        reports.stacks, self._stacks = self._stacks, []
        reports.degraded = self._degraded
        if self._local is not None:
            reports.add(self._local.take_reports())
            self.fds_version = 1 + self._local.fds_version
        return reports

    # ------------------------------------------------------------------------------------------- the slave's poll loop

    def fds(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        local = {} if self._local is None else self._local.fds()
        return {self._wake.fileno(): 1, **local}

    def ready(self, fd: int, events: int, now: float) -> None:
        """Handle the events of a descriptor."""
        self._now = now
        if fd == self._wake.fileno():
            self._wake.clear()
            self._take_inbox()
        elif self._local is not None:
            self._local.ready(fd, events, now)

    def tick(self, now: float) -> None:
        """Handle the passing of time."""
        self._now = now
        self._take_inbox()
        for report, buffers in self._order.overdue(now):
            self._apply(report, buffers)
        if self._local is not None:
            self._local.tick(now)
            self.fds_version = 1 + self._local.fds_version

    def next_deadline(self) -> float | None:
        """Return when to call `tick` at the latest."""
        resume_at = self._failing.due_at if self._scheduler.is_saturated else None
        if resume_at is not None and self._failing.may_send(self._now):
            resume_at = None  # what waits, waits for slots
        deadlines = [self._order.due_at, resume_at, None if self._local is None else self._local.next_deadline()]
        return min((at for at in deadlines if at is not None), default=None)

    def reset(self, now: float) -> None:
        """Forget all tasks and what they need, and stop what runs."""
        for number in self._scheduler.reset():
            self._give_order(Orders(number, restart=True))
        self._sent.clear()
        self._recalled.clear()
        self._order = ReportOrder()
        for name in list(self._stored):
            self._drop_object(name)
        self._sent_count.clear()
        self._functions.clear()
        self._segments.close()
        if self._local is not None:
            self._local.reset(now)

    def close(self) -> None:
        """End all hosts, and leave the engine."""
        try:
            self._engine.close()
        finally:
            if self._local is not None:
                self._local.close()
            self._segments.close()
            self._wake.close()

    # ------------------------------------------------------------------------------ called by the engine, in any thread

    def reported(self, parcel: Sequence[Buffer]) -> None:
        """Take a report of a host whose group runs."""
        self._later(lambda: self._take_report(parcel))

    def ended(self, number: int, parcel: Sequence[Buffer]) -> None:
        """Take the last report of a group."""
        self._later(lambda: self._take_last_report(number, parcel))

    def lost(self, number: int, reason: str) -> None:
        """Note that a group has ended without a last report."""
        self._later(lambda: self._lost(number, reason))

    def resized(self, slots: int) -> None:
        """Note how many groups the engine runs at the same time."""
        self._later(lambda: setattr(self._scheduler, "slots", max(1, slots)))

    def gone(self, reason: str) -> None:
        """Note that the engine runs nothing any more."""
        self._later(lambda: self._fail(reason))

    def _later(self, what: Callable[[], None]) -> None:
        self._inbox.append(what)
        self._wake.set()

    # ------------------------------------------------------------------------------------------ in the slave's thread

    def _take_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _fail(self, reason: str) -> None:
        self._degraded = self._degraded or reason

    def _lost(self, number: int, reason: str) -> None:
        self._recalled.pop(number, None)
        self._forget_sent(number)
        self._scheduler.group_lost(number, reason)

    def _forget_sent(self, number: int) -> None:
        """Forget a group that has ended without its results, and that the store may hold what it needed."""
        _, slices, functions = self._sent.pop(number, (None, [], []))
        for name in [*map(_name_of, slices), *functions]:
            self._drop_object(name)  # the store may have lost it with the worker
        self._order.forget(number)

    def _take_report(self, parcel: Sequence[Buffer]) -> None:
        try:
            self._sort_in(*read_report(parcel))
        except ProtocolError as error:
            log.error("a report of the engine %s is left out: %s", self._engine.name, error)

    def _take_last_report(self, number: int, parcel: Sequence[Buffer]) -> None:
        try:
            report, buffers = read_report(parcel)
            if report.number != number or not report.is_last:
                raise ProtocolError(f"it is a report of group {report.number}, and not the last one of group {number}")
        except ProtocolError as error:
            log.error("the last report of group %d of the engine %s is left out: %s", number, self._engine.name, error)
            self._lost(number, f"the engine {self._engine.name!r} has brought a result that cannot be read ({error})")
        else:
            self._sort_in(report, buffers)

    def _sort_in(self, report: HostReport, buffers: list[list[Sequence[Buffer]]]) -> None:
        """Handle a report, and others that have waited for it, in their order."""
        if self._scheduler.has_group(report.number):
            for ready, its_buffers in self._order.add(report, buffers):
                self._apply(ready, its_buffers)
        elif report.is_last:
            self._recalled.pop(report.number, None)
        elif report.number in self._recalled:  # it had begun, or has begun in spite of that
            self._give_order(self._recalled[report.number])

    def _apply(self, report: HostReport, buffers: list[list[Sequence[Buffer]]]) -> None:
        """Handle a report whose predecessors have been handled."""
        number, scheduler = report.number, self._scheduler
        if report.failure:
            log.warning("a worker of the engine %s has failed: %s", self._engine.name, report.failure)
            self._failing.failed(self._now)
            scheduler.group_failed(number, report.failure)
            self._forget_sent(number)
            if self._failing.is_hopeless and not scheduler.runs_a_group:
                self._fail(report.failure)
            return
        if report.missing and not report.outcomes:
            self._send_again(number, report.missing)
            return
        self._failing.worked()
        scheduler.begun(number, report.run)
        for written in report.output:
            scheduler.output(written.task, written.stream, written.data)
        scheduler.started(number, report.started)
        for outcomes, its_buffers in zip(report.outcomes, buffers, strict=True):
            scheduler.ended(number, outcomes.job, outcomes.items, its_buffers if any(its_buffers) else ())
        scheduler.returned(number, report.returned)
        self._stacks += report.stacks
        if report.is_last:
            self._sent.pop(number, None)
            scheduler.group_ended(number)

    def _advance(self) -> None:
        """Send groups and orders, as the scheduler has decided."""
        if self._degraded:
            return
        for group in self._scheduler.plan() if self._failing.may_send(self._now) else ():
            try:
                self._send(group)
            except Exception as error:
                log.debug("engine %s takes no group", self._engine.name, exc_info=error)
                self._fail(f"{self._engine.describe()} takes none ({describe(error)})")
                return
        for recall in self._scheduler.take_recalls():
            self._recall(recall)
        for order in self._scheduler.take_orders():
            self._give_order(Orders(order.number, withdraw=[m.Withdraw(order.refs, order.stop)]))

    def _recall(self, recall: OrderOf) -> None:
        number = recall.number
        self._sent.pop(number, None)
        self._order.forget(number)
        self._recalled[number] = Orders(number, withdraw=[m.Withdraw(recall.refs, recall.stop)])
        try:
            self._engine.recall(number)
        except Exception as error:  # noqa: BLE001  (an engine's: the group is stopped when it begins)
            log.warning("a group cannot be recalled from the engine %s: %s", self._engine.name, describe(error))

    def _give_order(self, orders: Orders) -> None:
        try:
            self._engine.order(orders.number, pack(orders)[0:1])
        except Exception as error:  # noqa: BLE001  (an engine's: the group goes on, and what it does is still reported)
            log.warning("orders cannot be brought to the engine %s: %s", self._engine.name, describe(error))

    def _send(self, group: RunningGroup) -> None:
        tasks = list(group.tasks.values())
        runs = _runs_of(tasks)
        slices: dict[bytes, m.Slice] = {}
        functions = list(dict.fromkeys(task.function for task in tasks))
        for sizes in [*(task.frame.sizes for task in tasks), *(self._sizes_of(digest) for digest in functions)]:
            slices.update((_name_of(slice_), slice_) for slice_ in slices_of(sizes))
        header = Group(group.number, self._session, self._restarts, runs, [*slices, *functions])
        parcel = pack(header, [buffer for task in tasks for buffer in task.buffers])
        self._sent[group.number] = parcel, list(slices.values()), functions
        objects, handles = [], []
        for name in header.needed:
            if name in self._stored:
                handles.append(self._stored[name])
                continue
            if (size := self._object_bytes(name, slices)) <= SMALL_BYTES:
                objects.append(self._object(name, slices))
                continue
            count = self._sent_count[name] = self._sent_count.get(name, 0) + 1
            if count > self._scheduler.slots:  # most hosts have it by now; others report that they lack it
                continue
            found = self._object(name, slices)
            handle = self._engine.put(found)
            if handle is None:
                objects.append(found)
            else:
                self._stored[name] = handle
                handles.append(handle)
            log.debug("object %s of %d bytes goes to the engine", name[:16].hex(), size)
        self._engine.submit(group.number, parcel, objects, handles)

    def _send_again(self, number: int, missing: Sequence[bytes]) -> None:
        """Send a group again, with what a host lacks."""
        parcel, slices, _ = self._sent[number]
        named = {_name_of(slice_): slice_ for slice_ in slices}
        # Where a function's buffers lie may have changed since.
        moved = {
            _name_of(slice_): slice_
            for name in missing
            if name in self._functions
            for slice_ in slices_of(self._sizes_of(name))
        }
        missing = list(dict.fromkeys([*(name for name in moved if name not in named), *missing]))
        named.update(moved)
        try:
            self._engine.submit(number, parcel, [self._object(name, named) for name in missing], [])
        except Exception as error:  # noqa: BLE001  (an engine's; open futures raise it)
            self._fail(f"{self._engine.describe()} takes none ({describe(error)})")

    def _sizes_of(self, digest: bytes) -> m.Sizes:
        return split_off(self._functions[digest][1])[0]

    def _object_bytes(self, name: bytes, slices: dict[bytes, m.Slice]) -> int:
        if name in slices:
            return slices[name].size
        body, buffers = self._functions[name]
        return len(body) + sum(length(buffer) for buffer in buffers if not isinstance(buffer, m.Slice))

    def _object(self, name: bytes, slices: dict[bytes, m.Slice]) -> Parcel:
        """Return a function, or the content of a slice. Raises CannotOpen."""
        if name in slices:
            return pack(SharedObject(name, slice=slices[name]), [self._segments.read(slices[name])])
        body, buffers = self._functions[name]
        sizes, travelling = split_off(buffers)
        return pack(SharedObject(name, m.Function(name, body, sizes)), travelling)

    def _drop_object(self, name: bytes) -> None:
        self._sent_count.pop(name, None)
        handle = self._stored.pop(name, None)
        if handle is not None:
            with suppress(Exception):  # the engine may be gone, and its store with it
                self._engine.drop(handle)

    def _local_pool(self, now: float) -> Pool:
        """Return the pool of this machine in which system hosts live, as their master is here."""
        if self._local is None:
            self._local = Pool(0, make_launcher("fork_server", 1), grace_s=GRACE_S)
            self._local.start(now)
            for digest, (body, buffers) in self._functions.items():
                self._local.add_function(digest, body, buffers)
            for handle in self._handles.values():
                self._local.add_segment(handle.segment, handle.pid, handle.fd, handle.size)
        return self._local


def _runs_of(tasks: Iterable[GroupTask]) -> list[m.Assign]:
    """Return tasks in their order, as few runs."""
    runs: list[m.Assign] = []
    for task in tasks:
        last = runs[-1] if runs else None
        if (
            last is not None
            and (last.job, last.function, last.timeout_s) == (task.job, task.function, task.timeout_s)
            and last.needs == task.needs
        ):
            last.tasks.append(task.frame)
        else:
            runs.append(m.Assign(task.job, task.function, task.timeout_s, [task.frame], task.needs))
    return runs


def _name_of(slice_: m.Slice) -> bytes:
    return object_id(slice_.segment, slice_.offset, slice_.serial)
