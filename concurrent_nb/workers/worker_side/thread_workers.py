"""The worker's end where tasks run in threads of one process: its main thread, and a seat for each of the others.

    slave --- a byte and the ends of a seat, through the process's socket ---> Seats.serve: one thread more, a Seat
          --- SIGINT --------------------------------------------------------> Seats.serve: asks each seat's page

A seat is to its slave a worker like any other: socket, tokens, page and output pipes of its own. Only its death is not
its own. No signal interrupts a thread, so the main thread does: it runs no task, and raises KeyboardInterrupt in the
thread whose task is to stop. That arrives with the next step of Python, so what waits in a system call or computes in
compiled code is stopped by the slave, which kills the process.

What a task prints by Python is written to its seat's pipes. Descriptors 1 and 2 are the process's: what C code and
child processes write there is nobody's, and ends in the slave's log.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final, TextIO, cast

from concurrent_nb.errors import ProtocolError
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.worker_side import process_setup
from concurrent_nb.workers.worker_side.task_loop import Runner, TaskLoop

#: turns of a loop in which an exception that is on its way to this thread has certainly come
_TURNS: Final = 100


class ThreadStream:
    """A standard stream of which each thread may have its own. All others share the process's."""

    def __init__(self, common: TextIO) -> None:
        self._common = common
        self._own = threading.local()

    def use(self, stream: TextIO) -> None:
        """Let this thread have that stream."""
        self._own.stream = stream

    def _stream(self) -> TextIO:
        return cast(TextIO, getattr(self._own, "stream", self._common))

    def write(self, text: str) -> int:
        """Write to this thread's stream."""
        return self._stream().write(text)

    def flush(self) -> None:
        """Flush this thread's stream."""
        self._stream().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


class ThreadWorker(TaskLoop):
    """Serve a slave in the thread that makes it.

    Args:
        ends: its own.
        out, err: the process's streams.
    """

    def __init__(self, ends: WorkerChannels, runner: Runner, out: ThreadStream, err: ThreadStream) -> None:
        self._thread_streams = (out, err)
        self._lock = threading.Lock()  # whoever interrupts us is another thread
        self._ident = threading.get_ident()
        super().__init__(ends, runner)
        os.close(ends.parent_death_pipe)  # the process's is enough
        self._streams = cast(tuple[TextIO, TextIO], self._thread_streams)
        self._remake_streams()

    def interrupt(self) -> None:
        """Interrupt the task that runs, if it is to stop. For the main thread."""
        with self._lock:
            if self._is_hit():
                error = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), error)

    def close(self) -> None:
        """Let the slave know that this seat serves no more."""
        self._socket.close()

    # -------------------------------------------------------------------------------- what is different in a thread

    def _prepare(self) -> None:
        """Leave signals to the main thread."""

    def _disarm(self) -> None:
        """Let nothing interrupt us from now on; what is on its way is let come, as it cannot be taken back."""
        with self._lock:
            self._armed = 0
        if self._interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                for _ in range(_TURNS):
                    pass

    def _on_fork(self) -> None:
        super()._on_fork()
        self._lock = threading.Lock()  # the main thread may have held it, and is not here

    def _note_strangers(self) -> None:
        """Know none: each thread that sends notes here is this one."""

    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._ident

    def _hold_back(self) -> None:
        with self._lock:
            self._holds_back = True

    def _hold_back_no_more(self) -> None:
        with self._lock:
            super()._hold_back_no_more()

    def _remake_streams(self) -> None:
        for place, stream in enumerate(self._thread_streams):
            stream.use(process_setup.stream_to(self._pipes[place]))
        sys.stdout, sys.stderr = self._streams

    def _tidy(self) -> None:
        """Leave alone what belongs to the process: others are at work."""


class ThreadWorkerProcess:
    """The main thread of a process whose tasks run in threads.

    Args:
        ends: of the process.
        make: makes a seat in the thread that it is called in, from its ends and the process's streams.
    """

    def __init__(
        self, ends: WorkerChannels, make: Callable[[WorkerChannels, ThreadStream, ThreadStream], ThreadWorker]
    ) -> None:
        self._socket = socket.socket(fileno=ends.tasks)
        self._tokens = ends.tokens
        self._make = make
        self._out, self._err = ThreadStream(sys.stdout), ThreadStream(sys.stderr)
        self._threads = 0
        self._seats: list[ThreadWorker] = []
        self._wake, self._woken = os.pipe()
        for fd in (self._wake, self._woken):
            os.set_blocking(fd, False)

    def serve(self) -> None:
        """Open seats and interrupt their tasks, until the slave wants no more and all seats are closed.

        Raises OSError if the slave is gone.
        """
        sys.stdout, sys.stderr = cast(TextIO, self._out), cast(TextIO, self._err)
        signal.signal(signal.SIGINT, lambda number, frame: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        poll = select.poll()
        for fd in (self._wake, self._socket.fileno(), self._tokens):
            poll.register(fd, select.POLLIN)
        is_wanted = True
        while is_wanted or self._threads:
            ready = dict(poll.poll())
            if self._wake in ready:
                self._threads -= os.read(self._wake, 4096).count(b"\0")
                for seat in list(self._seats):
                    seat.interrupt()
            if self._socket.fileno() in ready:
                self._open()
            if self._tokens in ready:  # no token ever comes, only the pipe's end
                is_wanted = False
                poll.unregister(self._tokens)

    def _open(self) -> None:
        """Start the thread of a seat."""
        said, fds, _, _ = socket.recv_fds(self._socket, 1, len(WorkerChannels._fields))
        if not said or len(fds) < len(WorkerChannels._fields):
            raise ConnectionError("the slave has closed its end" if not said else "too many open files for a thread")
        self._threads += 1
        threading.Thread(target=self._sit, args=(WorkerChannels(*fds),), name="tasks", daemon=True).start()

    def _sit(self, ends: WorkerChannels) -> None:
        seat: ThreadWorker | None = None
        try:
            seat = self._make(ends, self._out, self._err)
            self._seats.append(seat)
            seat.serve()
        except (OSError, ProtocolError) as error:
            self._err.write(f"thread of worker ends: {error}\n")
        except BaseException:  # noqa: BLE001  (a thread has nobody who could catch it; the slave's log has the details)
            traceback.print_exc(file=cast(TextIO, self._err))
        finally:
            if seat is None:
                ends.close()
            else:
                self._seats.remove(seat)
                seat.close()
            os.write(self._woken, b"\0")
