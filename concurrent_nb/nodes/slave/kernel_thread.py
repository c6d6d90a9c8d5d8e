"""The slave's kernel: the thread in which it runs, and the exchange between that thread and the slave's loop.

    slave's loop --turn--> KernelHost --thread--> threaded_kernel (imports IPython)
                 <--wake-- (opened, ended, a cell's query)

A slave makes a `KernelHost` at the first request for its kernel. This module imports nothing of Jupyter, so that a
slave without it can report what is missing. The thread imports it, while the slave's loop goes on.
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

#: a kernel whose cell does not end after an interrupt is abandoned after this time, and ends with the process
LEAVE_WITHIN_S: Final = 0.7
#: seconds for which a cell waits for the slave's status
ANSWER_WITHIN_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"


class KernelHost:
    """At most one kernel at a time, opened on request, and again after a client has shut it down.

    Args:
        describe: returns the slave's status; called on the slave's thread only.
        master_ip: address of the master.
    """

    def __init__(self, describe: Callable[[], dict[str, Any]], master_ip: str) -> None:
        self.wake = Wakeup()
        self._describe = describe
        self._master_ip = master_ip
        self._access: KernelAccess | None = None  # set and cleared by the kernel's thread
        self._runs_elsewhere = False
        self._questions: deque[Future[dict[str, Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._kernel: ThreadedKernel | None = None
        self._error = ""
        self._ended = False
        self._closing = False

    def use_running_kernel(self, access: KernelAccess | None) -> None:
        """Use the kernel that this process is, instead of opening one. None if it does not listen on TCP."""
        self._access, self._runs_elsewhere = access, True

    # ------------------------------------------------------------------------------------------ on the slave's thread

    def turn(self, core: SlaveCore) -> None:
        """Answer the queries of cells and the requests of the master; start the kernel if it is requested."""
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
        elif self._runs_elsewhere:
            core.kernel_opened(None, "it is one already, for its own machine only: use that kernel's own file")
        elif self._thread is None:
            self._start()

    def close(self) -> None:
        """End the kernel with the slave. Waits for at most LEAVE_WITHIN_S: a cell may not end."""
        self._closing = True
        kernel, thread = self._kernel, self._thread
        if thread is not None:
            if kernel is not None:
                kernel.stop()
            thread.join(LEAVE_WITHIN_S)
            if thread.is_alive():
                if kernel is not None:
                    kernel.remove_connection_file()
                log.warning("a cell of this slave's kernel does not end: it is abandoned")
        for question in self._questions:
            question.cancel()
        self.wake.close()

    def _start(self) -> None:
        self._error, self._ended = "", False
        self._thread = threading.Thread(target=self._run, name="slave kernel", daemon=True)
        # A debugger that stops all threads at a breakpoint must not stop the one that serves tasks.
        spare_from_debugger(threading.current_thread())
        self._thread.start()

    # ----------------------------------------------------------------------------------------- on the kernel's thread

    def _run(self) -> None:
        try:
            self._run_kernel()
        except ImportError as error:
            self._error = missing_dependency(error)
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
        """Let later requests get another kernel."""
        self._access = None

    def ask(self) -> dict[str, Any]:
        """Return the slave's status, for cells of its kernel. Raises ClusterError if the slave does not answer."""
        question: Future[dict[str, Any]] = Future()
        self._questions.append(question)
        self.wake.set()
        try:
            return question.result(ANSWER_WITHIN_S)
        except TimeoutError:
            question.cancel()
            raise ClusterError("the slave does not answer: it has lost its master and looks for it") from None


def spare_from_debugger(thread: threading.Thread) -> None:
    """Mark a thread as one that debugpy neither traces nor stops."""
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]


def missing_dependency(error: ImportError) -> str:
    """Return the message for a missing module of Jupyter, with what to install."""
    where = f"{socket.gethostname()} ({sys.executable}, pid {os.getpid()})"
    return f"{error}. On {where}: pip install 'concurrent-nb[notebook]', or ipykernel 7 or newer"


def kernel_ip(master_ip: str) -> str:
    """Return the address for the kernel to listen on: loopback if the master is there, else the one that reaches it."""
    address = ip_address(master_ip)
    if address.is_loopback:
        return LOOPBACK
    if address.version == 6:
        raise KernelUnavailable("Jupyter's clients cannot reach a kernel over IPv6: have the master listen on IPv4 too")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master_ip, 9))  # sends nothing, but selects the local address
        return str(probe.getsockname()[0])
