"""A Jupyter kernel in a thread of a slave, opened on demand. Importing this module imports IPython.

`kernel_thread` runs a `ThreadedKernel` beside the slave's loop.
"""

import asyncio
import atexit
import contextlib
import ctypes
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from concurrent_nb.errors import KernelUnavailable
from concurrent_nb.nodes.common.kernel_access import connection_info
from concurrent_nb.nodes.common.kernel_file import file_for
from concurrent_nb.transport import keys, private_files
from concurrent_nb.wire.messages import KernelAccess

EXTENSION: Final = "concurrent_nb"


class SlaveView:
    """The variable `slave` in the cells of a slave's kernel. Read-only; each access queries the slave."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self._ask = ask

    def status(self) -> dict[str, Any]:
        """Return the slave's status: name, host, workers, unfinished tasks."""
        return self._ask()

    @property
    def name(self) -> str:
        """The slave's name."""
        return str(self._ask()["name"])

    @property
    def unfinished(self) -> int:
        """How many unfinished tasks the slave has."""
        return int(self._ask()["unfinished"])

    def __repr__(self) -> str:
        status = self._ask()
        return f"<slave {status['name']}: {status['workers']} workers, {status['unfinished']} tasks unfinished>"


class ThreadedKernel:
    """A kernel in the thread that calls `open`, `run` and `close`; other threads may call `stop`.

    Args:
        ip: the address to listen on.
        ask: returns the slave's status.
        ending: called when the kernel begins to end.
    """

    def __init__(self, ip: str, ask: Callable[[], dict[str, Any]], ending: Callable[[], None]) -> None:
        self._ip = ip
        self._ask = ask
        self._ending = ending
        self._app: ThreadKernelApp | None = None
        self._path: Path | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.access: KernelAccess | None = None

    def open(self) -> None:
        """Open a kernel that listens, and write its connection file. Raises KernelUnavailable."""
        if InteractiveShell.initialized():
            raise KernelUnavailable("this process runs another Jupyter kernel already")
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        pair = keys.fresh()
        app = self._app = ThreadKernelApp.instance(config=_config(str(self._ask()["connection_file"])), ip=self._ip)
        app.curve_publickey, app.curve_secretkey = pair
        app.opened = self._opened
        app.initialize([])
        assert app.shell is not None
        app.shell.push({"slave": SlaveView(self._ask)})
        app.kernel.ending = self._ending
        app.kernel.start()

    def run(self) -> None:
        """Serve clients until one of them shuts the kernel down, or `stop` is called."""
        assert self._app is not None and self._loop is not None
        kernel = self._app.kernel
        while not kernel.has_ended:
            # An interrupt that comes too late for its cell may be raised in the loop, which goes on.
            with contextlib.suppress(KeyboardInterrupt):
                self._loop.run_forever()

    def stop(self) -> None:
        """End `run` soon, and interrupt the running cell."""
        if self._app is not None and self._app.kernel is not None:
            self._app.kernel.end()

    def close(self) -> None:
        """Undo all that `open` has changed in this process."""
        app, self._app = self._app, None
        self.remove_connection_file()
        if app is not None:
            _tear_down(app)
        if self._loop is not None:
            asyncio.set_event_loop(None)
            self._loop.close()

    def remove_connection_file(self) -> None:
        """Remove the connection file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _opened(self, app: IPKernelApp) -> str:
        self.access = access_of_app(app)
        self._path = file_for(self.access)
        private_files.make_folder(self._path.parent)
        private_files.replace_private(self._path, msgspec.json.encode(connection_info(self.access)))
        return str(self._path)


class _Interrupts:
    """Interrupts the cell that runs on one thread. A signal cannot: signals are for the main thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._running = False
        self._raised = False
        self._awaited: asyncio.Future[Any] | None = None

    @contextlib.contextmanager
    def cell(self) -> Iterator[None]:
        """Let the code inside be interrupted."""
        with self._lock:
            self._running, self._raised = True, False
        try:
            yield
        finally:
            with self._lock:
                self._running, self._awaited = False, None
            if self._raised:
                _absorb_interrupt()

    @contextlib.contextmanager
    def awaiting(self, future: "asyncio.Future[Any]") -> Iterator[None]:
        """Let the first interrupt cancel a cell that awaits."""
        with self._lock:
            self._awaited = future
        yield

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell: as soon as it runs Python code, so not inside `time.sleep`."""
        with self._lock:
            future, self._awaited = self._awaited, None
            if future is not None:
                future.get_loop().call_soon_threadsafe(future.cancel)
            elif self._running:
                self._raised = True
                error = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), error)


def _absorb_interrupt() -> None:
    """Let a pending KeyboardInterrupt be raised here, and ignore it.

    Python's way to revoke one leaves a flag that slows the process down, and makes Python 3.11 loop for ever once a
    debugger traces.
    """
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(100):
            pass


class ThreadIPythonKernel(IPythonKernel):
    """A kernel that shares its process: it handles no signals, and its end ends nothing else."""

    has_ended = False  #: no client is served any more
    ending: Callable[[], None] = staticmethod(lambda: None)  #: called, maybe twice, when the kernel begins to end
    #: where debugpy listens in this process, which it does once, for all kernels that follow each other
    debugpy_port: ClassVar[Any] = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._interrupts = _Interrupts()
        if self.debugpy_port is not None:
            self.debugger.debugpy_client.debugpy_port = self.debugpy_port
            self.debugger.debugpy_initialized = True

    def keep_debugger(self) -> None:
        """Leave debugpy to the next kernel."""
        debugger = getattr(self, "debugger", None)
        if debugger is not None and debugger.debugpy_initialized:
            type(self).debugpy_port = debugger.debugpy_client.debugpy_port

    def end(self) -> None:
        """End the kernel and its running cell. For any thread."""
        self.has_ended = True
        self.ending()
        self._interrupts.interrupt()
        self.io_loop.add_callback(self.io_loop.stop)

    def pre_handler_hook(self) -> None:
        """Leave the process's signals alone."""

    def post_handler_hook(self) -> None:
        """Leave the process's signals alone."""

    def _cancel_on_sigint(self, future: "asyncio.Future[Any]") -> Any:
        return self._interrupts.awaiting(future)

    async def do_execute(self, *args: Any, cell_meta: Any = None, cell_id: Any = None, **kwargs: Any) -> Any:
        """Run a cell so that it can be interrupted."""
        if threading.current_thread() is not self.shell_channel_thread.parent_thread:  # a subshell
            return await super().do_execute(*args, cell_meta=cell_meta, cell_id=cell_id, **kwargs)
        try:
            with self._interrupts.cell():
                return await super().do_execute(*args, cell_meta=cell_meta, cell_id=cell_id, **kwargs)
        except KeyboardInterrupt:  # it came when the cell had ended, and before it was absorbed
            error = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            return {**error, "execution_count": self.execution_count, "user_expressions": {}, "payload": []}

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Interrupt the cell, and not the process."""
        self._interrupts.interrupt()
        assert self.session is not None
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """End the kernel; the slave lives on."""
        assert self.session is not None
        self.ending()  # before any client knows: later requests must get the next kernel
        content = {"status": "ok", "restart": bool(parent["content"].get("restart"))}
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self.session.send(self.iopub_socket, "shutdown_reply", content, parent, ident=self._topic("shutdown"))
        self.end()


class ThreadKernelApp(IPKernelApp):
    """ipykernel's set-up, without its changes to the process, which is also a slave."""

    name = "concurrent-slave-kernel"
    kernel_class = Type(ThreadIPythonKernel)
    opened: Callable[[IPKernelApp], str]

    def init_crash_handler(self) -> None:
        """Leave sys.excepthook to the slave."""

    def init_signal(self) -> None:
        """Leave signals to the slave."""

    def init_poller(self) -> None:
        """Start no poller: the kernel lives as long as the slave, not as its parent process."""

    def init_connection_file(self) -> None:
        """Write no file before the ports are known."""

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write the file, for its owner alone, now that the ports are known."""
        self.connection_file = self.opened(self)


def _config(connection: str) -> Config:
    config = common_config(connection)
    config.IPKernelApp.capture_fd_output = False  # the descriptors are the slave's
    config.IPKernelApp.parent_handle = 1  # print nothing about Ctrl-C
    config.Session.key = secrets.token_hex(16).encode()
    config.HistoryManager.hist_file = ":memory:"
    return config


def common_config(connection: str) -> Config:
    """Return the configuration of a kernel in a slave of the cluster with this connection file."""
    config = Config()
    config.InteractiveShellApp.ignore_cwd = True  # no module of a working directory gets into the slave
    config.InteractiveShellApp.extra_extensions = [EXTENSION]
    config.ConcurrentMagics.connection = connection
    return config


def access_of_app(app: IPKernelApp) -> KernelAccess:
    """Return how a client reaches this kernel."""
    ports = {name: getattr(app, name) for name in KernelAccess.__struct_fields__ if name.endswith("_port")}
    public, secret = ((key or b"").decode() for key in (app.curve_publickey, app.curve_secretkey))
    return KernelAccess(
        ip=app.ip, **ports, key=app.session.key.decode(), curve_publickey=public, curve_secretkey=secret
    )


def _tear_down(app: IPKernelApp) -> None:
    """Undo the set-up of a kernel, so that the process can open another one."""
    shell: Any = InteractiveShell._instance
    for function in (app.close, app.cleanup_connection_file, getattr(shell, "atexit_operations", None)):
        if function is not None:
            atexit.unregister(function)
    with contextlib.ExitStack() as undo:  # each of these is called, even if others fail
        undo.callback(app.clear_instance)
        if app.kernel is not None:
            undo.callback(type(app.kernel).clear_instance)
        if shell is not None:
            undo.callback(type(shell).clear_instance)
            undo.callback(shell.restore_sys_module_state)
            undo.callback(shell.atexit_operations)
        undo.callback(app.close)
        if isinstance(app.kernel, ThreadIPythonKernel):
            undo.callback(app.kernel.keep_debugger)
        if shell is not None:
            undo.callback(shell.extension_manager.unload_extension, EXTENSION)
