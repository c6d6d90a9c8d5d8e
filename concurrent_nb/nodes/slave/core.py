"""The slave without sockets and processes: messages of the master to its workers, and their reports back.

    frames of the master -> Session -> WorkerPool -> WorkerReports -> Session -> frames for the master

Called by the slave's poll loop, by the simulator and by the test of a task's life (tests/test_life_of_a_task.py).
"""

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Protocol

import msgspec

from concurrent_nb.errors import ProtocolError, TooLarge
from concurrent_nb.foreign import describe
from concurrent_nb.ids import task_name
from concurrent_nb.nodes.common.log_format import PACKAGE_LOGGER
from concurrent_nb.nodes.common.pool_contents import PoolContents
from concurrent_nb.nodes.common.shared_memory_link import AnnouncedSegments, NullSegmentReader, PeerSegments
from concurrent_nb.nodes.slave.followers import Followers
from concurrent_nb.nodes.slave.unacknowledged import OutcomesTag, Unacknowledged
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, encode_error, joined, slices_of
from concurrent_nb.wire.session import Session
from concurrent_nb.workers.protocol.records import AddSegment

log = logging.getLogger(__name__)

#: plain outcomes gather until this long after the last envelope
GATHER_S: Final = 0.04
#: ... or until this many tasks have ended, so that the master can assign others
GATHER_MAX: Final = 32
#: while more bytes of tasks' output than that are not acknowledged, tasks that send notes are slowed down
OUTPUT_BYTES_MAX: Final = 16 * 1024 * 1024
#: most attempts in one OfferAttempts
OFFERED_MAX: Final = 4096
#: seconds between two reports of how busy the machine is
HOST_LOAD_S: Final = 5.0


class WorkerReports(Protocol):
    """What workers have reported since the last time."""

    outcomes: list[tuple[bytes, list[m.OutcomeFrame], list[Sequence[Buffer]]]]  #: by job
    started: list[m.StartedTask]
    returned: list[m.TaskRef]
    output: list[tuple[m.TaskRef, int, bytes]]
    stacks: list[m.StackSampled]  #: one for each question
    degraded: str  #: why no worker is started any more, "" while they are; all tasks are returned then
    segments: list[AddSegment]  #: shared memory that workers have made, also for results in `outcomes`
    forgotten: list[bytes]  #: segments that their workers have closed
    orphaned: list[bytes]  #: segments whose workers have died

    def add(self, others: Any) -> None:
        """Add later reports of the same kind."""


