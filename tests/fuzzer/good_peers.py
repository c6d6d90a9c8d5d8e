"""Good peers beside a bad one: applications and slaves with their real cores, whose tasks hash their arguments.

    GoodClient: ClientCore, ObjectStore --in-memory--> MasterCore <--in-memory-- GoodSlave: SlaveCore, HashPool

Nothing is unpickled: a bad peer's payloads are bytes to be hashed like all others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import (
    ClientJob,
    FunctionPayload,
    Payload,
    TaskEnded,
    TaskEntry,
    UnclaimedResult,
)
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, encode_error, function_digest, joined, slices_of
from concurrent_nb.wire.messages import Slice
from concurrent_nb.wire.session import Session
from concurrent_nb.workers.protocol.records import AddSegment
from concurrent_nb.workers.slave_side.attempts import PoolReports
from tests.unshared_pool import QueueingPool

#: tasks whose arguments start with this have large results
LARGE: Final = b"L"
LARGE_BYTES: Final = 40_000
#: arguments of this size are in shared memory if the peer has some, else in frames
APART_BYTES: Final = 3_000
#: larger slices are not read
READ_MAX_BYTES: Final = 16 * 1024 * 1024


class PeerLink(Protocol):
    """An end of a link, as `transport.in_memory.InMemoryClient`."""

    def receive(self, limit: int = 256) -> Any:
        """Yield the frames of each envelope that has arrived."""

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Send frames."""


