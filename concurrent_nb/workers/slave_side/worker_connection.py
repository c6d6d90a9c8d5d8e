"""The slave's side of the connection to one worker: records, tokens, status page, output. No method waits.

Used by the pool alone. Tokens make a recall safe: the worker reads one from a pipe before it starts a task, and the
slave reads those that are left. A pipe gives each byte to one reader, so a task is either started or recalled, at any
moment, even while the worker computes and reads nothing.
"""

import contextlib
import os
import socket
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.rate_limited_log import LineLimit
from concurrent_nb.wire.messages import Slice
from concurrent_nb.workers.protocol.channels import SlaveChannels, WorkerChannels
from concurrent_nb.workers.protocol.records import (
    LARGE_BYTES,
    AddSegment,
    ClusterAt,
    ForgetFunctions,
    LoadFunction,
    RecordReader,
    ReleaseSlices,
    RemoveSegments,
    Results,
    RunTasks,
    WorkerRecord,
    decode_worker_record,
    encode,
    pack,
    unpack_unsent,
)
from concurrent_nb.workers.protocol.stacks import StackFile
from concurrent_nb.workers.protocol.status_page import StatusPage
from concurrent_nb.workers.slave_side.attempts import Attempt, Buffer
from concurrent_nb.workers.slave_side.note_framing import NoteFraming
from concurrent_nb.workers.slave_side.output_capture import OutputCapture

#: most buffers in one call of sendmsg; the system's limit is 1024
CHUNKS_MAX: Final = 64
#: most tokens that are in the pipe at once, with room to spare
TOKENS_MAX: Final = 4096
#: most functions that a worker keeps; the least recently used one is dropped
FUNCTIONS_MAX: Final = 128
#: this many bytes of a long record count as progress
PROGRESS_BYTES: Final = 64 * 1024
#: most segments of shared memory that a worker may have; each takes a descriptor
SEGMENTS_MAX: Final = 4096
#: lines in the slave's log that a worker may cause within a minute; further ones are counted
LOG_LINES_MAX: Final = 20
#: larger send buffer, so that a pack ahead does not wait for the slave
SEND_BUFFER_BYTES: Final = 1024 * 1024


