"""The slave's end of one worker: orders out, results in, tokens, page, output. Nothing here waits.

Made and used by the pool. Tokens make taking back safe: the worker takes one from a pipe before it starts a task, and
the slave takes back what it finds there. A pipe gives each byte to one reader, so a task is either started or taken
back, at any moment, even while the worker computes and hears nothing.
"""

import contextlib
import os
import socket
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire.messages import Slice
from concurrent_nb.workers.protocol.channels import SlaveChannels, WorkerChannels
from concurrent_nb.workers.protocol.records import (
    LARGE_BYTES,
    AddSegment,
    ForgetFunctions,
    LoadFunction,
    RecordReader,
    ReleaseSlices,
    RemoveSegments,
    Results,
    RunTasks,
    Said,
    decode_said,
    encode,
    pack,
    unpack_unsent,
)
from concurrent_nb.workers.protocol.status_page import StatusPage
from concurrent_nb.workers.slave_side.attempts import Attempt, Buffer
from concurrent_nb.workers.slave_side.output_capture import OutputCapture
from concurrent_nb.workers.slave_side.worker_limits import Framing, LogLimit

#: most chunks in one call of sendmsg; the system's limit is 1024
CHUNKS_MAX: Final = 64
#: most tokens that are in the pipe at once, with room to spare
TOKENS_MAX: Final = 4096
#: functions that a worker keeps; the one unused for longest is dropped
FUNCTIONS_MAX: Final = 128
#: of a long record, so many bytes are progress; a record that comes more slowly is none that is being sent
PROGRESS_BYTES: Final = 64 * 1024
#: most segments of shared memory that a worker may have; each takes a descriptor
SEGMENTS_MAX: Final = 4096
#: lines in the slave's log that a worker may cause within a minute; what is more is counted
LOG_LINES_MAX: Final = 20
#: larger send buffer, so that a pack ahead does not wait for the slave
SEND_BUFFER_BYTES: Final = 1024 * 1024


