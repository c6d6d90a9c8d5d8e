"""The application without sockets: every task that it was given and that has no answer yet.

    submits, cancellations -> Ledger -> Session -> frames for the master
    frames of the master -> Session -> Ledger -> which task ended how

The ledger keeps a task until its outcome is here, so a master that was restarted gets everything again under the same
ids. Pure; it never pickles or unpickles. Called by `ApplicationNode`'s thread, by the simulator and by the tour in
tests/test_life_of_a_task.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, TypeVar

from msgspec import Struct

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.shared import EmptyShelf, Introductions, Memory
from concurrent_nb.objects.store import Lease
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, slices_of
from concurrent_nb.wire.session import Session

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Shipment:
    """A pickled function, ready to be sent."""

    digest: bytes
    body: bytes
    sizes: m.Sizes = ()
    buffers: Buffers = ()
    lease: object = None  #: keeps what lies in shared memory
    needs: m.Needs | None = None  #: of its tasks, where nobody says otherwise


@dataclass(eq=False, slots=True, weakref_slot=True)
class OpenJob(Generic[T]):
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
    entries: "dict[int, Entry[T]]" = field(default_factory=dict)  #: unanswered, by index
    dropped: list[int] = field(default_factory=list)  #: cancelled ones of former sessions: the master may run them yet


class Entry(Struct, Generic[T], eq=False):
    """One task without an answer. `owner` is what the application wants back with it (its future).

    A Struct, because it is made several times as fast as a dataclass, and one is made for each task.
    """

    job: OpenJob[T]
    index: int
    function: Shipment
    body: bytes
    sizes: m.Sizes
    buffers: Buffers
    timeout_s: float | None
    retries: int
    owner: T
    cancelled: bool = False  #: its end has been asked for
    lease: Lease | None = None  #: keeps what lies in shared memory
    needs: m.Needs | None = None  #: None: a slot, in a worker process


class Ended(Struct, Generic[T], frozen=True, gc=False):
    """The cluster says how a task ended."""

    entry: Entry[T]
    frame: m.OutcomeFrame
    buffers: Buffers
    slave: str


class Runs(Struct, Generic[T], frozen=True, gc=False):
    """The cluster says that a task runs."""

    entry: Entry[T]
    slave: str


class Wrote(Struct, Generic[T], frozen=True, gc=False):
    """A task has written something."""

    entry: Entry[T]
    attempt: int
    stream: int
    data: bytes


class Unclaimed(Struct, frozen=True, gc=False):
    """A result that nobody waits for lies in shared memory."""

    slices: list[m.Slice]


News = Ended[T] | Runs[T] | Wrote[T] | Unclaimed | m.Segment | m.DropSegments


class Ledger(Generic[T]):
    """Everything that an application says and hears."""

    def __init__(self, interval_s: float) -> None:
        self.session: Session | None = None
        self._introductions: Introductions | None = None
        self.jobs: dict[bytes, OpenJob[T]] = {}
        self.interval_s = interval_s
        self._said_at = float("-inf")

    # ------------------------------------------------------------------------------------------------------- saying

    def has_entries(self) -> bool:
        """Say whether any task is unanswered."""
        return any(job.entries for job in self.jobs.values())

    def entries(self) -> list[Entry[T]]:
        """Return the tasks without an answer."""
        return [entry for job in self.jobs.values() for entry in job.entries.values()]

    def attach(self, session: Session, memory: Memory | None = None, *, shares: bool = False) -> list[Entry[T]]:
        """Go on in a new session: say again, under the same ids, whatever has no answer yet.

        Give back the tasks whose end had been asked for: they are not sent again, so nobody will answer for them.

        Args:
            memory: where what is not sent as frames lies; None if everything is.
            shares: whether the master can open it.
        """
        self.session = session
        self._introductions = Introductions(session, memory or EmptyShelf(), shares)
        if shares:
            session.send(m.ShareMemory())
        self._said_at = float("-inf")  # the master sends nothing to a node that it has not heard in this session
        dropped = []
        for job in list(self.jobs.values()):
            job.said_open = job.said_closed = False
            job.functions.clear()
            over = [entry for entry in job.entries.values() if entry.cancelled]
            for entry in over:
                del job.entries[entry.index]
            dropped += over
            job.dropped += [entry.index for entry in over]
            self._submit(list(job.entries.values()))
            self._close_if_over(job)
        return dropped

    def add(self, entries: Iterable[Entry[T]]) -> None:
        """Submit tasks; neighbours that share job, function, limits and needs travel as one run."""
        fresh = list(entries)
        late: dict[bytes, OpenJob[T]] = {}
        for entry in fresh:
            job = entry.job
            job.entries[entry.index] = entry
            self.jobs[job.id] = job
            if job.closed:  # a thread was slow to submit: the master may have forgotten the job already
                job.said_open = job.said_closed = False
                job.functions.clear()
                late[job.id] = job
        if self.session is not None:
            self._submit(fresh)
        for job in late.values():
            self._close_if_over(job)

    def close(self, job: OpenJob[T]) -> None:
        """Note that no more tasks will come for a job."""
        job.closed = True
        self._close_if_over(job)

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Ask for the end of tasks, or of a whole job; each is still answered."""
        known = self.jobs.get(job)
        if known is None:
            return
        for index in known.entries if indexes is None else indexes:
            if (entry := known.entries.get(index)) is not None:
                entry.cancelled = True
        # A job that this session has not opened has no unanswered tasks, and is not ours to the master either.
        if self.session is not None and known.said_open:
            self.session.send(m.Cancel(job, None if indexes is None else list(indexes)))

    def release(self, slices: Sequence[m.Slice], *, clean: bool = True) -> None:
        """Give back what results lay in; if that is `clean`, nobody looks at it any more, so it may be used again."""
        if self.session is not None:
            self.session.send(m.Release(list(slices), clean))

    def closed(self, segments: Sequence[bytes]) -> None:
        """Say that segments of ours are gone."""
        if self._introductions is not None:
            self._introductions.dropped(segments)

    def drop_all(self) -> list[Entry[T]]:
        """Give up: forget every task and give them back."""
        entries = self.entries()
        self.jobs.clear()
        return entries

    def _submit(self, entries: list[Entry[T]]) -> None:
        session = self.session
        assert session is not None
        key: Callable[[Entry[T]], object] = lambda e: (e.job.id, e.function.digest, e.timeout_s, e.retries, e.needs)  # noqa: E731
        for _, members in groupby(entries, key):
            run = list(members)
            first = run[0]
            self._introduce(first.job, first.function, session)
            buffers: ItemBuffers = ()
            if any(entry.sizes for entry in run):
                parts = [self._outgoing(entry.sizes, entry.buffers) for entry in run]
                buffers = [own for _, own in parts]
                frames = [
                    m.TaskFrame(entry.index, 0, entry.body, sizes) for entry, (sizes, _) in zip(run, parts, strict=True)
                ]
            else:
                frames = [m.TaskFrame(entry.index, 0, entry.body) for entry in run]
            session.send(
                m.Submit(first.job.id, first.function.digest, first.timeout_s, first.retries, frames, first.needs),
                buffers,
            )

    def _outgoing(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        assert self._introductions is not None
        return self._introductions.outgoing(sizes, buffers, once=True)

    def _introduce(self, job: OpenJob[T], function: Shipment, session: Session) -> None:
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

    def _close_if_over(self, job: OpenJob[T]) -> None:
        if job.closed and self.session is not None and job.said_open and not job.said_closed:
            self.session.send(m.CloseJob(job.id))
            job.said_closed = True
        if job.closed and not job.entries:
            self.jobs.pop(job.id, None)

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
                    yield Unclaimed(slices)
            elif type(message) in (m.Segment, m.DropSegments):
                if type(message) is m.DropSegments and self._introductions is not None:
                    self._introductions.forgotten(message.segments)  # of our own, if the master has no room for more
                yield message  # type: ignore[misc]
            elif type(message) is m.Started:
                for ref in message.tasks:
                    if (entry := self._find(ref)) is not None:
                        yield Runs(entry, message.slave)
            elif type(message) is m.Output and (entry := self._find(message.task)) is not None:
                yield Wrote(entry, message.task.attempt, message.stream, message.data)

    def _ended(self, job: OpenJob[T], message: m.Outcomes, buffers: Sequence[Buffers]) -> Iterator[News[T]]:
        for at, frame in enumerate(message.items):
            entry = job.entries.pop(frame.index, None)
            if entry is not None:
                yield Ended(entry, frame, buffers[at] if buffers else (), message.slave)
            elif slices := slices_of(frame.sizes):
                yield Unclaimed(slices)
        self._close_if_over(job)

    def _find(self, ref: m.TaskRef) -> Entry[T] | None:
        job = self.jobs.get(ref.job)
        return None if job is None else job.entries.get(ref.index)

    # --------------------------------------------------------------------------------------------------------- time

    def step(self, now: float) -> list[list[Buffer]]:
        """Give all envelopes that should leave now."""
        if self.session is None:
            return []
        envelopes = self.session.flush(now)
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