class WorkerConnection:
    """The connection to the worker of this number, or to the main thread of a process of threads.

    Args:
        limit_bytes: most bytes that a task may write to a pipe of its output.
        result_bytes_max: most bytes of a result that travel through the socket.
        process: number of the process that the worker is a thread of; 0: it has one of its own, of its own number.
    """

    def __init__(
        self, worker: int, channels: SlaveChannels, limit_bytes: int, result_bytes_max: int = 1 << 62, process: int = 0
    ) -> None:
        self.worker = worker
        self.process = process or worker
        self.pid = 0
        self.was_killed = False  #: by the pool, because it was dismissed, has closed its connection or is broken
        self.is_broken = False  #: it violated the protocol: nothing more is read from it, and it is killed
        self.is_ready = False  #: it has reported that it is ready for tasks
        self.progress_before = 0  #: what `progress` was when its page was last read
        self.log = LineLimit(LOG_LINES_MAX)
        self.notes = NoteFraming()  #: of the task that sends notes
        self.notes_ticket = 0  #: ... of this ticket
        self.is_held = False  #: nothing is read from it for now, because too many notes are in transit already
        self.socket = socket.socket(fileno=channels.tasks)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.page = StatusPage(channels.page)
        os.close(channels.page)
        self.stacks = StackFile(channels.stacks)
        self.outputs = (channels.out, channels.err)
        self.capture = OutputCapture(self.page, self.outputs, limit_bytes)
        self._fds: tuple[int, ...] = (
            channels.tokens,
            channels.tokens_back,
            channels.parent_death_pipe,
            channels.out,
            channels.err,
        )
        self._tokens, self._tokens_back = channels.tokens, channels.tokens_back
        self._has_closed_tokens = False
        self._epoch = 0
        self._reader = RecordReader(
            decode_worker_record,
            buffer_bytes_max=result_bytes_max,
            over_limit=" (setting SlaveNode.result_mib; where memory is shared, results do not travel through here)",
        )
        self._sent_bytes = self._received_bytes = self._records = 0
        self._outgoing: deque[memoryview] = deque()
        self._functions: OrderedDict[bytes, None] = OrderedDict()
        self._segments: set[bytes] = set()  # of shared memory, that were sent to it
        self._cluster: ClusterAt | None = None  # that was sent to it
        self.own_segments: dict[bytes, int] = {}  #: segments of its own, and their sizes

    # ------------------------------------------------------------------------------------------------------- out

    @property
    def wants_to_send(self) -> bool:
        """Return whether bytes wait until the socket can take them."""
        return bool(self._outgoing)

    def has_function(self, function: bytes) -> bool:
        """Return whether the worker has this function, and mark it as used."""
        if function not in self._functions:
            return False
        self._functions.move_to_end(function)
        return True

    def has_segment(self, segment: bytes) -> bool:
        """Return whether this segment was sent to the worker."""
        return segment in self._segments

    def show_cluster(self, cluster: ClusterAt) -> None:
        """Send where the cluster is, unless the worker knows it."""
        if cluster is not self._cluster:
            self._cluster = cluster
            self._put(encode(cluster), ())

    def add_segment(self, segment: AddSegment) -> None:
        """Send how a segment of shared memory is opened. Must come before the first slice of it."""
        self._segments.add(segment.segment)
        self._put(encode(segment), ())

    def remove_segments(self, segments: Iterable[bytes]) -> None:
        """Send that nothing refers to these any more."""
        known = [segment for segment in segments if segment in self._segments]
        self._segments.difference_update(known)
        if known:
            self._put(encode(RemoveSegments(known)), ())

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Send that results have been taken from these slices of the worker's own memory."""
        self._put(encode(ReleaseSlices(list(slices), clean)), ())

    def load_function(self, function: bytes, body: Buffer, buffers: Sequence[Buffer | Slice]) -> None:
        """Send a function; drop the least recently used one if there are too many."""
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

    def forget_functions(self, functions: Sequence[bytes]) -> None:
        """Let the worker forget functions."""
        known = [function for function in functions if function in self._functions]
        for function in known:
            del self._functions[function]
        if known:
            self._put(encode(ForgetFunctions(known)), ())

    def run_tasks(self, function: bytes, attempts: Sequence[Attempt], threads: int = 0) -> None:
        """Send a pack of tasks, and a token for each. `threads`: how many libraries may use; 0: no change."""
        tasks = [(it.ticket, it.body, it.sizes, it.index, it.kind) for it in attempts]
        buffers = [buffer for attempt in attempts for buffer in attempt.buffers]
        first = attempts[0]
        self._put(encode(RunTasks(function, self._epoch, tasks, threads, first.job, first.behind)), buffers)
        with contextlib.suppress(BrokenPipeError):  # it died, which is about to be noticed
            os.write(self._tokens, bytes([self._epoch]) * len(tasks))

    def recall(self) -> int:
        """Read back all tokens that the worker has not used; return how many."""
        try:
            count = len(os.read(self._tokens_back, TOKENS_MAX))
        except BlockingIOError:
            return 0
        # The worker has the tasks already: it skips those of an epoch that gets no more tokens.
        self._epoch = (self._epoch + 1) % 256
        return count

    def close_tokens(self) -> None:
        """Let the worker end when its running task has ended. A second call changes nothing."""
        if self._has_closed_tokens:
            return
        self._has_closed_tokens = True
        for fd in (self._tokens, self._tokens_back):
            os.close(fd)
        self._fds = self._fds[2:]

    def open_thread(self, channels: WorkerChannels) -> None:
        """Let the process start a thread that is a worker with these channels. They stay open here."""
        with contextlib.suppress(ConnectionError):  # it died, which is about to be noticed
            socket.send_fds(self.socket, [b"\0"], list(channels))

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

    def receive(self, most_bytes: int) -> Iterator[tuple[Results | WorkerRecord, list[memoryview]]]:
        """Yield the worker's records. Raises ConnectionError at the stream's end, ProtocolError for invalid ones."""
        while most_bytes > 0:
            try:
                received = self.socket.recv_into(self._reader.get_buffer())
            except BlockingIOError:
                return
            if not received:
                raise ConnectionError("closed its connection")
            self._received_bytes += received
            most_bytes -= received
            records = self._reader.buffer_updated(received)
            self._records += len(records)
            yield from records

    @property
    def progress(self) -> int:
        """Return a number that grows with each received record, and with each part of a long one either way."""
        return self._records + self._received_bytes // PROGRESS_BYTES + self._sent_bytes // PROGRESS_BYTES

    def unsent(self) -> Results:
        """Return the results in the page. Some may come again through the socket.

        Raises ProtocolError for invalid ones.
        """
        results = unpack_unsent(*self.page.unsent())
        if results.buffer_sizes():
            raise ProtocolError("has a result in its status page that announces buffers")
        return results

    def close(self) -> None:
        """Close everything; the kernel kills what is left of the worker's process group."""
        self.socket.close()
        self.page.close()
        self.stacks.close()
        for fd in self._fds:
            os.close(fd)


def _size_of(buffer: Buffer) -> int:
    return memoryview(buffer).nbytes
