"""A process that is both a Jupyter kernel and a slave; Jupyter starts it from the kernelspec `concurrent_slave`.

    python -m concurrent_nb.nodes.slave.kernel_process -f FILE     # with CONCURRENT_NB_CONNECTION in the environment

IPython runs on the main thread, as in any kernel, and the slave's loop on another one.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets import Type

from concurrent_nb.errors import ClusterError, ConcurrentError, ConfigurationError
from concurrent_nb.nodes.common.kernel_file import CONNECTION_VARIABLE
from concurrent_nb.nodes.slave.kernel_thread import LOOPBACK, KernelHost, spare_from_debugger
from concurrent_nb.nodes.slave.process import make_slave
from concurrent_nb.nodes.slave.threaded_kernel import SlaveView, access_of_app, common_config
from concurrent_nb.transport import connection_file

log = logging.getLogger(__name__)

#: seconds for which the kernel waits at its end until its slave has left
SLAVE_LEAVES_WITHIN_S: Final = 4.0


class SlaveIPythonKernel(IPythonKernel):
    """The kernel of such a process. Kernel and slave end together."""

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the slave first, with its workers, so that only processes that cells have started are left."""
        assert isinstance(self.parent, SlaveKernelApp)
        await asyncio.to_thread(self.parent.leave)
        content: dict[str, Any] = super().do_shutdown(restart)
        return content


class SlaveKernelApp(IPKernelApp):
    """The application that Jupyter starts from the kernelspec `concurrent_slave`."""

    name = "concurrent-slave"
    kernel_class = Type(SlaveIPythonKernel)
    leave: Callable[[], None]

    def init_sockets(self) -> None:
        """Raise ConfigurationError if the kernel would listen on a network without encryption."""
        if self.transport == "tcp" and not ip_address(self.ip).is_loopback and self.curve_secretkey is None:
            raise ConfigurationError(
                f"the kernel would listen on {self.ip} without encryption: start it with "
                "--KernelManager.transport_encryption=required"
            )
        super().init_sockets()


class SlaveKernelProcess:
    """Runs the kernel and the slave of this process.

    Args:
        where: the cluster to join: its name, or the path of its connection file.
    """

    def __init__(self, where: str) -> None:
        connection_file.read(where)  # before anything starts, because this is the most likely error
        path = connection_file.path_of(where)
        self._slave = make_slave({}, lambda: path)
        self._failure: ConcurrentError | None = None
        self._thread = threading.Thread(target=self._serve, name="slave", daemon=True)
        self._app = SlaveKernelApp.instance(config=common_config(str(path)))
        self._app.leave = self.leave
        self._loop = IOLoop.current()

    def run(self, arguments: Sequence[str]) -> None:
        """Run both until a client shuts the kernel down or the cluster is stopped. Raises the slave's error."""
        host = KernelHost(self._slave.describe, LOOPBACK)
        spare_from_debugger(self._thread)
        self._app.initialize(list(arguments))
        assert self._app.shell is not None
        self._app.shell.push({"slave": SlaveView(host.ask)})
        host.use_running_kernel(access_of_app(self._app) if self._app.transport == "tcp" else None)
        self._slave.be_kernel(host)
        signal.signal(signal.SIGTERM, lambda number, frame: self._loop.add_callback_from_signal(self._loop.stop))
        self._thread.start()
        try:
            self._app.start()
        finally:
            self.leave()
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """End the slave, and wait for it."""
        self._slave.stop()
        self._thread.join(SLAVE_LEAVES_WITHIN_S)

    def _serve(self) -> None:
        try:
            self._slave.run()
        except ConcurrentError as error:
            self._failure = error
        except BaseException:
            log.exception("the slave has failed")
            self._failure = ClusterError("the slave has failed: the log has the details")
        finally:
            self._loop.add_callback(self._loop.stop)
            # A running cell would keep the loop from running that; without one, a kernel ignores this signal.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def main(arguments: Sequence[str]) -> None:
    """Run the process that Jupyter has started from the kernelspec."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s slave %(levelname)s %(name)s: %(message)s")
    try:
        where = os.environ.get(CONNECTION_VARIABLE)
        if not where:
            raise ConfigurationError(
                f"the kernel concurrent_slave joins a cluster: set {CONNECTION_VARIABLE} to its name or to the path "
                "of its connection file"
            )
        SlaveKernelProcess(where).run(arguments)
    except ConcurrentError as error:
        sys.exit(f"the slave ends: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
