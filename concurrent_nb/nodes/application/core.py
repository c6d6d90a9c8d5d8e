"""The application without sockets: every task that it was given and that has no answer yet.

    submits, cancellations -> Ledger -> Session -> frames for the master
    frames of the master -> Session -> Ledger -> which task ended how

The ledger keeps a task until its outcome is here, so a master that was restarted gets everything again under the same
ids. What is over the limits that the master has announced (`quota`) waits here, and goes out as answers come. Pure; it
never pickles or unpickles. Called by `ApplicationNode`'s thread, by the simulator and by the tour in
tests/test_life_of_a_task.py.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Generic, TypeVar

from msgspec import Struct

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota, room
from concurrent_nb.nodes.common.shared_memory_link import AnnouncedSegments, NullSegmentReader, OpenSegments, cost_of
from concurrent_nb.object_store.store import Lease
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import RUN_ITEMS, Buffer, Buffers, ItemBuffers, length, slices_of
from concurrent_nb.wire.session import Session

T = TypeVar("T")

#: what a task can write to
STREAMS: Final = frozenset({1, 2, m.NOTES})
#: tasks with buffers in shared memory that have waited are sent in runs of so many
SHARED_ITEMS: Final = 32


@dataclass(eq=False, slots=True)
class FunctionPayload:
    """A pickled function, ready to be sent."""

    digest: bytes
    body: bytes
    sizes: m.Sizes = ()
    buffers: Buffers = ()
    lease: object = None  #: keeps what lies in shared memory
    needs: m.Needs | None = None  #: of its tasks, where nobody says otherwise


@dataclass(eq=False, slots=True, weakref_slot=True)
class ClientJob(Generic[T]):
    """A job of which tasks may be unanswered."""

    id: JobId
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: m.StrategyName | None = None  #: who gets its tasks; None for the cluster's strategy
    closed: bool = False  #: no more tasks will come
    said_open: bool = False
    said_closed: bool = False
    functions: set[bytes] = field(default_factory=set)  #: digests sent for it in this session
    function_bytes: int = 0  #: that they have taken on their way
    captured: list[bytes] = field(default_factory=list)  #: segments of ours that they refer to
    sent: int = 0  #: tasks that are at the master, unanswered
    sent_bytes: int = 0  #: of those, and of the functions
    is_over: bool = False  #: all of it was cancelled, or it has ended at a hit or an error
    entries: "dict[int, TaskEntry[T]]" = field(default_factory=dict)  #: unanswered, by index
    waiting: "deque[TaskEntry[T]]" = field(default_factory=deque)  #: those that the master is to get later, in order
    dropped: list[int] = field(default_factory=list)  #: cancelled ones of former sessions: the master may run them yet


class TaskEntry(Struct, Generic[T], eq=False):
    """One task without an answer. `owner` is what the application wants back with it (its future).

    A Struct, because it is made several times as fast as a dataclass, and one is made for each task.
    """

    job: ClientJob[T]
    index: int
    function: FunctionPayload
    body: bytes
    sizes: m.Sizes
    buffers: Buffers
    timeout_s: float | None
    retries: int
    owner: T
    cancelled: bool = False  #: its end has been asked for
    lease: Lease | None = None  #: keeps what lies in shared memory
    needs: m.Needs | None = None  #: None: a slot, in a worker process
    kind: int = 0  #: `wire.messages.TaskKind`
    waits: bool = False  #: the master is to get it later


class TaskUnsent(Struct, Generic[T], frozen=True, gc=False):
    """A task ends without the master: it was cancelled before it was sent, or is larger than the master takes."""

    entry: TaskEntry[T]
    size_bytes: int = 0  #: 0 for what was cancelled


class TaskEnded(Struct, Generic[T], frozen=True, gc=False):
    """The cluster says how a task ended."""

    entry: TaskEntry[T]
    frame: m.OutcomeFrame
    buffers: Buffers
    slave: str


class TaskRunning(Struct, Generic[T], frozen=True, gc=False):
    """The cluster says that a task runs."""

    entry: TaskEntry[T]
    slave: str


class TaskWrote(Struct, Generic[T], frozen=True, gc=False):
    """A task has written something."""

    entry: TaskEntry[T]
    attempt: int
    stream: int
    data: bytes


class UnclaimedResult(Struct, frozen=True, gc=False):
    """A result that nobody waits for lies in shared memory."""

    slices: list[m.Slice]


News = TaskEnded[T] | TaskRunning[T] | TaskWrote[T] | UnclaimedResult | m.Segment | m.DropSegments


class ClientCore(Generic[T]):
    """Everything that an application says and hears."""

    def __init__(self, interval_s: float) -> None:
        self.session: Session | None = None
        self._introductions: AnnouncedSegments | None = None
        self.jobs: dict[bytes, ClientJob[T]] = {}
        self.interval_s = interval_s
        self._said_at = float("-inf")
        self.quota = UNLIMITED
        self._sent = 0  # what is at the master: tasks without an answer
        self._sent_bytes = 0  # ... what these and the functions have taken on their way
        self._in_use: Counter[bytes] = Counter()  # ... and how often they refer to a segment of ours
        self._waiting: OrderedDict[bytes, ClientJob[T]] = OrderedDict()  # jobs of which tasks wait; the first is next
        self._may_send = False  # something has changed since it was last tried
        self._sessions = 0
        self._unsent: list[TaskUnsent[T]] = []

    # ------------------------------------------------------------------------------------------------------- saying

    def has_entries(self) -> bool:
        """Say whether any task is unanswered."""
        return any(job.entries for job in self.jobs.values())

    def entries(self) -> list[TaskEntry[T]]:
        """Return the tasks without an answer."""
        return [entry for job in self.jobs.values() for entry in job.entries.values()]

    def attach(
        self, session: Session, memory: OpenSegments | None = None, *, shares: bool = False, quota: Quota = UNLIMITED
    ) -> list[TaskEntry[T]]:
        """Go on in a new session: say again, under the same ids, whatever has no answer yet.

        Give back the tasks whose end had been asked for: they are not sent again, so nobody will answer for them.

        Args:
            memory: where what is not sent as frames lies; None if everything is.
            shares: whether the master can open it.
            quota: what the master takes at once.
        """
        self.session = session
        self._sessions += 1
        self._introductions = AnnouncedSegments(session, memory or NullSegmentReader(), shares)
        self.quota = quota
        self._sent = self._sent_bytes = 0
        self._in_use.clear()
        self._waiting.clear()
        if shares:
            session.send(m.ShareMemory())
        self._said_at = float("-inf")  # the master sends nothing to a node that it has not heard in this session
        dropped = []
        for job in list(self.jobs.values()):
            job.said_open = job.said_closed = False
            job.functions.clear()
            job.captured.clear()
            job.function_bytes = job.sent = job.sent_bytes = 0
            over = [entry for entry in job.entries.values() if entry.cancelled]
            for entry in over:
                del job.entries[entry.index]
            dropped += over
            job.dropped += [entry.index for entry in over]
            job.waiting.clear()
            self._wait(job, list(job.entries.values()))
            self._close_if_over(job)
        self._send_waiting()
        return dropped

    def add(self, entries: Iterable[TaskEntry[T]]) -> None:
        """Submit tasks; neighbours that share job, function, limits and needs travel as one run."""
        fresh = list(entries)
        late: dict[bytes, ClientJob[T]] = {}
        for entry in fresh:
            job = entry.job
            job.entries[entry.index] = entry
            self.jobs[job.id] = job
            if job.closed:  # a thread was slow to submit: the master may have forgotten the job already
                if job.said_closed:
                    job.said_open = job.said_closed = False
                    self._forget_functions(job)
                late[job.id] = job
        for _, members in groupby(fresh, _alike):
            run = list(members)
            job = run[0].job
            if job.is_over and not job.said_open:  # else the master answers for them
                for entry in run:
                    self._end_unsent(entry)
            elif self.session is None or job.waiting:
                self._wait(job, run)
            else:
                size = sum([len(entry.body) for entry in run]) + sum(
                    [sum(map(length, buffers)) for buffers in [entry.buffers for entry in run] if buffers]
                )
                if self._fits(job, run, size):
                    self._submit(run, size)
                else:
                    self._wait(job, run)
        if self._waiting:
            self._send_waiting()
        for job in late.values():
            self._close_if_over(job)

    def close(self, job: ClientJob[T]) -> None:
        """Note that no more tasks will come for a job."""
        job.closed = True
        self._close_if_over(job)

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Ask for the end of tasks, or of a whole job; each is still answered, or given by `take_unsent`."""
        known = self.jobs.get(job)
        if known is None:
            return
        unsent: list[int] = []
        for index in list(known.entries) if indexes is None else indexes:
            if (entry := known.entries.get(index)) is not None:
                entry.cancelled = True
                if entry.waits:
                    self._end_unsent(entry)
                    unsent.append(index)
        if indexes is None:
            known.is_over = True
        elif unsent:
            gone = set(unsent) if self._sessions == 1 else set()  # a former session may have sent them
            indexes = [index for index in indexes if index not in gone]
        if self._sessions > 1:
            known.dropped += unsent
        # A job that this session has not opened has no unanswered tasks, and is not ours to the master either.
        if self.session is not None and known.said_open and (indexes is None or indexes):
            self.session.send(m.Cancel(job, None if indexes is None else list(indexes)))
        if unsent:
            self._skip_ended(known)
            self._close_if_over(known)

    def take_unsent(self) -> list[TaskUnsent[T]]:
        """Give the tasks that have ended since the last call without the master having a say in it."""
        unsent, self._unsent = self._unsent, []
        return unsent

    def release(self, slices: Sequence[m.Slice], *, clean: bool = True) -> None:
        """Give back what results lay in; if that is `clean`, nobody looks at it any more, so it may be used again."""
        if self.session is not None:
            self.session.send(m.Release(list(slices), clean))

    def closed(self, segments: Sequence[bytes]) -> None:
        """Say that segments of ours are gone."""
        if self._introductions is not None:
            self._introductions.dropped(segments)

    def drop_all(self) -> list[TaskEntry[T]]:
        """Give up: forget every task and give them back."""
        entries = self.entries()
        self.jobs.clear()
        self._waiting.clear()
        return entries

    def _submit(self, run: list[TaskEntry[T]], size: int) -> None:
        """Send tasks that share job, function, limits and needs; `size` bytes of them travel."""
        session = self.session
        assert session is not None
        first = run[0]
        job = first.job
        self._introduce(job, first.function, session)
        buffers: ItemBuffers = ()
        if any([entry.sizes for entry in run]):  # noqa: C419  (a list is twice as fast)
            parts = [self._outgoing(entry.sizes, entry.buffers) for entry in run]
            buffers = [own for _, own in parts]
            frames = [
                m.TaskFrame(entry.index, 0, entry.body, sizes, entry.kind)
                for entry, (sizes, _) in zip(run, parts, strict=True)
            ]
            for entry in run:
                self._in_use.update([slice_.segment for slice_ in slices_of(entry.sizes)])
        else:
            frames = [m.TaskFrame(entry.index, 0, entry.body, (), entry.kind) for entry in run]
        job.sent += len(run)
        job.sent_bytes += size
        self._sent += len(run)
        self._sent_bytes += size
        session.send(
            m.Submit(first.job.id, first.function.digest, first.timeout_s, first.retries, frames, first.needs), buffers
        )

    def _outgoing(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        assert self._introductions is not None
        return self._introductions.outgoing(sizes, buffers, once=True)

    def _introduce(self, job: ClientJob[T], function: FunctionPayload, session: Session) -> None:
        """Say what the master must know before a task of this job and function."""
        if not job.said_open:
            session.send(m.OpenJob(job.id, job.name, job.until, job.stop_on_error, job.strategy))
            job.said_open = True
            if job.dropped:
                session.send(m.Cancel(job.id, list(job.dropped)))
        if function.digest not in job.functions:
            sizes, buffers = self._outgoing(function.sizes, function.buffers)
            session.send(m.Function(function.digest, function.body, sizes), [buffers] if buffers else ())
            job.functions.add(function.digest)
            size = _travels(function)
            job.function_bytes += size
            captured = [slice_.segment for slice_ in slices_of(function.sizes)]
            job.captured += captured
            self._in_use.update(captured)
            job.sent_bytes += size
            self._sent_bytes += size

    def _close_if_over(self, job: ClientJob[T]) -> None:
        if job.closed and self.session is not None and job.said_open and not job.said_closed and not job.waiting:
            self.session.send(m.CloseJob(job.id))
            job.said_closed = True
        if job.closed and not job.entries:
            self._forget_functions(job)
            self._waiting.pop(job.id, None)
            self.jobs.pop(job.id, None)

    def _forget_functions(self, job: ClientJob[T]) -> None:
        """Count a job's functions no more: the master forgets them with the job."""
        job.functions.clear()
        job.sent_bytes -= job.function_bytes
        self._sent_bytes -= job.function_bytes
        job.function_bytes = 0
        self._use_no_more(job.captured)
        job.captured.clear()

    def _use_no_more(self, segments: Iterable[bytes]) -> None:
        in_use = self._in_use
        for segment in segments:
            in_use[segment] -= 1
            if not in_use[segment]:
                del in_use[segment]

    # ------------------------------------------------------------------------------------ what is over the limits waits

    def _fits(self, job: ClientJob[T], run: Sequence[TaskEntry[T]], size: int) -> bool:
        """Say whether tasks that share their function can be sent now; `size` bytes of them travel."""
        quota, function = self.quota, run[0].function
        if quota is UNLIMITED:
            return True
        if len(run) > room(quota.tasks, self._sent, job.sent):
            return False
        slices = [slice_ for sizes in [entry.sizes for entry in run] if sizes for slice_ in slices_of(sizes)]
        if function.digest not in job.functions:
            size += _travels(function)
            slices += slices_of(function.sizes)
        return self._has_room(job, size, slices, is_one=len(run) == 1)

    def _has_room(self, job: ClientJob[T], size: int, slices: Sequence[m.Slice], *, is_one: bool) -> bool:
        """Say whether so many bytes of a job may travel, and these slices be told.

        Args:
            is_one: it is one task. If nothing of its job is at the master yet, it needs no share.
        """
        quota, known = self.quota, self._introductions
        assert known is not None
        if slices:
            if known.segments_with(slices) > quota.segments:
                return False
            size += known.bytes_to_tell(slices)
        held = self._sent_bytes + known.told_bytes
        return size <= (quota.bytes - held if is_one and not job.sent else room(quota.bytes, held, job.sent_bytes))

    def _is_too_large(self, entry: TaskEntry[T]) -> int:
        """Give how many bytes would have to travel for a task alone, if the master never takes so many; else 0."""
        function, known = entry.function, self._introductions
        assert known is not None
        size = _travels(entry) + _travels(function)
        if not known.shares:
            size += sum(map(cost_of, set(slices_of((*entry.sizes, *function.sizes)))))
        return size if size > self.quota.bytes else 0

    def _wait(self, job: ClientJob[T], entries: Sequence[TaskEntry[T]]) -> None:
        if entries:
            for entry in entries:
                entry.waits = True
            job.waiting.extend(entries)
            self._waiting[job.id] = job
            self._may_send = True

    def _send_waiting(self) -> None:
        """Send what may be sent, of each job in its turn."""
        self._may_send = False
        if self.session is None:
            return
        has_reclaimed, blocked = False, 0
        while self._waiting and blocked < len(self._waiting) and self._sent < self.quota.tasks:
            job = next(iter(self._waiting.values()))
            run = self._next_run(job)
            if run:
                self._submit(run, sum(map(_travels, run)))
                blocked = 0
            elif job.waiting and not job.sent:  # so it is the next, and needs what others have
                if has_reclaimed or not self._reclaim():
                    break
                has_reclaimed = True
                continue
            elif job.waiting:
                blocked += 1
            if job.waiting:
                self._waiting.move_to_end(job.id)
            else:
                self._close_if_over(job)

    def _next_run(self, job: ClientJob[T]) -> list[TaskEntry[T]]:
        """Take tasks of a job that share everything and may go now; none if the first may not."""
        waiting, run = job.waiting, list[TaskEntry[T]]()
        count = min(RUN_ITEMS, room(self.quota.tasks, self._sent, job.sent))
        size = 0
        slices: list[m.Slice] = []
        while waiting and len(run) < count:
            entry = waiting[0]
            if not run:
                alike, function = _alike(entry), entry.function
                is_known = function.digest in job.functions
                size = 0 if is_known else _travels(function)
                slices = [] if is_known else slices_of(function.sizes)
            elif _alike(entry) != alike:
                break
            size += _travels(entry)
            if entry.sizes:
                slices += slices_of(entry.sizes)
                count = min(count, SHARED_ITEMS)
            if self._has_room(job, size, slices, is_one=not run):
                entry.waits = False
                run.append(entry)
            elif not run and (large := self._is_too_large(entry)):
                self._end_unsent(entry, large)
                if job.stop_on_error:
                    self.cancel(job.id, None)
            else:
                break
            self._skip_ended(job)
        return run

    def _skip_ended(self, job: ClientJob[T]) -> None:
        """Have a task that waits be the first of those; others were sent, or have ended meanwhile."""
        waiting = job.waiting
        while waiting and not waiting[0].waits:
            waiting.popleft()
        if not waiting:
            self._waiting.pop(job.id, None)

    def _reclaim(self) -> bool:
        """Have the master let go of what no unanswered task needs: contents, functions. False if there is nothing."""
        assert self.session is not None
        assert self._introductions is not None
        idle = [job for job in self.jobs.values() if job.said_open and not job.sent]
        for job in idle:  # it is opened again with its next task
            self.session.send(m.CloseJob(job.id))
            job.said_open = False
            self._forget_functions(job)
        return self._introductions.drop_unused(self._in_use) or bool(idle)

    def _end_unsent(self, entry: TaskEntry[T], size_bytes: int = 0) -> None:
        """End a task that is not at the master. What it would have taken along is let go."""
        entry.job.entries.pop(entry.index, None)
        entry.waits = False
        if entry.lease is not None:
            entry.lease.end(clean=self._sessions <= 1)
        entry.body, entry.sizes, entry.buffers, entry.lease = b"", (), (), None
        self._unsent.append(TaskUnsent(entry, size_bytes))

    # ------------------------------------------------------------------------------------------------------ hearing

    def received(self, frames: Sequence[Buffer], now: float) -> Iterator[News[T]]:
        """Take one envelope of the master. Raises ProtocolError; the session is over then."""
        assert self.session is not None
        for item in self.session.receive(frames, now):
            message = item.message
            if type(message) is m.Outcomes:
                job = self.jobs.get(message.job)
                if job is not None:
                    yield from self._ended(job, message, item.buffers)
                elif slices := [it for frame in message.items if frame.sizes for it in slices_of(frame.sizes)]:
                    yield UnclaimedResult(slices)
            elif type(message) in (m.Segment, m.DropSegments):
                yield message  # type: ignore[misc]
            elif type(message) is m.Started:
                for ref in message.tasks:
                    if (entry := self._find(ref)) is not None:
                        yield TaskRunning(entry, message.slave)
            elif type(message) is m.Output and message.stream in STREAMS and (entry := self._find(message.task)):
                yield TaskWrote(entry, message.task.attempt, message.stream, message.data)

    def _ended(self, job: ClientJob[T], message: m.Outcomes, buffers: Sequence[Buffers]) -> Iterator[News[T]]:
        count = size = 0
        may_end, ends_job = bool(job.waiting) and (job.until or job.stop_on_error), False
        for at, frame in enumerate(message.items):
            entry = job.entries.pop(frame.index, None)
            if entry is not None:
                if entry.waits:  # a former session has sent it
                    entry.waits = False
                else:
                    count += 1
                    size += len(entry.body) if not entry.sizes else self._let_go(entry)
                if may_end and _ends_job(job, frame.status):
                    ends_job = True
                yield TaskEnded(entry, frame, buffers[at] if buffers else (), message.slave)
            elif slices := slices_of(frame.sizes):
                yield UnclaimedResult(slices)
        job.sent -= count
        job.sent_bytes -= size
        self._sent -= count
        self._sent_bytes -= size
        self._may_send = True
        if ends_job:
            job.is_over = True
            for entry in job.waiting:
                if entry.waits:
                    self._end_unsent(entry)
        if job.waiting:
            self._skip_ended(job)
        self._close_if_over(job)

    def _let_go(self, entry: TaskEntry[T]) -> int:
        """Note that a task refers to shared memory no more; give the bytes that have travelled."""
        self._use_no_more([slice_.segment for slice_ in slices_of(entry.sizes)])
        return _travels(entry)

    def _find(self, ref: m.TaskRef) -> TaskEntry[T] | None:
        job = self.jobs.get(ref.job)
        return None if job is None else job.entries.get(ref.index)

    # --------------------------------------------------------------------------------------------------------- time

    def step(self, now: float) -> list[list[Buffer]]:
        """Give all envelopes that should leave now."""
        if self.session is None:
            return []
        envelopes = []
        if self._waiting and self._may_send:
            # What has come is acknowledged first: then the master has room for what is sent in its place.
            envelopes.append(self.session.keepalive())
            self._send_waiting()
        envelopes += self.session.flush(now)
        if not envelopes and now - self._said_at >= self.interval_s:
            envelopes = [self.session.keepalive()]
        if envelopes:
            self._said_at = now
        return envelopes

    def next_deadline(self) -> float:
        """When `step` should be called again at the latest."""
        keepalive = self._said_at + self.interval_s
        due = None if self.session is None else self.session.next_deadline()
        return keepalive if due is None else min(keepalive, due)


def _alike(entry: TaskEntry[T]) -> object:
    """Give what tasks that travel as one run have in common."""
    return entry.job.id, entry.function.digest, entry.timeout_s, entry.retries, entry.needs


def _travels(thing: TaskEntry[T] | FunctionPayload) -> int:
    """Give how many bytes of a task or a function travel in any case."""
    return len(thing.body) + (sum(map(length, thing.buffers)) if thing.buffers else 0)


def _ends_job(job: ClientJob[T], status: int) -> bool:
    """Say whether the master cancels the rest of a job after such an end; as in scheduling/task_lifecycle.py."""
    if status == Status.HIT:
        return job.until
    return job.stop_on_error and status not in SUCCESSES and status != Status.CANCELLED
