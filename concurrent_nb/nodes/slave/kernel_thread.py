"""The slave's side of its kernel: a thread in which it runs, and what passes between that thread and the slave's loop.

    slave's loop --turn--> KernelHost --thread--> threaded_kernel (imports IPython)
                 <--wake-- (opened, ended, a cell's question)

A slave makes one when it is first asked for its kernel. Imports nothing of Jupyter itself, so that a slave can say what
is missing; the thread does, so that the slave's loop goes on meanwhile.
"""

import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb.errors import ClusterError, ConcurrentError, KernelUnavailable
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.wire.messages import KernelAccess

if TYPE_CHECKING:
    from concurrent_nb.nodes.slave.threaded_kernel import ThreadedKernel

log = logging.getLogger(__name__)

#: a kernel whose cell does not end when it is interrupted is left behind after this time, and ends with the process
LEAVE_WITHIN_S: Final = 0.7
#: a cell that asks about the slave waits so long at most
ANSWER_WITHIN_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"


class KernelHost:
    """At most one kernel at a time, opened when it is asked for, and again after a client has shut it down.

    Args:
        describe: tells what the slave is and does; called on the slave's thread only.
        master_ip: where the master is, as this machine reaches it.
    """

    def __init__(self, describe: Callable[[], dict[str, Any]], master_ip: str) -> None:
        self.wake = Wakeup()
        self._describe = describe
        self._master_ip = master_ip
        self._access: KernelAccess | None = None  # set and cleared by the kernel's thread
        self._is_elsewhere = False
        self._questions: deque[Future[dict[str, Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._kernel: ThreadedKernel | None = None
        self._error = ""
        self._ended = False
        self._closing = False

    def is_open(self, access: KernelAccess | None) -> None:
        """Have a kernel that is not ours to start: this process is one. None if it does not listen on TCP."""
        self._access, self._is_elsewhere = access, True

    # ------------------------------------------------------------------------------------------ on the slave's thread

    def turn(self, core: SlaveCore) -> None:
        """Do what there is to do: answer cells and the master, start the kernel."""
        self.wake.clear()
        while self._questions:
            question = self._questions.popleft()
            if question.set_running_or_notify_cancel():
                question.set_result(self._describe())
        if self._thread is not None and self._ended:
            self._thread.join()
            self._thread = None
            if self._error and core.kernel_requests:
                core.kernel_opened(None, self._error)
        if not core.kernel_requests:
            return
        access = self._access
        if access is not None:
            core.kernel_opened(access)
        elif self._is_elsewhere:
            core.kernel_opened(None, "it is one already, on a transport of one machine: use that kernel's own file")
        elif self._thread is None:
            self._start()

    def close(self) -> None:
        """End the kernel with the slave. Waits a moment only: a cell may hold on."""
        self._closing = True
        kernel, thread = self._kernel, self._thread
        if thread is not None:
            if kernel is not None:
                kernel.stop()
            thread.join(LEAVE_WITHIN_S)
            if thread.is_alive():
                if kernel is not None:
                    kernel.take_file_away()
                log.warning("a cell of this slave's kernel does not end: it is left behind")
        for question in self._questions:
            question.cancel()
        self.wake.close()

    def _start(self) -> None:
        self._error, self._ended = "", False
        self._thread = threading.Thread(target=self._run, name="slave kernel", daemon=True)
        # A debugger that stops all threads at a breakpoint must leave the one that serves tasks alone.
        spare_from_debugger(threading.current_thread())
        self._thread.start()

    # ----------------------------------------------------------------------------------------- on the kernel's thread

    def _run(self) -> None:
        try:
            self._run_kernel()
        except ImportError as error:
            self._error = missing(error)
        except ConcurrentError as error:
            self._error = str(error)
        except BaseException as error:
            log.exception("the slave's kernel has failed")
            self._error = f"it has failed: {type(error).__name__}: {error}; the slave's log has the details"
        finally:
            self._access = None
            self._kernel = None
            self._ended = True
            self.wake.set()

    def _run_kernel(self) -> None:
        listen_on = kernel_ip(self._master_ip)
        # here: importing IPython takes a second, which this thread has
        from concurrent_nb.nodes.slave.threaded_kernel import ThreadedKernel

        kernel = ThreadedKernel(listen_on, self.ask, self._forget)
        try:
            kernel.open()
            self._kernel, self._access = kernel, kernel.access
            self.wake.set()
            if not self._closing:
                kernel.run()
        finally:
            kernel.close()

    def _forget(self) -> None:
        """Whoever asks from now on gets another kernel."""
        self._access = None

    def ask(self) -> dict[str, Any]:
        """Ask the slave what it is and does. For the cells of its kernel. Raises ClusterError if it does not answer."""
        question: Future[dict[str, Any]] = Future()
        self._questions.append(question)
        self.wake.set()
        try:
            return question.result(ANSWER_WITHIN_S)
        except TimeoutError:
            question.cancel()
            raise ClusterError("the slave does not answer: it looks for its master") from None


def spare_from_debugger(thread: threading.Thread) -> None:
    """Mark a thread as one that debugpy neither traces nor stops."""
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]


def missing(error: ImportError) -> str:
    """Say what to install where a module of Jupyter cannot be imported."""
    where = f"{socket.gethostname()} ({sys.executable}, pid {os.getpid()})"
    return f"{error}. On {where}: pip install 'concurrent-nb[notebook]', or ipykernel 7 or newer"


def kernel_ip(master_ip: str) -> str:
    """Give the address for the kernel to listen on: loopback if the master is there, else ours on the way to it."""
    address = ip_address(master_ip)
    if address.is_loopback:
        return LOOPBACK
    if address.version == 6:
        raise KernelUnavailable("Jupyter's clients cannot reach a kernel over IPv6: have the master listen on IPv4 too")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master_ip, 9))  # sends nothing, but tells which of our addresses would
        return str(probe.getsockname()[0])