def answer(function: Sequence[Buffer], arguments: Sequence[Buffer]) -> bytes:
    """Return the value of a task."""
    digest = hashlib.sha256()
    for part in (*function, *arguments):
        digest.update(part)
    large = bytes(b"".join(bytes(part[:1]) for part in arguments))[:1] == LARGE
    return digest.digest() * (LARGE_BYTES // 32) if large else digest.digest()


@dataclass(frozen=True, slots=True)
class WantedHash:
    """A task of a good client, and its expected value."""

    job: JobId
    index: int
    value: bytes


def _read(reader: SegmentReader, slice_: Slice) -> bytearray:
    if slice_.size > READ_MAX_BYTES:  # real nodes map it, and a task or a future fails if it is too large
        raise CannotOpen(f"a slice of {slice_.size} bytes is not for good peers")
    return reader.read(slice_)


class GoodClient:
    """An application whose tasks must all end correctly, whatever other peers do."""

    def __init__(self, name: str, link: PeerLink, epoch: int, *, shares: bool) -> None:
        self.name = name
        self.core: ClientCore[WantedHash] = ClientCore(interval_s=1.0)
        self.open: dict[tuple[bytes, int], WantedHash] = {}
        self.wrong: list[str] = []
        self.excused: set[tuple[bytes, int]] = set()  #: tasks that a bad slave ran: any answer is allowed
        self.ended = 0
        self.digests: dict[bytes, None] = {}  #: of functions that it has sent
        self.link = link
        self._shares = shares
        self._store = ObjectStore(recognise=False) if shares else None
        self._reader = SegmentReader()
        self._jobs = 0
        self.core.attach(Session(epoch, "to_client"), self._store, shares=shares)

    @property
    def closed(self) -> str | None:
        """Return why the master has ended the session; None if it has not."""
        assert self.core.session is not None
        return self.core.session.closed_by_peer

    def submit(self, count: int) -> None:
        """Submit tasks of every kind, as one job."""
        self._jobs += 1
        job: ClientJob[WantedHash] = ClientJob(
            JobId(hashlib.sha256(f"{self.name} {self._jobs}".encode()).digest()[:16])
        )
        body = b"function %d" % (self._jobs % 5)
        shipment = FunctionPayload(function_digest([body]), Payload(body))
        self.digests[shipment.digest] = None
        entries = []
        for index in range(count):
            inline = (LARGE if index % 3 == 2 else b"") + b"%d of job %d" % (index, self._jobs)
            apart = b"a" * APART_BYTES if index % 2 else b""
            sizes, buffers, lease = self._store_buffer(apart)
            wanted = WantedHash(job.id, index, answer([body], [inline, *([apart] if apart else [])]))
            self.open[job.id, index] = wanted
            entries.append(TaskEntry(job, index, shipment, Payload(inline, sizes, buffers, lease), wanted))
        self.core.add(entries)
        self.core.close(job)

    def _store_buffer(self, data: bytes) -> tuple[m.Sizes, Buffers, Any]:
        if not data:
            return (), (), None
        if self._store is None:
            return (len(data),), [data], None
        slice_ = self._store.put(memoryview(data))
        assert slice_ is not None
        return (slice_,), (), None

    def slices(self) -> list[Slice]:
        """Return the slices of its own shared memory that its tasks use."""
        entries = self.core.entries()
        return [slice_ for entry in entries for slice_ in slices_of(entry.payload.sizes)]

    def turn(self, now: float) -> None:
        """Handle what has arrived, and send what is due."""
        for frames in self.link.receive():
            for news in self.core.received(frames, now):
                if isinstance(news, m.Segment):
                    self._reader.add(SegmentHandle(news.segment, news.pid, news.fd, news.size))
                elif isinstance(news, m.DropSegments):
                    self._reader.drop(news.segments)
                elif isinstance(news, UnclaimedResult):
                    self.core.release(news.slices)
                elif isinstance(news, TaskEnded):
                    self._ended(news)
        for out in self.core.step(now):
            self.link.send(out)

    def _ended(self, news: TaskEnded[WantedHash]) -> None:
        wanted, frame = news.entry.handle, news.frame
        if self._store is not None and (own := slices_of(news.entry.payload.sizes)):
            self._store.release(own, clean=frame.attempt == 1)
        self.ended += 1
        if self.open.pop((wanted.job, wanted.index), None) is None:
            self.wrong.append(f"{self.name}: task {wanted.index} has ended twice")
        slices = slices_of(frame.sizes)
        try:
            value = b"".join([frame.body, *joined(frame.sizes, news.buffers, partial(_read, self._reader))])
        except CannotOpen as error:
            value = f"cannot be opened: {error}".encode()
        if slices:
            self.core.release(slices)
        if (frame.status != Status.OK or value != wanted.value) and (wanted.job, wanted.index) not in self.excused:
            self.wrong.append(
                f"{self.name}: task {wanted.index}, run by {news.slave!r} as attempt {frame.attempt}, "
                f"ended with status {frame.status} and {value[:60]!r}"
            )

    def close(self) -> None:
        """Close all descriptors."""
        self._reader.close()
        if self._store is not None:
            self._store.close()


class HashPool(QueueingPool):
    """A pool whose tasks hash; it runs a few at a time, so that others wait."""

    def __init__(self, *, shares: bool, at_once: int = 2) -> None:
        super().__init__()
        self.functions: dict[bytes, tuple[bytes, Sequence[Buffer | Slice]]] = {}
        self._at_once = at_once
        self._store = ObjectStore(recognise=False) if shares else None
        self._reader = SegmentReader()
        self._announced: set[bytes] = set()

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | Slice]) -> None:
        """Keep a function."""
        self.functions[digest] = body, buffers

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Open a segment of shared memory, if it is there."""
        try:
            self._reader.add(SegmentHandle(segment, pid, fd, size))
        except CannotOpen:
            return  # its application has ended: tasks that need it fail

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Close segments."""
        self._reader.drop(segments)

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Release the slices of results."""
        if self._store is not None:
            self._store.release(slices, clean=clean)

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            self.functions.pop(digest, None)

    def take_reports(self) -> PoolReports:
        """Run a few of the tasks that wait, and return the reports."""
        for _ in range(min(self._at_once, len(self.waiting))):
            job, function, frame, buffers = self.waiting.popleft()
            status, body, sizes, out = self._run(function, frame, buffers)
            outcome = m.OutcomeFrame(frame.index, frame.attempt, status, 0.0, 1, body, sizes)
            self._reports.outcomes.append((job, [outcome], [out]))
        reports, self._reports = self._reports, PoolReports()
        return reports

    def _run(self, function: bytes, frame: m.TaskFrame, buffers: Buffers) -> tuple[Status, bytes, m.Sizes, Buffers]:
        try:
            body, own = self.functions[function]
            parts = [_read(self._reader, part) if isinstance(part, Slice) else part for part in own]
            arguments = [
                part for part in (frame.body, *joined(frame.sizes, buffers, partial(_read, self._reader))) if part
            ]
            value = answer([body, *parts], arguments)
        except (CannotOpen, KeyError) as error:
            return Status.ERROR, encode_error(m.ErrorReport(type(error).__name__, str(error), "")), (), ()
        if len(value) < LARGE_BYTES // 2:
            return Status.OK, value, (), ()
        slice_ = None if self._store is None else self._store.put(memoryview(value))
        if slice_ is None or self._store is None:
            return Status.OK, b"", (len(value),), [value]
        if slice_.segment not in self._announced:
            self._announced.add(slice_.segment)
            handle = self._store.handle(slice_.segment)
            assert handle is not None
            self._reports.segments.append(AddSegment(handle.segment, handle.pid, handle.fd, handle.size))
        return Status.OK, b"", (slice_,), ()

    def close(self) -> None:
        """Close all descriptors."""
        self._reader.close()
        if self._store is not None:
            self._store.close()


class GoodSlave:
    """A slave that keeps to the protocol."""

    def __init__(self, name: str, link: PeerLink, epoch: int, *, shares: bool) -> None:
        self.name = name
        self.link = link
        self.pool = HashPool(shares=shares)
        self._reader = SegmentReader()
        self.core = SlaveCore(name, epoch, self.pool, 1.0, self._reader if shares else None, shares=shares)

    @property
    def closed(self) -> str | None:
        """Return why the master has ended the session; None if it has not."""
        return self.core.closed_by_master

    def turn(self, now: float) -> None:
        """Handle what has arrived, and send what is due."""
        for frames in self.link.receive():
            self.core.received(frames, now)
        for out in self.core.step(now):
            self.link.send(out)

    def close(self) -> None:
        """Close all descriptors."""
        self.pool.close()
        self._reader.close()
