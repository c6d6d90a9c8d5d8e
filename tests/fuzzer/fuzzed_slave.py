"""A slave with its real pool, and fake workers in this process; one of them, or the master, is bad.

    fake master: Session <--> SlaveCore, Pool, PoolScheduler (all real) <--sockets, pipes, page--> FakeWorker

Role "worker": a worker sends anything, in records, in bytes, in its status page and its output; only that worker may be
lost, and the tasks of others must end correctly. Role "bytes": only random bytes, everywhere. Role "master": the
slave's master sends anything; the slave must go on, and work for the next master.
"""

import contextlib
import hashlib
import itertools
import os
import random
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, encode, function_digest, joined, slices_of
from concurrent_nb.wire.messages import Slice
from concurrent_nb.wire.session import Session
from concurrent_nb.workers.protocol import records
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.status_page import StatusPage
from concurrent_nb.workers.slave_side.launchers import Event, ProcessEnded, ProcessStarted
from concurrent_nb.workers.slave_side.pool import Pool
from tests.fuzzer.fuzzed_master import EPOCH, FuzzFailure, brief, mutated
from tests.fuzzer.message_generator import INTEGERS, KnownNames, MessageGenerator, buffers_of, members

SLOTS: Final = 3
TASKS: Final = 8
#: timeout of tasks, in seconds; a bad worker may keep its task so long
LIMIT_S: Final = 1.0
#: good tasks end within so many seconds of the slave's time, whatever a bad worker does
END_WITHIN_S: Final = 45.0
FUNCTION: Final = b"the function"
_LENGTH: Final = struct.Struct("<I")


def answer(body: bytes) -> bytes:
    """Return the value of a task."""
    return hashlib.sha256(FUNCTION + body).digest()


