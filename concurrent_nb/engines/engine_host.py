"""A host: runs groups of tasks in a worker process of ours, inside of a worker process of an engine.

    HostTable: run                    --> EngineHost --> Pool of one worker --> worker process
               order (another thread) --> EngineHost --> GroupReporter      --> the application

There is one host per group that runs at the same time. `host_table.py` keeps it for later groups of its session.
"""

import os
import select
import signal
import socket
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from typing import Final

from concurrent_nb.engines.group_messages import EngineSession, Group, Orders, Parcel, SharedObject, read_group
from concurrent_nb.engines.group_reporter import REPORT_S, GroupReporter, Report
from concurrent_nb.errors import EngineUnavailable
from concurrent_nb.ids import AUTHKEY_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.common.pool_contents import PoolContents
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle, is_available
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, encode_error, joined, length, slices_of, split_off
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher, environment
from concurrent_nb.workers.slave_side.pool import Pool

#: seconds between two looks at whether a group is still wanted
WANTED_S: Final = 1.0
#: bytes of objects that a host keeps, while groups do not need them
KEPT_BYTES: Final = 512 << 20

#: returns whether the engine still wants the results of a group
IsWanted = Callable[[], bool]


class EngineHost:
    """One worker process of ours, with what it has been sent. One thread uses it at a time, but for `order`.

    Raises OSError or RuntimeError if this machine lacks what it needs; nothing of it is left then.
    """

    def __init__(self, session: EngineSession) -> None:
        self.name = os.urandom(8)
        self.restarts = 0
        self.idle_since = time.monotonic()
        self._objects: OrderedDict[bytes, tuple[SharedObject, int]] = OrderedDict()  # with their sizes
        self._orders: deque[Orders] = deque()
        self._segments = SegmentReader()  # of the worker, with results
        env = environment(1, 1, os.environ)
        if session.host_name == socket.gethostname():
            env[SYS_PATH_VARIABLE] = _json_list([*session.sys_path, *sys.path])
            if session.authkey:
                env[AUTHKEY_VARIABLE] = session.authkey
        with ExitStack() as undo:
            self._wake = Wakeup()
            undo.callback(self._wake.close)
            self._store = ObjectStore() if is_available() else None
            if self._store is not None:
                undo.callback(self._store.close)
            self._pool = Pool(1, ForkServerLauncher(env), grace_s=session.grace_s)
            undo.callback(self._pool.close)
            with _interrupts_unblocked():
                self._pool.start(time.monotonic())
            undo.pop_all()
        self._contents = PoolContents(self._store, self._pool)

    def order(self, orders: Orders) -> None:
        """Carry out orders soon. May be called in any thread."""
        self._orders.append(orders)
        self._wake.set()

    def missing(self, group: Group, objects: Sequence[tuple[SharedObject, list[Buffer]]]) -> list[bytes]:
        """Keep objects, and return the names of those that a group needs and that are not here."""
        # Contents first, because functions may refer to them. A function whose contents are not here is left out, and
        # comes again with them: what is kept refers to the contents as they lie here.
        for shared, buffers in sorted(objects, key=lambda each: each[0].function is not None):
            if shared.name not in self._objects and self._has_contents_of(shared):
                self._keep(shared, buffers)
        for name in group.needed:
            if name in self._objects:
                self._objects.move_to_end(name)
        self._forget_unused(set(group.needed))
        return [name for name in group.needed if name not in self._objects]

    def run(
        self, parcel: Sequence[Buffer], run: bytes, report: Report | None, is_wanted: IsWanted | None = None
    ) -> Parcel:
        """Run a group; return its last report. All objects that it needs must be here. It is stopped when not wanted.

        Raises EngineUnavailable if no worker of ours can be started here.
        """
        group, buffers = read_group(parcel)
        reporter = GroupReporter(group.number, run, self.name, report)
        now = time.monotonic()
        if group.restarts > self.restarts:
            self._pool.restart_workers(now, stop=True)
            self.restarts = group.restarts
        for assign, run_buffers in zip(group.runs, buffers, strict=True):
            self._pool.assign(*self._contents.localized(assign, run_buffers), now)
        reporter.due_at = now + REPORT_S  # orders can come then
        look_at = inf if is_wanted is None else now + WANTED_S
        while self._pool.unfinished:
            self._turn(reporter, look_at)
            if is_wanted is not None and time.monotonic() >= look_at:
                look_at = time.monotonic() + WANTED_S
                if not is_wanted():  # the engine knows that the user's process has gone, and no order comes
                    look_at, is_wanted = inf, None
                    refs = [m.TaskRef(each.job, task.index, task.attempt) for each in group.runs for task in each.tasks]
                    self._pool.withdraw(refs, True, time.monotonic())
        self._collect(reporter)
        self.idle_since = time.monotonic()
        return reporter.last()

    def close(self) -> None:
        """End the worker, and release everything."""
        self._pool.close()
        self._segments.close()
        if self._store is not None:
            self._store.close()
        self._wake.close()

    # --------------------------------------------------------------------------------------------------------- objects

    def _has_contents_of(self, shared: SharedObject) -> bool:
        """Return whether the slices that a function refers to are here."""
        return shared.function is None or all(map(self._contents.has, slices_of(shared.function.sizes)))

    def _keep(self, shared: SharedObject, buffers: list[Buffer]) -> None:
        size = sum(map(length, buffers))
        if shared.slice is not None:
            place = shared.slice
            for former in [name for name, (other, _) in self._objects.items() if _is_at(other, place)]:
                self._forget(former)  # with the functions that refer to it, which may be needed again
            self._contents.took(m.Content(place.segment, place.offset, place.serial, b"", (size,)), buffers)
        elif shared.function is not None:
            size += len(shared.function.body)
            sizes, own = self._contents.translated(shared.function.sizes, buffers)
            self._pool.add_function(
                shared.function.digest, shared.function.body, joined(sizes, own, lambda slice_: slice_)
            )
        self._objects[shared.name] = shared, size

    def _forget(self, name: bytes) -> None:
        shared, _ = self._objects.pop(name, (None, 0))
        if shared is not None and shared.function is not None:
            self._pool.drop_functions([shared.function.digest])
        elif shared is not None and shared.slice is not None:
            for referring in [it for it, (other, _) in self._objects.items() if _refers(other, shared.slice)]:
                self._forget(referring)
            others = any(
                other.slice is not None and other.slice.segment == shared.slice.segment
                for other, _ in self._objects.values()
            )
            if not others:
                self._contents.drop([shared.slice.segment])

    def _forget_unused(self, needed: set[bytes]) -> None:
        """Forget what has not been needed for the longest time, while there is too much."""
        total = sum(size for _, size in self._objects.values())
        for name in list(self._objects):
            if total <= KEPT_BYTES:
                return
            if name in self._objects and name not in needed:
                total -= self._objects[name][1]
                self._forget(name)

    # ------------------------------------------------------------------------------------------------------- one turn

    def _turn(self, reporter: GroupReporter, until: float) -> None:
        """Wait for something to happen, at most until then, and handle it."""
        pool = self._pool
        poll = select.poll()
        for fd, events in pool.fds().items():
            poll.register(fd, events)
        poll.register(self._wake.fileno(), select.POLLIN)
        now = time.monotonic()
        deadline = min(at for at in (pool.next_deadline(), reporter.due_at, until) if at is not None)
        ready = poll.poll(None if deadline == inf else max(0.0, deadline - now) * 1000)
        now = time.monotonic()
        for fd, events in ready:
            if fd != self._wake.fileno():
                pool.ready(fd, events, now)
        pool.tick(now)
        self._carry_out(reporter.number, now)
        self._collect(reporter)
        if reporter.due_at is not None and now >= reporter.due_at:
            reporter.send()

    def _carry_out(self, number: int, now: float) -> None:
        self._wake.clear()
        while self._orders:
            orders = self._orders.popleft()
            if orders.number != number:  # it has ended meanwhile
                continue
            for withdraw in orders.withdraw:
                self._pool.withdraw(withdraw.tasks, withdraw.stop, now)
            for sample in orders.sample_stacks:
                self._pool.sample_stack(sample.request, sample.task, now)
            if orders.restart:
                self._pool.restart_workers(now, stop=True)

    def _collect(self, reporter: GroupReporter) -> None:
        """Take what the pool reports; results leave shared memory."""
        reports = self._pool.take_reports()
        for made in reports.segments:
            with suppress(CannotOpen, OSError):  # its worker has died; the result is reported as lost
                self._segments.add(SegmentHandle(made.segment, made.pid, made.fd, made.size))
        reports.outcomes = [
            (job, *self._read_results(job, frames, buffers)) for job, frames, buffers in reports.outcomes
        ]
        self._segments.drop([*reports.forgotten, *reports.orphaned])
        reporter.add(reports)
        if reports.degraded:
            raise EngineUnavailable(f"no worker can be started on {socket.gethostname()}: {reports.degraded}")

    def _read_results(
        self, job: bytes, frames: list[m.OutcomeFrame], buffers: Sequence[Sequence[Buffer]]
    ) -> tuple[list[m.OutcomeFrame], list[Sequence[Buffer]]]:
        """Return outcomes whose buffers travel with them."""
        out_frames: list[m.OutcomeFrame] = []
        out_buffers: list[Sequence[Buffer]] = []
        for at, frame in enumerate(frames):
            own: Sequence[Buffer] = buffers[at] if buffers else ()
            slices = slices_of(frame.sizes)
            if slices:
                try:
                    sizes, own = split_off(joined(frame.sizes, own, self._segments.read))
                    frame = _replaced(frame, sizes)
                except (CannotOpen, OSError) as error:
                    report = m.ErrorReport("", f"worker {frame.worker} died before its result was taken: {error}", "")
                    frame, own = _lost_result(frame, encode_error(report)), ()
                self._pool.release(slices, clean=True)
            out_frames.append(frame)
            out_buffers.append(own)
        return out_frames, out_buffers


def _refers(shared: SharedObject, slice_: m.Slice) -> bool:
    """Return whether this is a function that refers to a slice."""
    return shared.function is not None and slice_ in slices_of(shared.function.sizes)


def _is_at(shared: SharedObject, slice_: m.Slice) -> bool:
    """Return whether this is the content of the place of a slice."""
    other = shared.slice
    return other is not None and (other.segment, other.offset) == (slice_.segment, slice_.offset)


def _replaced(frame: m.OutcomeFrame, sizes: m.Sizes) -> m.OutcomeFrame:
    from msgspec.structs import replace  # here: results in shared memory are few

    return replace(frame, sizes=sizes)


def _lost_result(frame: m.OutcomeFrame, body: bytes) -> m.OutcomeFrame:
    return m.OutcomeFrame(frame.index, frame.attempt, Status.DIED, frame.elapsed_s, frame.worker, body)


def _json_list(entries: Sequence[str]) -> str:
    from json import dumps  # here: once per host

    return dumps(list(dict.fromkeys(entries)))


@contextmanager
def _interrupts_unblocked() -> Iterator[None]:
    """Let processes that are started here receive SIGINT, which Ray blocks in its workers."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
