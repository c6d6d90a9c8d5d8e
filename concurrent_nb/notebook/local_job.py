"""`--local`: run the tasks of a cell in this process, one after another, with the same results as on a cluster.

Used by the magics. Everything that would be sent is pickled and unpickled, so that what fails on a cluster fails here:
each task works on copies; a hit of `--until` or a failed task ends the job. Differences: tasks run on the main thread
(the debugger and input() work), `--timeout` has no effect, and the only worker is this process.
"""

import builtins
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from concurrent_nb import Job, TaskFuture
from concurrent_nb.errors import NotPicklable, ResultNotPicklable
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.functions.pickled_functions import Functions, opened
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.serialization import pickles, random_streams
from concurrent_nb.shipping.serialization.refusals import describe_arguments


class LocalJob(Job):
    """A job whose tasks run in `wait`."""

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        printer: Printer,
        *,
        name: str = "",
        stop_on_error: bool = False,
        retries: int = 0,
        watched: bool = False,
    ) -> None:
        super().__init__(new_job_id(), name, self._cancel_job, watched)
        pickled = Functions().pickle(function, spawns=True)
        self._function, self._made = random_streams.loaded(lambda: opened(pickled))
        self._calls = [_pack(call) for call in calls]
        self._printer = printer
        self._stop_on_error = stop_on_error
        self._retries = retries
        self._next = 0
        self.futures = [TaskFuture(self.id, index, self._cancel_job, self) for index in range(len(calls))]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Run tasks until all have ended, or until the first end of a task after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._next < len(self.futures):
            future = self.futures[self._next]
            self._next += 1
            if not future.cancelled():
                self._run(future)
            if deadline is not None and time.monotonic() > deadline:
                break
        return super().wait(0)

    def _cancel_job(self, job: JobId, indexes: Sequence[int] | None) -> None:
        for future in self.futures if indexes is None else ():
            future.end_cancelled()

    def _run(self, future: TaskFuture) -> None:
        future.worker = os.getpid()
        future.set_running_or_notify_cancel()
        self._task_started(future.index)
        for attempt in range(1, self._retries + 2):
            future.attempt = attempt
            try:
                index = future.index
                with self._tagged(index), self._receiving_notes(index), self._random_numbers(index):
                    value = self._function(*_unpack(self._calls[index]))
                future.status = Status.HIT if isinstance(value, Hit) else Status.OK
                result = _copied(value.value if isinstance(value, Hit) else value, future)
            except KeyboardInterrupt:
                raise  # the stop button: the caller of `wait` cancels the job
            except BaseException as error:  # noqa: BLE001  (user code: the error is the result of the task)
                failure = error
                continue
            future.end(result, None)
            break
        else:
            future.status = Status.ERROR
            future.end(None, failure)
        if self.hit is not None or (self._stop_on_error and self.first_error is not None):
            self._cancel_job(self.id, None)

    @contextmanager
    def _receiving_notes(self, index: int) -> Iterator[None]:
        """Receive the notes of a task."""
        reader = notes.NoteReader()
        notes.SINK.open(lambda data: self._task_noted(index, reader.feed(data)))
        before = getattr(builtins, "display", None)
        builtins.display = notes.display  # type: ignore[attr-defined]
        try:
            yield
        finally:
            builtins.display = before  # type: ignore[attr-defined]
            notes.SINK.close()

    @contextmanager
    def _random_numbers(self, index: int) -> Iterator[None]:
        """Give a task its own streams of random numbers."""
        drawing = random_streams.drawing()
        drawing.job, drawing.made = self.id, self._made
        drawing.begin(index)
        try:
            yield
        finally:
            drawing.end()

    @contextmanager
    def _tagged(self, index: int) -> Iterator[None]:
        """Prefix the output of a task with its number, if there are several tasks."""
        if len(self.futures) == 1:
            yield
            return
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Tagged(index, number, self._printer, streams[number - 1]) for number in (1, 2))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            self._printer.finish([index])


class _Tagged:
    """A text stream that writes to a Printer; all other attributes are those of the stream that it replaces."""

    def __init__(self, index: int, number: int, printer: Printer, stream: TextIO) -> None:
        self._index = index
        self._number = number
        self._printer = printer
        self._stream = stream

    def write(self, text: str) -> int:
        self._printer.show([(self._index, self._number, text)])
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _pack(call: tuple[Any, ...]) -> tuple[bytes, list[bytes]]:
    try:
        body, buffers = pickles.dumps(call)
    except Exception as error:  # an object's own pickling may raise anything
        culprit = describe_arguments(None, call, {}, error)
        raise NotPicklable(f"an argument from --for cannot be sent: {culprit}") from error
    return body, [bytes(buffer) for buffer in buffers]


def _unpack(packed: tuple[bytes, list[bytes]]) -> Any:
    body, buffers = packed
    return pickles.loads(body, [bytearray(buffer) for buffer in buffers])


def _copied(value: Any, future: TaskFuture) -> Any:
    """Return the value as it would arrive from a worker."""
    try:
        body, buffers = pickles.dumps(value)
    except Exception as error:  # an object's own pickling may raise anything
        what = f"{type(error).__name__}: {error}"
        message = f"task {future.task} returned a value that cannot be pickled ({what}): {value!r:.200}"
        raise ResultNotPicklable(message, future.task, future.slave, future.worker) from error
    return pickles.loads(body, [bytearray(buffer) for buffer in buffers])