class WorkerConnection:
    """What connects the slave with the worker of this number, or with the main thread of a process of threads.

    Args:
        limit_bytes: most that a task may write to a pipe of its output.
        result_bytes_max: most bytes that travel with a result through the socket.
        process: number of the process that it is a thread of; 0: it has one of its own, of its own number.
    """

    def __init__(
        self, worker: int, ends: SlaveChannels, limit_bytes: int, result_bytes_max: int = 1 << 62, process: int = 0
    ) -> None:
        self.worker = worker
        self.process = process or worker
        self.pid = 0
        self.was_killed = False  #: because it hears us no more, or has broken what it talks to us with
        self.is_broken = False  #: it has broken that: nothing of it is read, it is killed as soon as it can be
        self.is_ready = False  #: it has said that it waits for work
        self.progress_before = 0  #: what `progress` was when its page was looked at
        self.log = LogLimit(LOG_LINES_MAX)
        self.notes = Framing()  #: of the task that sends notes
        self.notes_ticket = 0  #: ... of this ticket
        self.is_held = False  #: nothing is read of it for now, because too many notes are on their way already
        self.socket = socket.socket(fileno=ends.tasks)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.page = StatusPage(ends.page)
        os.close(ends.page)
        self.outputs = (ends.out, ends.err)
        self.capture = OutputCapture(self.page, self.outputs, limit_bytes)
        self._fds: tuple[int, ...] = (ends.tokens, ends.tokens_back, ends.lifeline, ends.out, ends.err)
        self._tokens, self._tokens_back = ends.tokens, ends.tokens_back
        self._has_ended_tokens = False
        self._epoch = 0
        self._reader = RecordReader(
            decode_said,
            buffer_bytes_max=result_bytes_max,
            over_limit=" (setting SlaveNode.result_mib; where memory is shared, results do not travel through here)",
        )
        self._sent_bytes = self._received_bytes = self._records = 0
        self._outgoing: deque[memoryview] = deque()
        self._functions: OrderedDict[bytes, None] = OrderedDict()
        self._segments: set[bytes] = set()  # of shared memory, that it has heard of
        self.made: dict[bytes, int] = {}  #: segments of its own, and their sizes

    # ------------------------------------------------------------------------------------------------------- out

    @property
    def wants_to_send(self) -> bool:
        """Say whether something waits until the socket takes it."""
        return bool(self._outgoing)

    def has(self, function: bytes) -> bool:
        """Say whether the worker has this function, and note that it is used."""
        if function not in self._functions:
            return False
        self._functions.move_to_end(function)
        return True

    def knows(self, segment: bytes) -> bool:
        """Say whether the worker has heard of this segment."""
        return segment in self._segments

    def introduce(self, segment: AddSegment) -> None:
        """Say how a segment of shared memory is opened, before the first slice of it."""
        self._segments.add(segment.segment)
        self._put(encode(segment), ())

    def forget(self, segments: Iterable[bytes]) -> None:
        """Say that nothing refers to these any more."""
        known = [segment for segment in segments if segment in self._segments]
        self._segments.difference_update(known)
        if known:
            self._put(encode(RemoveSegments(known)), ())

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Say that results have been taken from these slices of the worker's own memory."""
        self._put(encode(ReleaseSlices(list(slices), clean)), ())

    def load(self, function: bytes, body: Buffer, buffers: Sequence[Buffer | Slice]) -> None:
        """Send a function; drop the one that was not used for longest if there are too many."""
        self._functions[function] = None
        if len(self._functions) > FUNCTIONS_MAX:
            oldest, _ = self._functions.popitem(last=False)
            self._put(encode(ForgetFunctions([oldest])), ())
        if len(body) >= LARGE_BYTES:
            body, buffers = b"", [body, *buffers]
        sizes = tuple([it if isinstance(it, Slice) else _size_of(it) for it in buffers])
        self._put(
            encode(LoadFunction(function, bytes(body), sizes)), [it for it in buffers if not isinstance(it, Slice)]
        )

    def drop(self, functions: Sequence[bytes]) -> None:
        """Tell the worker to forget functions."""
        known = [function for function in functions if function in self._functions]
        for function in known:
            del self._functions[function]
        if known:
            self._put(encode(ForgetFunctions(known)), ())

    def give(self, function: bytes, attempts: Sequence[Attempt], threads: int = 0) -> None:
        """Send a pack of tasks, and a token for each. Libraries may use so many threads; 0: as many as they do."""
        tasks = [(it.ticket, it.body, it.sizes, it.index, it.kind) for it in attempts]
        buffers = [buffer for attempt in attempts for buffer in attempt.buffers]
        self._put(encode(RunTasks(function, self._epoch, tasks, threads, attempts[0].job)), buffers)
        with contextlib.suppress(BrokenPipeError):  # it died, which is about to be noticed
            os.write(self._tokens, bytes([self._epoch]) * len(tasks))

    def recall(self) -> int:
        """Take back all tokens that the worker has not used; return how many."""
        try:
            count = len(os.read(self._tokens_back, TOKENS_MAX))
        except BlockingIOError:
            return 0
        # The tasks are with the worker already: it skips those of an epoch that gets no more tokens.
        self._epoch = (self._epoch + 1) % 256
        return count

    def no_more(self) -> None:
        """Tell the worker to end when it has finished what it runs. To do so again changes nothing."""
        if self._has_ended_tokens:
            return
        self._has_ended_tokens = True
        for fd in (self._tokens, self._tokens_back):
            os.close(fd)
        self._fds = self._fds[2:]

    def open_thread(self, ends: WorkerChannels) -> None:
        """Have the process start a thread that is a worker with these ends. They stay open here."""
        with contextlib.suppress(ConnectionError):  # it died, which is about to be noticed
            socket.send_fds(self.socket, [b"\0"], list(ends))

    def _put(self, header: bytes, buffers: Sequence[Buffer]) -> None:
        self._outgoing.append(memoryview(pack(header)))
        self._outgoing.extend(memoryview(buffer).cast("B") for buffer in buffers if _size_of(buffer))
        self.send()

    def send(self) -> None:
        """Send as much as the socket takes."""
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.socket.sendmsg(list(islice(outgoing, CHUNKS_MAX)))
            except BlockingIOError:
                return
            except ConnectionError:
                outgoing.clear()  # it died, which is about to be noticed
                return
            self._sent_bytes += sent
            while outgoing and sent >= len(outgoing[0]):
                sent -= len(outgoing.popleft())
            if sent:
                outgoing[0] = outgoing[0][sent:]

    # -------------------------------------------------------------------------------------------------------- in

    def receive(self, most_bytes: int) -> Iterator[tuple[Results | Said, list[memoryview]]]:
        """Give what the worker has said. Raises ConnectionError at the stream's end, ProtocolError on nonsense."""
        while most_bytes > 0:
            try:
                received = self.socket.recv_into(self._reader.room())
            except BlockingIOError:
                return
            if not received:
                raise ConnectionError("closed its connection")
            self._received_bytes += received
            most_bytes -= received
            records = self._reader.took(received)
            self._records += len(records)
            yield from records

    @property
    def progress(self) -> int:
        """Return a number that grows with each record of the worker, and as long ones go either way."""
        return self._records + self._received_bytes // PROGRESS_BYTES + self._sent_bytes // PROGRESS_BYTES

    def unsent(self) -> Results:
        """Give the results that stand in the page. Some may come again through the socket.

        Raises ProtocolError for what is none.
        """
        results = unpack_unsent(*self.page.unsent())
        if results.announced():
            raise ProtocolError("has a result in its status page that announces buffers")
        return results

    def close(self) -> None:
        """Close everything; the kernel kills what is left of the worker."""
        self.socket.close()
        self.page.close()
        for fd in self._fds:
            os.close(fd)


def _size_of(buffer: Buffer) -> int:
    return memoryview(buffer).nbytes
