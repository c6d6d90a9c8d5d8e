"""A host: runs groups of tasks in a worker process of ours, inside of a worker process of an engine.

    engine's worker: run_group(parcel, objects, report) --> EngineHost --> Pool of one worker --> worker process
                     deliver(orders) (another thread)   --> EngineHost

There is one host per group that runs at the same time; it is kept for later groups of its session, and ends when its
session does, when nobody has needed it for `IDLE_S`, or with the engine's worker process.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import msgspec

from concurrent_nb.engines.group_messages import (
    EngineSession,
    Group,
    HostReport,
    Orders,
    Parcel,
    SharedObject,
    pack,
    read_group,
    read_object,
    read_orders,
)
from concurrent_nb.errors import EngineUnavailable, ProtocolError
from concurrent_nb.foreign import describe
from concurrent_nb.ids import AUTHKEY_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.common.shared_memory_link import ReceivedContents
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle, is_available
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, encode_error, joined, length, slices_of, split_off
from concurrent_nb.workers.slave_side.attempts import PoolReports
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher, environment
from concurrent_nb.workers.slave_side.pool import Pool

log = logging.getLogger(__name__)

#: a host that has had nothing to do for so long ends, in seconds
IDLE_S: Final = 60.0
#: output and starts are reported after this time, in seconds; outcomes that a slow task holds up after REPORT_LATE_S
REPORT_S: Final = 0.03
REPORT_LATE_S: Final = 0.2
#: seconds between two looks at whether a group is still wanted
WANTED_S: Final = 1.0
#: bytes of objects that a host keeps, while groups do not need them
KEPT_BYTES: Final = 512 << 20

#: sends a report while the group runs
Report = Callable[[Parcel], None]
#: says whether anybody still wants the results of a group
IsWanted = Callable[[], bool]


class EngineHost:
    """One worker process of ours, with what it has been sent. One thread uses it at a time, but for `order`."""

    def __init__(self, session: EngineSession) -> None:
        self.name = os.urandom(8)
        self.restarts = 0
        self.idle_since = time.monotonic()
        self._objects: OrderedDict[bytes, tuple[SharedObject, int]] = OrderedDict()  # with their sizes
        self._orders: deque[Orders] = deque()
        self._wake = Wakeup()
        self._store = ObjectStore() if is_available() else None
        self._contents = ReceivedContents(self._store)
        self._pool_segments: set[bytes] = set()  # of the store, that the pool knows
        self._segments = SegmentReader()  # of the worker, with results
        env = environment(1, 1, os.environ)
        if session.host_name == socket.gethostname():
            env[SYS_PATH_VARIABLE] = _json_list([*session.sys_path, *sys.path])
            if session.authkey:
                env[AUTHKEY_VARIABLE] = session.authkey
        with _interrupts_unblocked():
            self._pool = Pool(1, ForkServerLauncher(env), grace_s=session.grace_s)
            self._pool.start(time.monotonic())

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
        """Run a group; return its last report. All that it needs must be here. It is stopped when nobody wants it.

        Raises EngineUnavailable if no worker of ours can be started here.
        """
        group, buffers = read_group(parcel)
        reporter = _Reporter(group.number, run, self.name, report)
        now = time.monotonic()
        if group.restarts > self.restarts:
            self._pool.restart_workers(now, stop=True)
            self.restarts = group.restarts
        for assign, run_buffers in zip(group.runs, buffers, strict=True):
            self._assign(assign, run_buffers, now)
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
            self._announce(sizes)
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
                closed = self._contents.drop([shared.slice.segment])
                self._pool_segments.difference_update(closed)
                self._pool.drop_segments(closed)

    def _forget_unused(self, needed: set[bytes]) -> None:
        """Forget what has not been needed for the longest time, while there is too much."""
        total = sum(size for _, size in self._objects.values())
        for name in list(self._objects):
            if total <= KEPT_BYTES:
                return
            if name in self._objects and name not in needed:
                total -= self._objects[name][1]
                self._forget(name)

    def _announce(self, sizes: m.Sizes) -> None:
        """Let the worker know how to open segments of the store."""
        for slice_ in slices_of(sizes):
            handle = None if self._store is None else self._store.handle(slice_.segment)
            if handle is not None and slice_.segment not in self._pool_segments:
                self._pool_segments.add(slice_.segment)
                self._pool.add_segment(handle.segment, handle.pid, handle.fd, handle.size)

    def _assign(self, assign: m.Assign, buffers: list[Sequence[Buffer]], now: float) -> None:
        frames, own = [], []
        for task, task_buffers in zip(assign.tasks, buffers, strict=True):
            sizes, rest = self._contents.translated(task.sizes, task_buffers)
            self._announce(sizes)
            frames.append(m.TaskFrame(task.index, task.attempt, task.body, sizes, task.kind))
            own.append(rest)
        self._pool.assign(msgspec.structs.replace(assign, tasks=frames), own, now)

    # ------------------------------------------------------------------------------------------------------- one turn

    def _turn(self, reporter: "_Reporter", until: float) -> None:
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

    def _collect(self, reporter: "_Reporter") -> None:
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


class _Reporter:
    """Gathers what a host has to say about a group, and sends it while the group runs."""

    def __init__(self, number: int, run: bytes, host: bytes, report: Report | None) -> None:
        self.number = number
        self.due_at: float | None = None  #: when to call `send`; None: nothing is urgent
        self._run = run
        self._host = host
        self._report = report
        self._serial = 0
        self._reports = PoolReports()

    def add(self, reports: PoolReports) -> None:
        """Add what has happened."""
        ours = self._reports
        ours.output += reports.output
        ours.started += reports.started
        ours.returned += reports.returned
        ours.stacks += reports.stacks
        ours.outcomes += reports.outcomes
        if self._report is None:
            return
        now = time.monotonic()
        urgent = bool(ours.output or ours.started or ours.returned or ours.stacks)
        if urgent:
            self.due_at = now + REPORT_S if self.due_at is None else min(self.due_at, now + REPORT_S)
        elif ours.outcomes and self.due_at is None:
            self.due_at = now + REPORT_LATE_S

    def send(self) -> None:
        """Send what has been added, but for large results, which come with the last report."""
        self.due_at = None
        if self._report is None:
            return
        late = [it for it in self._reports.outcomes if any(it[2])]
        self._reports.outcomes = [it for it in self._reports.outcomes if not any(it[2])]
        parcel = self._parcel(is_last=False)
        self._reports.outcomes = late
        try:
            self._report(parcel)
        except Exception as error:  # noqa: BLE001  (an engine's: what follows comes with the last report)
            log.warning("reports of group %d come only when it ends: %s", self.number, describe(error))
            self._report = None
        else:
            self._serial += 1

    def last(self) -> Parcel:
        """Return the last report."""
        return self._parcel(is_last=True)

    def _parcel(self, *, is_last: bool) -> Parcel:
        reports, self._reports = self._reports, PoolReports()
        return pack(
            HostReport(
                self.number,
                self._run,
                self._serial,
                self._host,
                is_last,
                [m.Outcomes(job, "", frames) for job, frames, _ in reports.outcomes],
                reports.started,
                reports.returned,
                [m.Output(ref, stream, bytes(data)) for ref, stream, data in reports.output],
                reports.stacks,
            ),
            [
                buffer
                for _, frames, buffers in reports.outcomes
                for at in range(len(frames))
                for buffer in (buffers[at] if buffers else ())
            ],
        )


# ------------------------------------------------------------------------------------- hosts of an engine's process


class HostTable:
    """The hosts of this process, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[bytes, list[EngineHost]] = {}
        self._running: dict[tuple[bytes, int], EngineHost] = {}  # by session and group
        self._ended: set[bytes] = set()  # sessions
        self._reaper: threading.Thread | None = None
        self._pid = os.getpid()

    def run(
        self,
        parcel: Sequence[Buffer],
        objects: Sequence[Sequence[Buffer]],
        report: Report | None,
        is_wanted: IsWanted | None = None,
    ) -> Parcel:
        """Run a group on a free host, or a new one; return its last report.

        The report says what is missing, if anything is, or why there can be no host.
        """
        group, _ = read_group(parcel)
        run = os.urandom(8)
        try:
            host = self._take(group)
        except (OSError, RuntimeError) as error:  # no more processes, descriptors or threads
            return pack(HostReport(group.number, run, 0, b"", is_last=True, failure=describe(error)))
        is_fine = False
        try:
            if missing := host.missing(group, [read_object(found) for found in objects]):
                is_fine = True
                return pack(HostReport(group.number, run, 0, host.name, is_last=True, missing=missing))
            last = host.run(parcel, run, report, is_wanted)
            is_fine = True
            return last
        except (EngineUnavailable, ProtocolError) as error:
            return pack(HostReport(group.number, run, 0, host.name, is_last=True, failure=str(error)))
        finally:
            self._give_back(group, host, is_fine)

    def order(self, token: bytes, parcel: Sequence[Buffer]) -> None:
        """Pass orders to the host of their group, if it runs here."""
        orders = read_orders(parcel)
        with self._lock:
            host = self._running.get((token, orders.number))
        if host is not None:
            host.order(orders)

    def end_session(self, token: bytes) -> None:
        """Close the hosts of a session, idle ones now and others when their group has ended, which is stopped."""
        with self._lock:
            self._ended.add(token)
            idle = self._idle.pop(token, [])
            running = [(number, host) for (session, number), host in self._running.items() if session == token]
        for number, host in running:
            host.order(Orders(number, restart=True))
        for host in idle:
            host.close()

    def _take(self, group: Group) -> EngineHost:
        token = group.session.token
        with self._lock:
            if os.getpid() != self._pid:  # forked after hosts were made: they belong to the parent
                self._idle, self._running, self._reaper, self._pid = {}, {}, None, os.getpid()
            idle = self._idle.get(token)
            host = idle.pop() if idle else None
            if host is not None:
                self._running[token, group.number] = host
        if host is None:
            host = EngineHost(group.session)
            host.restarts = group.restarts
            with self._lock:
                self._running[token, group.number] = host
        return host

    def _give_back(self, group: Group, host: EngineHost, is_fine: bool) -> None:
        token = group.session.token
        with self._lock:
            self._running.pop((token, group.number), None)
            keeps = is_fine and token not in self._ended
            if keeps:
                self._idle.setdefault(token, []).append(host)
                if self._reaper is None:
                    self._reaper = threading.Thread(target=self._reap, name="concurrent_nb hosts", daemon=True)
                    self._reaper.start()
        if not keeps:
            host.close()

    def _reap(self) -> None:
        """Close hosts that nobody has needed for a while, as those of an application that was killed."""
        while True:
            time.sleep(IDLE_S / 4)
            now = time.monotonic()
            with self._lock:
                old = [(token, it) for token, idle in self._idle.items() for it in idle if now - it.idle_since > IDLE_S]
                for token, host in old:
                    self._idle[token].remove(host)
                self._idle = {token: idle for token, idle in self._idle.items() if idle}
                if not self._idle:
                    self._reaper = None
            for _, host in old:
                host.close()
            if self._reaper is None:
                return


#: the hosts of this process
HOSTS: Final = HostTable()