class FakeWorker:
    """A worker's ends of all channels, without a process."""

    def __init__(self, number: int, ends: WorkerChannels) -> None:
        self.number = number
        self.pid = 100_000 + number
        self.is_bad = False
        self.is_there = True
        self.tickets: list[int] = []  #: that it has received
        tasks, self.tokens, page, self._parent_pipe, self.out, self.err, stacks = [os.dup(fd) for fd in ends]
        self.socket = socket.socket(fileno=tasks)
        self.socket.setblocking(False)
        os.set_blocking(self.tokens, False)
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.page = StatusPage(page)
        os.close(page)
        os.close(stacks)
        self._reader = records.RecordReader(records.decode_slave_record)
        self.queue: deque[tuple[int, int, bytes]] = deque()  # epoch, ticket, body
        self.write(records.pack_results([]))

    def turn(self, now: float) -> bool:
        """Receive tasks, and run those with a token; False if it ends."""
        try:
            self._receive()
        except (ConnectionError, ProtocolError):
            return False
        while self.queue and not self.is_bad:
            try:
                token = os.read(self.tokens, 1)
            except BlockingIOError:
                return True
            if not token:
                return False
            while self.queue and self.queue[0][0] != token[0]:
                self.queue.popleft()
            if self.queue:
                self._run(*self.queue.popleft()[1:], now)
        return self._has_tokens_to_come()

    def _has_tokens_to_come(self) -> bool:
        if self.queue or self.is_bad:
            return True
        try:
            return bool(os.read(self.tokens, 1))  # of a task that was recalled
        except BlockingIOError:
            return True

    def _run(self, ticket: int, body: bytes, now: float) -> None:
        self.page.begin(ticket, now)
        result = records.Result(ticket, Status.OK, 0.001, answer(body))
        self.page.end()
        self.write(records.pack_results([records.encode(result)]))

    def _receive(self) -> None:
        while True:
            try:
                received = self.socket.recv_into(self._reader.get_buffer())
            except BlockingIOError:
                return
            if not received:
                raise ConnectionError("the slave has gone")
            for order, buffers in self._reader.buffer_updated(received):
                if isinstance(order, records.RunTasks):
                    self._take(order, buffers)

    def _take(self, run: records.RunTasks, buffers: list[memoryview]) -> None:
        travelled = iter(buffers)
        for ticket, body, sizes, _, _ in run.tasks:
            parts = [bytes(next(travelled)) for size in sizes if not isinstance(size, Slice)]
            self.queue.append((run.epoch, ticket, b"".join([body, *parts])))
            self.tickets.append(ticket)

    def write(self, data: bytes) -> None:
        """Send bytes, as far as the socket takes them."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.socket.send(data)

    def close(self) -> None:
        """Close all channels."""
        if self.is_there:
            self.is_there = False
            self.socket.close()
            self.page.close()
            for fd in (self.tokens, self._parent_pipe, self.out, self.err):
                os.close(fd)


class FakeLauncher:
    """Launches fake workers: a `workers.slave_side.launchers.Launcher`."""

    def __init__(self) -> None:
        self.workers: dict[int, FakeWorker] = {}
        self._events: list[Event] = []

    def launch(self, worker: int, ends: WorkerChannels) -> list[Event]:
        """Start a worker."""
        fake = self.workers[worker] = FakeWorker(worker, ends)
        return [ProcessStarted(worker, fake.pid)]

    def prepare_system_host(self) -> None:
        """Do nothing: hosts start immediately."""

    def interrupt(self, worker: int) -> None:
        """Do nothing: a good worker has ended its task before an interrupt, a bad one ignores it."""

    def write_stack(self, worker: int, thread: int) -> None:
        """Do nothing: the file stays empty, as that of a worker which does not answer."""

    @property
    def server_pid(self) -> int:
        """Return 0: there is no fork server."""
        return 0

    def end_server(self, how: str) -> None:
        """Do nothing: there is no fork server."""

    def kill(self, worker: int) -> None:
        """End a worker."""
        self.ends(worker, "died of SIGKILL")

    def ends(self, worker: int, how: str) -> None:
        """Note that a worker has ended."""
        if (fake := self.workers.pop(worker, None)) is not None:
            fake.close()
            self._events.append(ProcessEnded(worker, how))

    def fds(self) -> list[int]:
        """Return an empty list: the pool polls often enough."""
        return []

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def stderr_tail(self) -> str:
        """Return an empty text."""
        return ""

    def close(self, wait_s: float) -> None:
        """End all workers."""
        for worker in list(self.workers):
            self.ends(worker, "died of SIGKILL")


class FuzzedSlave:
    """A slave with three workers, and its master."""

    def __init__(self, seed: int) -> None:
        self.now = monotonic()  # the pool uses this clock, too, where it has no time as an argument
        self.trace: list[str] = []
        self.launcher = FakeLauncher()
        self.pool = Pool(SLOTS, self.launcher, stopped_s=0, hung_disk_s=0)  # the pids of fake workers are made up
        self.reader = SegmentReader()
        self._ids = random.Random(seed)
        self._bad_pids: set[int] = set()
        self.pool.start(self.now)
        self._begin_session()
        self._submit_good_tasks(TASKS)
        self._finish_tasks("before the bad peer")
        self._fds = self._count_fds()

    def close(self) -> None:
        """Close all descriptors."""
        for worker in list(self.launcher.workers):
            self.launcher.ends(worker, "the rig is closed")
        self.pool.close()
        self.reader.close()

    def _begin_session(self) -> None:
        self.core = SlaveCore("slave", EPOCH, self.pool, 1.0, self.reader, shares=True)
        self.master = Session(EPOCH, "from_slave")
        self.job = self._ids.randbytes(16)
        self.wanted: dict[int, bytes] = {}
        self.attempts: dict[int, int] = {}
        self.is_over = False
        self.master.send(m.Function(function_digest([FUNCTION]), FUNCTION))

    def _end_session(self) -> None:
        """End the session as `nodes.slave.process` does."""
        self.core.end()
        self.pool.reset(self.now)
        self._begin_session()

    # ------------------------------------------------------------------------------------------------- one sequence

    def run_sequence(self, role: str, seed: int, actions: Sequence[int]) -> None:
        """Run a bad worker or a bad master for these actions. Raises FuzzFailure, or an exception of the slave."""
        chance = random.Random(seed)
        self._submit_good_tasks(chance.randint(1, TASKS))
        if role in ("worker", "bytes"):
            self._run_bad_worker(chance, actions, only_bytes=role == "bytes")
        else:
            self._run_bad_master(actions)
        self._submit_good_tasks(TASKS)
        self._finish_tasks("after the bad peer")
        self._check()

    def _check(self) -> None:
        for _ in range(40):  # killed workers are reaped, and others start
            self.now += 0.3
            self._turn()
        if self.core.degraded:
            raise FuzzFailure(f"the slave is degraded: {self.core.degraded}")
        if len(self.launcher.workers) != SLOTS:
            raise FuzzFailure(f"there are {len(self.launcher.workers)} workers, not {SLOTS}")
        if self.pool.unfinished:
            raise FuzzFailure(f"{self.pool.unfinished} attempts are left in the pool")
        if (fds := self._count_fds()) > self._fds:
            raise FuzzFailure(f"{fds - self._fds} descriptors more are open")

    @staticmethod
    def _count_fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    # --------------------------------------------------------------------------------------------------- a bad worker

    def _run_bad_worker(self, chance: random.Random, actions: Sequence[int], *, only_bytes: bool) -> None:
        worker = self.launcher.workers[min(self.launcher.workers)]
        worker.is_bad = True
        self._bad_pids.add(worker.pid)
        others = {pid for pid in self._pids() if pid != worker.pid}
        self._turn()
        known = KnownNames(indexes=itertools.count())
        store = ObjectStore(recognise=False)
        try:
            self._share(known, store, worker)
            for action in actions:
                if not worker.is_there:
                    break
                if only_bytes:
                    self._write_bytes(worker, random.Random(action))
                else:
                    self._do_worker_action(worker, known, random.Random(action))
            self._submit_good_tasks(2)
            self._wait_for_end(worker)
        finally:
            store.close()
            if worker.is_there and chance.random() < 0.5:
                self.launcher.ends(worker.number, "ended with exit code 1")
            elif worker.is_there:
                self.launcher.kill(worker.number)
        if gone := others - self._pids():
            raise FuzzFailure(f"{len(gone)} other workers were lost")

    def _wait_for_end(self, worker: FakeWorker) -> None:
        """Let the time pass after which a worker that does not end its task is killed."""
        until = self.now + END_WITHIN_S
        while self.wanted and self.now < until:
            self.now += 0.05
            self._turn()
        if self.wanted:
            raise FuzzFailure(f"after {END_WITHIN_S:.0f} s {len(self.wanted)} tasks have not ended beside a bad worker")

    def _pids(self) -> set[int]:
        return {worker.pid for worker in self.launcher.workers.values()}

    def _share(self, known: KnownNames, store: ObjectStore, worker: FakeWorker) -> None:
        slice_, behind = _put_slice(known, store)
        known.odd_slices += [
            behind,
            Slice(slice_.segment, 0, 2**60, 1),
            Slice(self._ids.randbytes(16), 0, 10, 1),
        ]

    def _do_worker_action(self, worker: FakeWorker, known: KnownNames, chance: random.Random) -> None:
        generator = MessageGenerator(chance, known)
        how = chance.random()
        if how < 0.5:
            messages = self._record(worker, generator)
            data = _packed(messages)
            if data is None:
                return
            if chance.random() < 0.2:
                data = b"".join(bytes(frame) for frame in mutated([data], chance))
            if chance.random() < 0.1:
                data = data[: chance.randrange(len(data) + 1)]
            self.trace.append(f"worker sends {brief(messages)} in {len(data)} bytes")
            worker.write(data)
        elif how < 0.6:
            data = chance.choice((
                _LENGTH.pack(chance.choice((60 << 20, 64 << 20, 2**32 - 1, 0, 1))),
                chance.randbytes(chance.choice((1, 100, 5000))),
                b"\0" * 5000,
                _LENGTH.pack(50) + b"\xdd",
            ))  # fmt: skip
            self.trace.append(f"worker writes {brief(data)}")
            worker.write(data)
        elif how < 0.72:
            self._write_page(worker, chance)
        elif how < 0.8:
            data = chance.choice(
                (b"text\n", b"\xff" * 3000, worker.page.nonce, worker.page.nonce + b"\0" * 8, b"x" * 60_000)
            )
            self.trace.append(f"worker prints {brief(data)}")
            with contextlib.suppress(BlockingIOError):
                os.write(chance.choice((worker.out, worker.err)), data)
        elif how < 0.84:
            self.trace.append("worker takes all tokens")
            with contextlib.suppress(BlockingIOError):
                os.read(worker.tokens, 4096)
        elif how < 0.88:
            self.trace.append("worker shuts its socket")
            with contextlib.suppress(OSError):
                worker.socket.shutdown(chance.choice((socket.SHUT_WR, socket.SHUT_RDWR)))
        elif how < 0.95:
            self._submit_good_tasks(chance.randint(1, 4))
        else:
            self.now += chance.choice((0.1, 0.5, 1.5, 6.0))
            self.trace.append(f"time is now {self.now:.2f}")
        self._turn()

    def _write_bytes(self, worker: FakeWorker, chance: random.Random) -> None:
        """Write random bytes into one of the channels of a worker."""
        data = chance.randbytes(chance.choice((1, 4, 5, 50, 1000, 5000, 20_000)))
        where = chance.choice(("socket", "output", "error", "page"))
        self.trace.append(f"worker writes {len(data)} random bytes into its {where}")
        if where == "socket":
            worker.write(data)
        elif where == "page":
            at = chance.randrange(max(1, len(worker.page._bytes) - len(data)))
            worker.page._bytes[at : at + len(data)] = data
        else:
            with contextlib.suppress(BlockingIOError):
                os.write(worker.out if where == "output" else worker.err, data)
        self._turn()

    def _record(self, worker: FakeWorker, generator: MessageGenerator) -> Any:
        chance = generator.chance
        if chance.random() < 0.4:
            return generator.message(chance.choice(members(records.WorkerRecord)))
        results = []
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            result = generator.message(records.Result)
            if worker.tickets and chance.random() < 0.7:
                result = msgspec.structs.replace(result, ticket=chance.choice(worker.tickets))
            results.append(result)
        return results

    def _write_page(self, worker: FakeWorker, chance: random.Random) -> None:
        word, value = chance.randrange(16), chance.choice(INTEGERS) % 2**64
        if worker.tickets and chance.random() < 0.5:
            value = chance.choice(worker.tickets)
        self.trace.append(f"worker writes {value} into word {word} of its page")
        worker.page.words[word] = value
        if chance.random() < 0.3:
            worker.page.keep_unsent(chance.choice((1, 2, 1000)), 0, chance.randbytes(100))

    # --------------------------------------------------------------------------------------------------- a bad master

    def _run_bad_master(self, actions: Sequence[int]) -> None:
        for _ in range(5):
            self._turn()
        self._bad_pids |= self._pids()  # their tasks may be withdrawn, or lose their function
        known = KnownNames(indexes=itertools.count(10**6))
        known.add("job", self.job)
        known.add("job", self._ids.randbytes(16))
        known.functions.append(m.Function(function_digest([FUNCTION]), FUNCTION))
        known.add("digest", known.functions[0].digest)
        store = ObjectStore(recognise=False)
        seq = self.master._last_seq
        try:
            _, behind = _put_slice(known, store)
            known.odd_slices += [behind, Slice(b"u" * 16, 0, 10, 1)]
            for action in actions:
                chance = random.Random(action)
                generator = MessageGenerator(chance, known)
                known.refs = [m.TaskRef(self.job, index, attempt) for index, attempt in self.attempts.items()]
                messages = [
                    generator.message(chance.choice(members(m.ToSlave))) for _ in range(chance.choice((1, 1, 2, 3)))
                ]
                seq += 1
                frames = _enveloped(seq, self.master._received_seq, messages)
                if frames is None:
                    seq -= 1
                    continue
                if chance.random() < 0.15:
                    frames = mutated(frames, chance)
                self.trace.append(f"master sends {', '.join(brief(message) for message in messages)}")
                self._receive_from_bad_master(frames)
                if self.is_over:
                    break
        finally:
            store.close()
        self._end_session()
        self._bad_pids.clear()

    def _receive_from_bad_master(self, frames: Sequence[Buffer]) -> None:
        """Receive an envelope; a breach of the protocol ends the session, and no other exception may be raised."""
        try:
            self.core.received(frames, self.now)
        except ProtocolError as error:
            self.trace.append(f"the slave ends the session: {str(error)[:200]}")
            self.is_over = True
            return
        self.is_over = self.core.closed_by_master is not None
        for _ in range(3):
            self._turn_pool()
            for _ in self.core.step(self.now):
                pass

    # ------------------------------------------------------------------------------------------------------ time

    def _submit_good_tasks(self, count: int) -> None:
        """Assign good tasks."""
        frames = []
        for _ in range(count):
            index = max(self.attempts, default=-1) + 1
            self.attempts[index] = 1
            body = b"arguments %d" % index
            self.wanted[index] = answer(body)
            frames.append(m.TaskFrame(index, 1, body))
        self.master.send(m.Assign(self.job, function_digest([FUNCTION]), LIMIT_S, frames))

    def _turn_pool(self) -> None:
        self.now += 0.002
        for fd, events in list(self.pool.fds().items()):
            self.pool.ready(fd, events, self.now)
        self.pool.tick(self.now)
        for number, worker in list(self.launcher.workers.items()):
            if not worker.turn(self.now):
                self.launcher.ends(number, "ended with exit code 0")

    def _turn(self) -> None:
        """Let the slave, its workers and its master take one turn."""
        self._turn_pool()
        for frames in self.master.flush(self.now):
            self.core.received(frames, self.now)
        for frames in self.core.step(self.now):
            for item in self.master.receive(frames, self.now):
                self._receive(item.message, item.buffers)

    def _receive(self, message: Any, buffers: Sequence[Sequence[Buffer]]) -> None:
        if isinstance(message, m.Outcomes) and message.job == self.job:
            for at, frame in enumerate(message.items):
                self._ended(frame, buffers[at] if buffers else ())
        elif isinstance(message, m.Returned):
            for ref in message.tasks:
                if ref.job == self.job and ref.index in self.wanted and self.attempts[ref.index] == ref.attempt:
                    self._retry(ref.index)
        elif isinstance(message, m.Segment):
            with contextlib.suppress(segments.CannotOpen):
                os.close(
                    segments.open_segment(
                        segments.SegmentHandle(message.segment, message.pid, message.fd, message.size)
                    )
                )

    def _retry(self, index: int) -> None:
        self.attempts[index] += 1
        if self.attempts[index] > 30:
            raise FuzzFailure(f"task {index} has had 30 attempts")
        frame = m.TaskFrame(index, self.attempts[index], b"arguments %d" % index)
        self.master.send(m.Assign(self.job, function_digest([FUNCTION]), LIMIT_S, [frame]))

    def _ended(self, frame: m.OutcomeFrame, buffers: Sequence[Buffer]) -> None:
        slices = slices_of(frame.sizes)
        if slices:
            self.master.send(m.Release(slices, True))
        if frame.index not in self.wanted or self.attempts[frame.index] != frame.attempt:
            if frame.index in self.attempts:
                raise FuzzFailure(f"task {frame.index} has ended twice")
            return
        if frame.status == Status.DIED:
            self._retry(frame.index)
            return
        wanted = self.wanted.pop(frame.index)
        value = b"".join([frame.body, *(part for part in joined(frame.sizes, buffers, lambda _: b"") if part)])
        if frame.worker not in self._bad_pids and (frame.status != Status.OK or value != wanted):
            raise FuzzFailure(
                f"task {frame.index} ended with status {frame.status} in a good worker, and {value[:80]!r}"
            )

    def _finish_tasks(self, when: str) -> None:
        until = self.now + END_WITHIN_S
        while self.wanted:
            self._turn()
            self.now += 0.02
            if self.now > until:
                raise FuzzFailure(f"{when}: {len(self.wanted)} tasks have not ended within {END_WITHIN_S:.0f} s")


def _packed(messages: Any) -> bytes | None:
    """Return a packed record and its buffers; None if msgpack cannot encode it."""
    try:
        if isinstance(messages, list):
            header = records.pack_results([records.encode(result) for result in messages])
        else:
            header = records.pack(records.encode(messages))
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        return None
    return b"".join([header, *buffers_of(messages)])


def _enveloped(seq: int, ack: int, messages: Sequence[Any]) -> list[Buffer] | None:
    buffers = [buffer for message in messages for buffer in buffers_of(message)]
    try:
        return encode(Envelope(m.PROTOCOL_VERSION, EPOCH, seq, ack, list(messages)), buffers)
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        return None


def _put_slice(known: KnownNames, store: ObjectStore) -> tuple[Slice, Slice]:
    """Let a slice in shared memory be known; return it, and one that ends behind its segment."""
    slice_ = store.put(memoryview(b"s" * 5000))
    assert slice_ is not None
    handle = store.handle(slice_.segment)
    assert handle is not None
    known.handles.append((handle.segment, handle.pid, handle.fd, handle.size))
    known.add("segment", handle.segment)
    known.slices.append(slice_)
    return slice_, Slice(slice_.segment, handle.size - 1, 2, 1)