class WorkerPool(Protocol):
    """What a slave needs of its workers. Implemented by `workers.slave_side.pool.Pool` and by the pools of tests."""

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a pickled function; a long body is its first buffer."""

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Remember how workers open a segment of shared memory."""

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Forget segments to which nothing refers any more."""

    def release(self, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Return slices to the workers that made them; `clean` if nothing refers to them any more."""

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""

    def assign(self, run: m.Assign, buffers: ItemBuffers, now: float) -> None:
        """Run these attempts. Each must be reported once, as an outcome or as returned.

        `buffers` has an entry for each task, or is empty if no task has buffers.
        """

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Return these attempts if they have not started; with `stop`, also stop those that have."""

    def has(self, ref: m.TaskRef) -> bool:
        """Return whether this attempt is here, and its end is in no report yet."""

    def attempts(self) -> list[m.TaskRef]:
        """Return all attempts that are here, and whose end is in no report yet."""

    def follow(self, run: m.Assign, now: float) -> int:
        """Have the worker that has `run.behind` take these tasks, each with the result of the one before.

        Return how many it takes, of the first ones; maybe none. The others are not here. One that is returned may be
        assigned again, in the same attempt.
        """

    def hold_notes(self, hold: bool) -> None:
        """Slow down tasks that send notes, until the next call with False."""

    def sample_stack(self, request: int, ref: m.TaskRef, now: float) -> None:
        """Find out what a running task is doing. Must be reported once, with the number of the request."""

    def restart_workers(self, now: float, *, stop: bool) -> None:
        """Replace all workers: each one when its running task has ended, or with `stop` immediately."""

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""

    def take_reports(self) -> WorkerReports:
        """Return what has happened since the last call."""

    @property
    def is_saturated(self) -> bool:
        """Return whether every worker has a task to run next."""


class SlaveCore:
    """All messages that a slave sends and receives.

    Args:
        name: the slave's name at the master.
        epoch: which run of the master this is.
        pool: its workers.
        interval_s: most seconds between two envelopes; without messages, a heartbeat is sent.
        segment_reader: opens shared memory of the workers, and outlives the session; None if they share none.
        store: keeps buffers that a master on another machine sends once; None if workers cannot open it.
        shares: whether the master is on this machine and can open that shared memory.
        host_load: measures how busy this machine is; None to report nothing.
        result_bytes_max: most bytes of a result that must go through this process's memory; 0: no limit.
        unacknowledged: what the master has not acknowledged, if it has a journal: then `shares` is False.
        resumes: whether the master was started again, and the pool has its tasks.
    """

    def __init__(
        self,
        name: str,
        epoch: int,
        pool: WorkerPool,
        interval_s: float,
        segment_reader: PeerSegments | None = None,
        store: ObjectStore | None = None,
        *,
        shares: bool = False,
        host_load: Callable[[], m.HostLoad] | None = None,
        result_bytes_max: int = 0,
        unacknowledged: Unacknowledged | None = None,
        resumes: bool = False,
    ) -> None:
        self.name = name
        self._result_bytes_max = result_bytes_max or 1 << 62
        self.session = Session(epoch, "to_slave")
        self._segment_reader = segment_reader or NullSegmentReader()
        self._announced_segments = AnnouncedSegments(self.session, self._segment_reader, shares)
        self._received_contents = PoolContents(store, pool)
        self._lent: dict[bytes, dict[int, m.Slice]] = {}  # to the master, by segment and offset
        self._orphans: set[bytes] = set()  # segments of dead workers, closed when nothing of them is lent
        if shares:
            self.session.send(m.ShareMemory())
        self._pool = pool
        self._followers = Followers()
        self._interval_s = interval_s
        self._sent_at = -interval_s
        self._host_load = host_load
        self._host_load_at = inf if host_load is None else -inf  # when to report it next
        self._unsent_outcomes = 0  # tasks that have ended since the last envelope
        self._held_back_until = -inf  # until when they are held back; before now if they are not
        self._output_bytes = 0  # of tasks' output, not acknowledged yet
        self._holds_notes = False
        self._restart = 0  # number of the master's request to restart workers, until all are
        self._outdated_sent = -1  # the number that was last reported for it
        self._is_draining = False
        self.degraded = ""  #: why the pool cannot run tasks any more
        self.drain_requested = False  #: the master has asked this slave to leave when its running tasks have ended
        self.kernel_requests: list[int] = []  #: requests for the slave's kernel without an answer
        self._unacknowledged = unacknowledged
        if unacknowledged is not None and resumes:
            self._offer(unacknowledged)

    def _offer(self, unacknowledged: Unacknowledged) -> None:
        """Offer what is here to a master that was started again, and send the outcomes that it may not have."""
        reports = self._pool.take_reports()
        # They are not offered. The next run numbers attempts anew, and must not take one for another.
        reports.returned = []
        refs = [*self._pool.attempts(), *unacknowledged.refs()]
        refs += [m.TaskRef(job, it.index, it.attempt) for job, items, _ in reports.outcomes for it in items]
        for at in range(0, max(1, len(refs)), OFFERED_MAX):
            self.session.send(m.OfferAttempts(refs[at : at + OFFERED_MAX], at + OFFERED_MAX >= len(refs)))
        if started := unacknowledged.started():
            self.session.send(m.Started(self.name, started))
        for job, items, buffers in unacknowledged.take():
            self.session.send(
                m.Outcomes(job, self.name, list(items)), buffers, unacknowledged.keep(job, items, buffers)
            )
        self._send_reports(reports)

    @property
    def closed_by_master(self) -> str | None:
        """The master's reason, once it has ended the session."""
        return self.session.closed_by_peer

    def received(self, frames: Sequence[Buffer], now: float) -> None:
        """Handle one envelope of the master. Raises ProtocolError, after which the session must end."""
        for item in self.session.receive(frames, now):
            message = item.message
            if type(message) is m.Assign:
                if message.timeout_s is not None and not message.timeout_s >= 0:
                    raise ProtocolError(f"tasks that may run {message.timeout_s} s")
                run, buffers = self._received_contents.localized(message, item.buffers)
                if run.behind is None:
                    self._pool.assign(run, buffers, now)
                else:
                    self._followers.hold(run, buffers)
            elif type(message) is m.Function:
                sizes, own = self._received_contents.translated(message.sizes, item.buffers[0] if item.buffers else ())
                self._pool.add_function(message.digest, message.body, joined(sizes, own, lambda slice_: slice_))
            elif type(message) is m.Content:
                self._received_contents.took(message, item.buffers[0] if item.buffers else ())
            elif type(message) is m.Withdraw:
                tasks = self._followers.withdraw(message.tasks) if self._followers else message.tasks
                self._pool.withdraw(tasks, message.stop, now)
            elif type(message) is m.DropFunctions:
                self._pool.drop_functions(message.digests)
            elif type(message) is m.Segment:
                self._pool.add_segment(message.segment, message.pid, message.fd, message.size)
            elif type(message) is m.DropSegments:
                self._pool.drop_segments(message.segments)
                self._received_contents.drop(message.segments)
            elif type(message) is m.Release:
                self._release(message.slices, clean=message.clean)
            elif type(message) is m.RestartWorkers:
                self._pool.restart_workers(now, stop=message.stop)
                self._restart, self._outdated_sent = message.request, -1
            elif type(message) is m.SampleStack:
                self._pool.sample_stack(message.request, message.task, now)
            elif type(message) is m.Drain:
                self.drain_requested = True
            elif type(message) is m.SetLogLevel:
                logging.getLogger(PACKAGE_LOGGER).setLevel(message.level)
            elif type(message) is m.OpenKernel:
                self.kernel_requests.append(message.request)

    def kernel_opened(self, access: m.KernelAccess | None, error: str = "") -> None:
        """Answer all requests for the kernel: how to attach, or why there is none."""
        for request in self.kernel_requests:
            self.session.send(m.KernelOpened(request, access, error))
        self.kernel_requests.clear()

    def resize(self, slots: int, credit: int) -> None:
        """Report a new number of slots, and of tasks that the slave accepts."""
        self.session.send(m.Capacity(slots, credit))

    def drain(self) -> None:
        """Return tasks that were sent ahead, now and from now on. The pool must be drained, too."""
        self._is_draining = True
        self._followers.drain()

    def _take_acknowledged(self) -> None:
        """Forget what the master has; slow down tasks that write more than it acknowledges."""
        for tag in self.session.take_acked():
            if isinstance(tag, int):
                self._output_bytes -= tag
            elif isinstance(tag, OutcomesTag) and self._unacknowledged is not None:
                self._unacknowledged.acknowledged(tag)
        holds = self._output_bytes > OUTPUT_BYTES_MAX
        if holds != self._holds_notes:
            self._holds_notes = holds
            self._pool.hold_notes(holds)

    def _report_restart(self) -> None:
        """Report the progress of a restart of the workers."""
        left = self._pool.outdated
        if left != self._outdated_sent:
            self.session.send(m.WorkersOutdated(self._restart, left))
            self._outdated_sent = left
        if not left:
            self._restart = 0

    @property
    def all_acknowledged(self) -> bool:
        """Return whether the master has acknowledged all messages."""
        return not (self.session.in_flight or self.session.backlog)

    def step(self, now: float) -> list[list[Buffer]]:
        """Return all envelopes to send now.

        While all workers have more tasks, plain outcomes gather for a moment: otherwise each task of a millisecond
        would cost master and application about as much time.
        """
        reports = self._pool.take_reports()
        if self._followers or self._followers.returned:
            reports = self._go_on(reports, now)
        urgent = self._send_reports(reports)
        if self._host_load is not None and now >= self._host_load_at:
            self._host_load_at = now + HOST_LOAD_S
            self.session.send(self._host_load())
        if self._is_held_back(urgent, now):
            return []
        envelopes = self.session.flush(now)
        if not envelopes and now - self._sent_at >= self._interval_s:
            envelopes = [self.session.heartbeat()]
        if envelopes:
            self._sent_at = now
        return envelopes

    def _send_reports(self, reports: WorkerReports) -> bool:
        """Send what workers have reported; return whether that may not wait for more."""
        urgent = bool(reports.returned or reports.degraded)
        for task, stream, data in reports.output:
            self._output_bytes += len(data)
            self.session.send(m.Output(task, stream, data), tag=len(data))
        unacknowledged = self._unacknowledged
        if self._output_bytes or unacknowledged is not None:
            self._take_acknowledged()
        if unacknowledged is not None:
            unacknowledged.note_started(reports.started)
            unacknowledged.note_returned(reports.returned)
        for sample in reports.stacks:
            self.session.send(sample)
        # A task may have begun before, or after the end of its leader, and both ends may be in these reports.
        ended = {(job, frame.index, frame.attempt) for job, frames, _ in reports.outcomes for frame in frames}
        before = [task for task in reports.started if (task.job, task.index, task.attempt) in ended]
        after = [task for task in reports.started if (task.job, task.index, task.attempt) not in ended]
        if before:
            self.session.send(m.Started(self.name, before))
        for made in reports.segments:
            self._open_segment(made)
        for job, frames, buffers in reports.outcomes:
            if any(slices_of(frame.sizes) for frame in frames if frame.sizes):
                frames, buffers = self._with_slices(job, frames, buffers)
            self._unsent_outcomes += len(frames)
            urgent = urgent or bool(buffers) or any(frame.status or frame.sizes for frame in frames)
            tag = None if unacknowledged is None else unacknowledged.keep(job, frames, buffers)
            self.session.send(m.Outcomes(job, self.name, frames), buffers, tag)
        if after:
            self.session.send(m.Started(self.name, after))
        if reports.forgotten or reports.orphaned:
            self._close_segments(reports.forgotten, reports.orphaned)
        if self._restart:
            self._report_restart()
        self.degraded = self.degraded or reports.degraded
        if reports.returned:
            self.session.send(m.Returned(reports.returned))
        return urgent

    def _go_on(self, reports: WorkerReports, now: float) -> WorkerReports:
        """Have the tasks run whose leaders have succeeded. Return all reports, with the tasks that do not run here."""
        followers, pool, news = self._followers, self._pool, reports
        while True:
            if news.degraded or self._is_draining:
                followers.drain()
            ready, news.returned = followers.go_on(news.outcomes, news.returned)
            if news is not reports:
                reports.add(news)
            if not ready:
                break
            for run, buffers in ready:
                pool.assign(run, buffers, now)
            followers.give(lambda run: pool.follow(run, now))
            news = pool.take_reports()  # of pools that run tasks, or send them off, when they are asked
        followers.check(pool.has)
        followers.give(lambda run: pool.follow(run, now))
        reports.returned += followers.returned
        followers.returned = []
        return reports

    def _is_held_back(self, urgent: bool, now: float) -> bool:
        """Return whether the messages are held back for now."""
        if self._unsent_outcomes and not urgent and self._unsent_outcomes < GATHER_MAX and self._pool.is_saturated:
            self._held_back_until = self._sent_at + GATHER_S
            if now < self._held_back_until:
                return True
        self._unsent_outcomes = 0
        self._held_back_until = -inf
        return False

    # ------------------------------------------------------------------------------------------------ shared memory

    def _open_segment(self, made: AddSegment) -> None:
        try:
            self._segment_reader.add(SegmentHandle(made.segment, made.pid, made.fd, made.size))
        except (CannotOpen, OSError) as error:  # its worker has died, or there are too many open files; see `_lost`
            log.warning("shared memory of a worker cannot be opened: %s", error)

    def _check_size(self, slices: Sequence[m.Slice]) -> None:
        """Raise TooLarge if a result must go through this process's memory, and is larger than it may be."""
        size = 0 if self._announced_segments.shares else sum(slice_.size for slice_ in slices)
        if size > self._result_bytes_max:
            raise TooLarge(
                f"a result of {size >> 20} MiB must go through the memory of slave {self.name!r}, which accepts up to"
                f" {self._result_bytes_max >> 20} MiB (settings SlaveNode.result_mib, MasterNode.object_bytes)",
                size,
                self._result_bytes_max,
            )

    def _with_slices(
        self, job: bytes, frames: Sequence[m.OutcomeFrame], buffers: ItemBuffers
    ) -> tuple[list[m.OutcomeFrame], list[Buffers]]:
        """Return outcomes as the master can read them, and remember the slices that are lent to it."""
        out_frames, out_buffers = [], []
        for at, frame in enumerate(frames):
            own = buffers[at] if buffers else ()
            slices = slices_of(frame.sizes)
            try:
                self._check_size(slices)
                sizes, own = self._announced_segments.outgoing(frame.sizes, own)
            except (CannotOpen, MemoryError, OSError) as error:
                task = task_name(job, frame.index)
                ids = {"task": task, "job": job.hex()}
                log.warning("a result of task %s cannot be taken: %s", task, describe(error), extra=ids)
                sizes, own, frame = (), (), _lost(frame)
            except TooLarge as error:
                sizes, own, frame = (), (), _too_large(frame, error)
            else:
                frame = msgspec.structs.replace(frame, sizes=sizes) if sizes is not frame.sizes else frame
            if slices and not self._announced_segments.shares:
                self._pool.release(slices, clean=True)
            elif any(self._segment_reader.handle(slice_.segment) is None for slice_ in slices):
                sizes, own, frame = (), (), _lost(frame)
            else:
                for slice_ in slices:
                    self._lent.setdefault(slice_.segment, {})[slice_.offset] = slice_
            out_frames.append(frame)
            out_buffers.append(own)
        return out_frames, out_buffers

    def _release(self, slices: Sequence[m.Slice], *, clean: bool) -> None:
        lent_slices = [it for it in dict.fromkeys(slices) if self._lent.get(it.segment, {}).get(it.offset) == it]
        self._pool.release(lent_slices, clean=clean)  # workers do not know the others
        for slice_ in lent_slices:
            lent = self._lent.get(slice_.segment)
            if lent is not None and lent.pop(slice_.offset, None) is not None and not lent:
                del self._lent[slice_.segment]
                if slice_.segment in self._orphans:
                    self._close_segments([slice_.segment], ())

    def _close_segments(self, segments: Sequence[bytes], orphaned: Sequence[bytes]) -> None:
        """Close segments, and those of dead workers of which nothing is lent."""
        self._orphans.update(segment for segment in orphaned if segment in self._lent)
        closed = [*segments, *(segment for segment in orphaned if segment not in self._lent)]
        self._orphans.difference_update(closed)
        for segment in closed:
            self._lent.pop(segment, None)
        self._segment_reader.drop(closed)
        self._announced_segments.dropped(closed)

    def end(self) -> None:
        """Release what is lent, at the end of the session. Its readers keep it, and the memory is not used again."""
        self._pool.release([slice_ for lent in self._lent.values() for slice_ in lent.values()], clean=False)
        self._lent.clear()
        self._pool.hold_notes(False)
        self._segment_reader.drop(list(self._orphans))
        self._received_contents.end()

    def next_deadline(self) -> float:
        """Return when to call `step` again at the latest."""
        if self._unsent_outcomes:
            return self._held_back_until
        heartbeat = self._sent_at + self._interval_s
        due = self.session.next_deadline()
        return heartbeat if due is None else min(heartbeat, due)


def _too_large(frame: m.OutcomeFrame, error: TooLarge) -> m.OutcomeFrame:
    """Return the outcome of a task whose result is too large."""
    body = encode_error(m.ErrorReport("TooLarge", str(error), ""))
    return m.OutcomeFrame(frame.index, frame.attempt, Status.NOT_PICKLABLE, frame.elapsed_s, frame.worker, body)


def _lost(frame: m.OutcomeFrame) -> m.OutcomeFrame:
    """Return the outcome of a task whose result was lost with its worker: the worker died, so the task runs again."""
    how = f"worker {frame.worker} died before its result was taken"
    return m.OutcomeFrame(
        frame.index, frame.attempt, Status.DIED, frame.elapsed_s, frame.worker, encode_error(m.ErrorReport("", how, ""))
    )
