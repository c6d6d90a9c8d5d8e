"""Workers that are threads of one process: the process's main thread, and a thread worker in each other thread.

    slave --- a byte and a worker's channels, through the process's socket --> ThreadWorkerProcess: a new ThreadWorker
          --- SIGINT --------------------------------------------------------> ThreadWorkerProcess: checks all pages

To its slave a thread worker is a worker like any other, with a socket, tokens, page and output pipes of its own, but
it dies with its process. Signals interrupt the main thread only. It runs no task, and raises KeyboardInterrupt in the
thread whose task is to stop. Python raises it at the next bytecode, so a task that waits in a system call or computes
in compiled code is stopped by the slave, which kills the process.

What a task prints by Python is written to its worker's pipes. Descriptors 1 and 2 belong to the process: what C code
and child processes write there belongs to no task, and goes to the slave's log.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, TextIO, cast

from concurrent_nb.errors import ProtocolError
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.worker_side import process_setup
from concurrent_nb.workers.worker_side.task_loop import Runner, TaskLoop

#: iterations of a loop during which a pending exception is certainly raised in this thread
_SPINS: Final = 100


class ThreadStream:
    """A standard stream that each thread may replace for itself. All other threads share the process's."""

    def __init__(self, common: TextIO) -> None:
        self._common = common
        self._own = threading.local()

    def use(self, stream: TextIO) -> None:
        """Set the stream of this thread."""
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
    """Serve a slave in the thread that creates it.

    Args:
        channels: of this worker.
        out, err: streams of the process.
    """

    def __init__(self, channels: WorkerChannels, runner: Runner, out: ThreadStream, err: ThreadStream) -> None:
        self._thread_streams = (out, err)
        self._lock = threading.Lock()  # another thread interrupts this one
        self._ident = threading.get_ident()
        super().__init__(channels, runner, time.thread_time)
        self._page.name_thread(threading.get_native_id())
        for fd in (channels.parent_death_pipe, channels.stacks):  # the process's are enough
            os.close(fd)
        self._streams = cast(tuple[TextIO, TextIO], self._thread_streams)
        self._reopen_streams()

    def interrupt(self) -> None:
        """Interrupt the running task, if it is to stop. Called in the main thread."""
        with self._lock:
            if self._take_interrupt():
                error = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), error)

    def close(self) -> None:
        """Close the socket, by which the slave notices that this worker has ended."""
        self._socket.close()

    # -------------------------------------------------------------------------------- differences in a thread

    def _prepare(self) -> None:
        """Leave signals to the main thread."""

    def _disarm(self) -> None:
        """Disable interrupts. A pending one cannot be revoked, so wait until it is raised."""
        with self._lock:
            self._armed = 0
        if self._interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                for _ in range(_SPINS):
                    pass

    def _on_fork(self) -> None:
        super()._on_fork()
        self._lock = threading.Lock()  # the main thread may have held it, and does not exist here

    def _note_foreign_threads(self) -> None:
        """Do nothing: only this thread sends notes here."""

    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._ident

    def _defer_interrupts(self) -> None:
        with self._lock:
            self._defers_interrupts = True

    def _resume_interrupts(self) -> None:
        with self._lock:
            super()._resume_interrupts()

    def _reopen_streams(self) -> None:
        for index, stream in enumerate(self._thread_streams):
            stream.use(process_setup.open_for_writing(self._pipes[index]))
        sys.stdout, sys.stderr = self._streams

    def _clean_up(self) -> None:
        """Do nothing: other threads use what belongs to the process."""


class ThreadWorkerProcess:
    """The main thread of a process whose tasks run in threads.

    Args:
        channels: of the process.
        make: creates the worker of the thread in which it is called, from its channels and the process's streams.
    """

    def __init__(
        self, channels: WorkerChannels, make: Callable[[WorkerChannels, ThreadStream, ThreadStream], ThreadWorker]
    ) -> None:
        self._socket = socket.socket(fileno=channels.tasks)
        self._tokens = channels.tokens
        self._make = make
        self._out, self._err = ThreadStream(sys.stdout), ThreadStream(sys.stderr)
        self._threads = 0
        self._workers: list[ThreadWorker] = []
        self._wake, self._woken = os.pipe()
        for fd in (self._wake, self._woken):
            os.set_blocking(fd, False)

    def serve(self) -> None:
        """Start workers and interrupt their tasks.

        Returns when the slave has closed the pipe of tokens and all workers have ended. Raises OSError if the slave has
        gone.
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
                for worker in list(self._workers):
                    worker.interrupt()
            if self._socket.fileno() in ready:
                self._open()
            if self._tokens in ready:  # no token is ever sent: the pipe was closed
                is_wanted = False
                poll.unregister(self._tokens)

    def _open(self) -> None:
        """Start the thread of a worker."""
        received, fds, _, _ = socket.recv_fds(self._socket, 1, len(WorkerChannels._fields))
        if not received or len(fds) < len(WorkerChannels._fields):
            raise ConnectionError(
                "the slave has closed its end" if not received else "too many open files for a thread"
            )
        self._threads += 1
        threading.Thread(target=self._run_worker, args=(WorkerChannels(*fds),), name="tasks", daemon=True).start()

    def _run_worker(self, channels: WorkerChannels) -> None:
        worker: ThreadWorker | None = None
        try:
            worker = self._make(channels, self._out, self._err)
            self._workers.append(worker)
            worker.serve()
        except (OSError, ProtocolError) as error:
            self._err.write(f"thread of worker ends: {error}\n")
        except BaseException:  # noqa: BLE001  (nothing could catch it; the slave's log has the details)
            traceback.print_exc(file=cast(TextIO, self._err))
        finally:
            if worker is None:
                channels.close()
            else:
                self._workers.remove(worker)
                worker.close()
            os.write(self._woken, b"\0")
