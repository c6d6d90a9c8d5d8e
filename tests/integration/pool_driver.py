"""A slave reduced to its poll loop: gives a pool tasks, waits for what becomes of them. For tests with processes."""

import contextlib
import hashlib
import os
import select
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cloudpickle
import msgspec
import pytest

import tests
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.codec import joined, lengths, slices_of
from concurrent_nb.wire.messages import Assign, ErrorReport, Needs, OutcomeFrame, StackSampled, TaskFrame, TaskRef
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher, Launcher, SpawnLauncher, environment
from concurrent_nb.workers.slave_side.pool import Pool

JOB = b"j" * 16
#: no test takes nearly as long; then something hangs
PATIENCE_S = 60.0


def launcher(kind: str, **more: str) -> Launcher:
    """Make a launcher: "fork_server", "spawn", or "bare" (spawn without pidfds, as on systems that lack them)."""
    env = environment(2, 2, {**os.environ, **more})
    return ForkServerLauncher(env) if kind == "fork_server" else SpawnLauncher(env, pidfds=kind == "spawn")


@dataclass
class End:
    """How an attempt ended."""

    status: Status
    value: Any  #: the value, or the ErrorReport, or None
    elapsed_s: float
    worker: int


class Driver:
    """Drives a pool as a slave does."""

    def __init__(self, kind: str | Launcher = "fork_server", slots: int = 2, **options: Any) -> None:
        self.pool = Pool(slots, launcher(kind) if isinstance(kind, str) else kind, **options)
        self.ended: dict[TaskRef, End] = {}
        self.started: list[TaskRef] = []
        self.returned: list[TaskRef] = []
        self.output: defaultdict[TaskRef, dict[int, bytes]] = defaultdict(lambda: {1: b"", 2: b""})
        self.stacks: list[StackSampled] = []
        self.degraded = ""
        self._next_index = 0
        self.segment_reader = SegmentReader()  # shared memory of the workers
        self.pool.start(time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the pool."""
        self.pool.close()
        self.segment_reader.close()

    def add(self, function: Callable[..., Any]) -> bytes:
        """Hand a function to the pool, and return its digest."""
        # What tests define has to travel by value: workers do not import tests.
        cloudpickle.register_pickle_by_value(tests)
        try:
            body = cloudpickle.dumps(function)
        finally:
            cloudpickle.unregister_pickle_by_value(tests)
        return self.add_pickled(body)

    def add_pickled(self, body: bytes) -> bytes:
        """Hand a pickle to the pool as a function."""
        digest = hashlib.sha256(body).digest()
        self.pool.add_function(digest, body)
        return digest

    def assign(
        self,
        digest: bytes,
        arguments: Sequence[tuple[Any, ...]],
        timeout_s: float | None = None,
        job: bytes = JOB,
        needs: Needs | None = None,
    ) -> list[TaskRef]:
        """Assign a task for each tuple of arguments."""
        frames: list[TaskFrame] = []
        all_buffers: list[Sequence[memoryview]] = []
        for args in arguments:
            body, buffers = pickles.dumps(args)
            if len(body) >= pickles.OUT_OF_BAND_BYTES:
                body, buffers = b"", [memoryview(body), *buffers]
            frames.append(TaskFrame(self._next_index, 1, body, tuple(buffer.nbytes for buffer in buffers)))
            all_buffers.append(buffers)
            self._next_index += 1
        all_buffers = all_buffers if any(all_buffers) else []
        self.pool.assign(Assign(job, digest, timeout_s, frames, needs), all_buffers, time.monotonic())
        return [TaskRef(job, frame.index, frame.attempt) for frame in frames]

    def start(
        self, function: Callable[..., Any], *args: Any, timeout_s: float | None = None, needs: Needs | None = None
    ) -> TaskRef:
        """Assign one task."""
        return self.assign(self.add(function), [args], timeout_s, needs=needs)[0]

    def run(
        self, function: Callable[..., Any], *args: Any, timeout_s: float | None = None, needs: Needs | None = None
    ) -> End:
        """Assign one task and wait for its end."""
        ref = self.start(function, *args, timeout_s=timeout_s, needs=needs)
        self.until(lambda: ref in self.ended)
        return self.ended[ref]

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[End]:
        """Assign many tasks and wait for them."""
        refs = self.assign(self.add(function), arguments)
        self.wait(refs)
        return [self.ended[ref] for ref in refs]

    def wait(self, refs: Sequence[TaskRef]) -> None:
        """Wait until all of these have ended."""
        self.until(lambda: all(ref in self.ended for ref in refs))

    def withdraw(self, refs: Sequence[TaskRef], stop: bool) -> None:
        """Withdraw tasks."""
        self.pool.withdraw(refs, stop, time.monotonic())

    def until(self, condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        """Turn the poll loop until the condition holds."""
        give_up_at = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up_at, f"not within {within_s} s"
            self.turn(0.1)

    def turn(self, wait_s: float) -> None:
        """Turn the poll loop once."""
        now = time.monotonic()
        due = self.pool.next_deadline()
        if due is not None:
            wait_s = max(0.0, min(wait_s, due - now))
        poll = select.poll()
        for fd, events in self.pool.fds().items():
            poll.register(fd, events)
        for fd, events in poll.poll(wait_s * 1000):
            self.pool.ready(fd, events, time.monotonic())
        self.pool.tick(time.monotonic())
        self._take_reports()

    def _take_reports(self) -> None:
        reports = self.pool.take_reports()
        self.started += [TaskRef(it.job, it.index, it.attempt) for it in reports.started]
        self.returned += reports.returned
        self.stacks += reports.stacks
        self.degraded = self.degraded or reports.degraded
        for ref, stream, data in reports.output:
            assert ref not in self.ended, "output after the outcome"
            self.output[ref][stream] = self.output[ref].get(stream, b"") + data
        for made in reports.segments:
            with contextlib.suppress(CannotOpen):  # its worker has died
                self.segment_reader.add(SegmentHandle(made.segment, made.pid, made.fd, made.size))
        for job, frames, buffers in reports.outcomes:
            for place, frame in enumerate(frames):
                ref = TaskRef(job, frame.index, frame.attempt)
                assert ref not in self.ended, "a second outcome"
                travelled = list(buffers[place]) if buffers else []
                assert [len(memoryview(buffer).cast("B")) for buffer in travelled] == lengths(frame.sizes)
                try:
                    own = joined(frame.sizes, travelled, self.segment_reader.read)
                except CannotOpen:  # a slave says so, and the task is run again
                    self.ended[ref] = End(Status.DIED, None, frame.elapsed_s, frame.worker)
                    continue
                self.pool.release(slices_of(frame.sizes), clean=True)
                self.ended[ref] = self.open(ref, frame, own)
        self.segment_reader.drop([*reports.forgotten, *reports.orphaned])

    def open(self, ref: TaskRef, frame: OutcomeFrame, own: list[Any]) -> End:
        """Open an outcome."""
        return _open(frame.status, frame.body, own, frame.elapsed_s, frame.worker)


def _open(status: int, body: bytes, buffers: list[Any], elapsed_s: float, worker: int) -> End:
    whole = body or (buffers.pop(0) if buffers else b"")
    value: Any = None
    if status in (Status.OK, Status.HIT):
        value = pickles.loads(whole, buffers)
    elif whole:
        value = msgspec.msgpack.decode(whole, type=ErrorReport)
    return End(Status(status), value, elapsed_s, worker)


# ------------------------------------------------------------------------- fixtures: a test module gives them its names


def kinds(*names: str) -> Callable[..., str]:
    """Make the fixture `kind`: each of these kinds of launchers."""

    @pytest.fixture(params=names)
    def kind(request: pytest.FixtureRequest) -> str:
        return str(request.param)

    return kind


@pytest.fixture
def driver(kind: str) -> Iterator[Driver]:
    """Give a pool of two workers."""
    with Driver(kind) as driver:
        yield driver


@pytest.fixture
def single(kind: str) -> Iterator[Driver]:
    """Give a pool of one worker."""
    with Driver(kind, slots=1) as driver:
        yield driver
