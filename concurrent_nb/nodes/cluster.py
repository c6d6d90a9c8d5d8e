"""A whole cluster on this machine: a master process and a slave process, gone when their owner is.

Each node holds one end of a pipe (its standard input) whose other end only the owner has. When the owner closes it, or
dies in whatever way, the node reads end-of-file and leaves; the slave takes its workers along. Nothing else is needed
to leave no process behind, and no process is searched for by name. A slave that is to leave in peace is told so by a
line on that pipe: it begins nothing more, and goes when what runs has ended.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from concurrent_nb.errors import (
    ClusterError,
    ClusterStartFailed,
    ConcurrentError,
    ConfigurationError,
    InitializerFailed,
)
from concurrent_nb.ids import AUTHKEY_VARIABLE, DRAIN, INITIALIZER_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.common.exit_codes import NOT_INITIALIZED, REFUSED
from concurrent_nb.nodes.common.restarts import restart_workers
from concurrent_nb.shipping.environment.envelope import always_in_envelope
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import pickled_call
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.taken_names import refuse_taken
from concurrent_nb.workers.slave_side.machine import cores

#: a node that has not come up by then has failed
START_TIMEOUT_S: Final = 30.0
#: a node that was let go and is still here after this long is told once more, and after LEAVE_TIMEOUT_S it is killed
REMIND_AFTER_S: Final = 1.0
LEAVE_TIMEOUT_S: Final = 3.0
#: a slave that dies this often within RESTART_WINDOW_S is not started again
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 30.0


@dataclass(eq=False, slots=True)
class _SlaveProcess:
    workers: int
    process: "subprocess.Popen[str]"
    leaves: bool = False  #: because there are to be fewer workers: it goes when what runs there has ended
    supervisor: threading.Thread | None = None


class Cluster:
    """A cluster on this machine, embedded in this process.

    >>> with concurrent_nb.Cluster(workers=2) as cluster:               # doctest: +SKIP
    ...     list(cluster.application().map(abs, range(-3, 0)))
    [3, 2, 1]

    Leaving the block ends the cluster, and what has not ended is cancelled: ask for results inside of it, or have
    `with cluster.application() as app` there, which waits for the tasks unless an exception leaves it.

    Args:
        workers: worker processes; None takes one for each core that this process may use.
        name: under which others on this machine `connect`; None for a cluster that nobody else looks for.
        config: configuration of the nodes, {"MasterNode": {"strategy": "PushBest"}, ...}.
        initializer: called as `initializer(*initargs)` in each worker process before its first task. Globals that it
            assigns (`global model`) are found by tasks, whatever they are here. If it raises an error, open futures and
            what is submitted later end with InitializerFailed, a BrokenExecutor.
        max_tasks_per_worker: tasks that a worker process runs before a fresh one takes its place; None: no limit. A
            chunk that you have asked for (`chunksize`, `batch`) is one task, and tasks in threads are not counted.
        log: file to which the nodes' logs are appended; None for one that is gone with the cluster.

    Raises ConfigurationError for arguments that make no sense, and at the start for a name that a running cluster has;
    NotPicklable for an initializer that cannot travel; ClusterStartFailed if a node does not come up.
    """

    def __init__(
        self,
        workers: int | None = None,
        name: str | None = None,
        config: dict[str, dict[str, Any]] | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_worker: int | None = None,
        log: Path | str | None = None,
    ) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ConfigurationError(f"workers is {workers!r}, it must be a whole number of at least 1")
        self.name = connection_file.check_name(name or f"embedded-{os.getpid()}-{secrets.token_hex(4)}")
        self.connection_file: Path | None = None  #: once it has started
        self._config = {key: dict(value) for key, value in (config or {}).items()}
        if workers is not None:
            self._config.setdefault("SlaveNode", {})["workers"] = workers
        if max_tasks_per_worker is not None:
            limit = max_tasks_per_worker
            if type(limit) is not int or limit < 1:
                raise ConfigurationError(
                    f"max_tasks_per_worker is {limit!r}, it must be a whole number of at least 1, or None"
                )
            self._config.setdefault("SlaveNode", {})["max_tasks_per_worker"] = limit
        self._initializer_pickle = b"" if initializer is None else _pickled_initializer(initializer, initargs)
        self._initializer: Any = None  # a file without a name, from which workers read that
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._master: subprocess.Popen[str] | None = None
        self._slaves: list[_SlaveProcess] = []
        self._scaling = threading.Lock()
        self._applications: list[ApplicationNode] = []  # the last one, and those that were shut down and have tasks yet
        self._joining = threading.Lock()
        self._keys = keys.fresh()
        self._epoch = 0  # of our master
        self._failure: ClusterStartFailed | None = None  # why there is no slave any more
        self._at_exit: Any = None
        self._log_path = log
        self._log: Any = None

    # -------------------------------------------------------------------------------------------------- start and end

    def start(self) -> Self:
        """Start the nodes and return when the master answers; the slave joins at its own pace."""
        if self._closing.is_set():
            raise ClusterError(f"cluster {self.name!r} has been closed: make another one")
        if self._master is not None:
            raise ClusterError(f"cluster {self.name!r} has been started already")
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ClusterError(
                "multiprocessing imports this script in a child process, where it would start a cluster again, and so"
                ' on: put what starts it under `if __name__ == "__main__":`'
            )
        refuse_taken(self.name)
        self._log = self._open_log()
        if self._initializer_pickle:
            self._initializer = tempfile.TemporaryFile()  # noqa: SIM115  (so is this)
            self._initializer.write(self._initializer_pickle)
            self._initializer.flush()
        try:
            self._master = self._spawn("master", self.name)
            first = self._add_slave()  # it warms up while the master does
            self.connection_file = self._await_master()
            self._epoch = connection_file.read(self.connection_file).epoch
            self._begin(first)
        except BaseException:
            self.close()
            raise
        reference = weakref.ref(self)

        def close_at_exit() -> None:
            alive = reference()
            if alive is not None:
                alive.close()

        self._at_exit = atexit.register(close_at_exit)
        return self

    def close(self) -> None:
        """End the cluster: its applications, its nodes, its workers. Does nothing if it has ended."""
        if os.getpid() != self._pid or self._closing.is_set():
            return
        self._closing.set()
        for application in self._applications:
            application.close()
        with self._scaling:
            slaves = list(self._slaves)
        _end([*(slave.process for slave in slaves), *([self._master] if self._master is not None else [])])
        if self.connection_file is not None:
            with contextlib.suppress(ConcurrentError):  # a master that was killed has left its file
                connection_file.remove(self.connection_file, self._epoch)
        for slave in slaves:
            if slave.supervisor is not None and slave.supervisor is not threading.current_thread():
                slave.supervisor.join()
        for file in (self._log, self._initializer):
            if file is not None:
                file.close()
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else "running" if self._master else "not started"
        return f"<Cluster {self.name} ({state})>"

    # -------------------------------------------------------------------------------------------------------- using it

    def application(self) -> ApplicationNode:
        """Return the application node of this process: an Executor. The same one each time, until it is shut down."""
        path = self._started()
        with self._joining:
            if not self._applications or self._applications[-1].is_closed:
                self._applications = [one for one in self._applications if not one._has_left]
                application = ApplicationNode(path, self._keys)
                if self._config.get("SlaveNode", {}).get("max_tasks_per_worker"):
                    application.default_chunksize = 1  # so that workers count what the user counts
                self._applications.append(application)
                if self._failure is not None:  # found out meanwhile
                    application._fail(self._failure)
            return self._applications[-1]

    def status(self) -> dict[str, Any]:
        """Ask the master what there is: slaves, clients, tasks."""
        info = connection_file.read(self._started())
        control = ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem)
        try:
            answer = control.call("status")
        finally:
            control.close()
        assert isinstance(answer, dict)
        return answer

    @property
    def workers(self) -> int:
        """Return how many worker processes there are, or soon will be."""
        with self._scaling:
            return sum(slave.workers for slave in self._staying())

    def scale(self, workers: int) -> None:
        """Have so many workers from now on. Returns at once; they come and go at their own pace.

        More workers come as one more slave. With fewer, the youngest slaves leave: what runs there may end, what has
        not started runs elsewhere. Raises ConfigurationError for a number below 1.
        """
        if type(workers) is not int or workers < 1:
            raise ConfigurationError(f"workers is {workers!r}, it must be a whole number of at least 1")
        self._started()
        with self._scaling:
            staying = self._staying()
            total = sum(slave.workers for slave in staying)
            leaving: list[_SlaveProcess] = []
            while total > workers:
                leaving.append(staying.pop())
                total -= leaving[-1].workers
            if total < workers:  # first, so that there is always somebody
                self._begin(self._add_slave(workers - total))
            for slave in leaving:
                slave.leaves = True
                _write_line(slave.process, DRAIN)

    def restart_workers(self, *, now: bool = False) -> int:
        """Have fresh processes in the place of all workers; return how many, when they are ready.

        What runs ends first, or with `now` is stopped and runs again; nothing fails, whosever it is.
        """
        return restart_workers(connection_file.read(self._started()), now=now).workers

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the master has ended, however it did. False after `timeout_s` seconds."""
        self._started()
        assert self._master is not None
        try:
            self._master.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def raise_if_failed(self) -> None:
        """Raise ClusterError, with the end of the log, if the cluster has ended and was not stopped."""
        self._started()
        assert self._master is not None
        if code := self._master.poll():
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            raise ClusterError(f"the master of cluster {self.name!r} {how}; its log ends:\n{self.log_tail()}")

    def log_tail(self, limit: int = 4000) -> str:
        """Return the end of what the nodes have logged."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - limit))
        text = self._log.read()
        assert isinstance(text, str)
        return text.strip()

    def _open_log(self) -> Any:
        if self._log_path is None:
            return tempfile.TemporaryFile("w+")  # unlinked, so nothing is left of it
        try:
            return open(self._log_path, "a+", errors="replace")
        except OSError as error:
            raise ConfigurationError(f"log {self._log_path} cannot be written: {error.strerror or error}") from None

    def _started(self) -> Path:
        if self.connection_file is None or self._closing.is_set():
            state = "has been closed" if self._closing.is_set() else "has not been started"
            raise ClusterError(f"cluster {self.name!r} {state}: use it as `with Cluster(...) as cluster:`")
        if self._failure is not None:
            raise self._failure
        return self.connection_file

    # ---------------------------------------------------------------------------------------------------- the processes

    def _staying(self) -> "list[_SlaveProcess]":
        return [slave for slave in self._slaves if not slave.leaves]

    def _add_slave(self, workers: int | None = None) -> "_SlaveProcess":
        """Start a slave of `workers`, or of as many as is configured; it waits to be told where the master is."""
        configured = self._config.get("SlaveNode", {}).get("workers", 0)
        count = workers or (configured if type(configured) is int and configured > 0 else cores())
        slave = _SlaveProcess(count, self._spawn("slave", workers=workers))
        self._slaves.append(slave)
        return slave

    def _begin(self, slave: "_SlaveProcess") -> None:
        """Let a slave join, and watch it."""
        _write_line(slave.process, str(self.connection_file))
        slave.supervisor = threading.Thread(
            target=self._supervise, args=(slave,), name=f"cluster {self.name}", daemon=True
        )
        slave.supervisor.start()

    def _spawn(self, role: str, *arguments: str, workers: int | None = None) -> "subprocess.Popen[str]":
        config = self._config
        if workers is not None:
            config = {**config, "SlaveNode": {**config.get("SlaveNode", {}), "workers": workers}}
        environment = dict(os.environ)
        inherited: tuple[int, ...] = ()
        if role == "slave":
            TRACKER.note()
            environment[SYS_PATH_VARIABLE] = json.dumps(sys.path)
            environment[AUTHKEY_VARIABLE] = bytes(multiprocessing.current_process().authkey).hex()
            if self._initializer is not None:
                inherited = (self._initializer.fileno(),)
                environment[INITIALIZER_VARIABLE] = str(inherited[0])
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "concurrent_nb.nodes", role, json.dumps(config), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if role == "master" else subprocess.DEVNULL,
            stderr=self._log,
            text=True,
            env=environment,
            pass_fds=inherited,
            start_new_session=True,  # an interrupt of the notebook is for the notebook
        )

    def _await_master(self) -> Path:
        """Wait for the line in which the master tells where its connection file is."""
        assert self._master is not None and self._master.stdout is not None
        lines: deque[str] = deque()
        reader = threading.Thread(target=lambda: lines.append(self._master.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        reader.join(START_TIMEOUT_S)
        if not lines or not lines[0].strip():
            state = "says nothing"
            if not reader.is_alive():
                refuse_taken(self.name, going_s=0.0)  # another one may have been quicker
                state = f"ended with exit code {self._master.wait(LEAVE_TIMEOUT_S)}"
            raise ClusterStartFailed(f"the master of cluster {self.name!r} {state}; its log ends:\n{self.log_tail()}")
        return Path(lines[0].strip())

    def _supervise(self, slave: "_SlaveProcess") -> None:
        """Start a slave again when it dies, unless it dies all the time."""
        deaths: deque[float] = deque(maxlen=RESTARTS)
        while True:
            assert self._master is not None
            slave.process.wait()
            with self._scaling:
                if slave.leaves:
                    _let_go(slave.process)
                    self._slaves.remove(slave)
                    return
            if self._closing.is_set() or self._master.poll() is not None:
                return
            deaths.append(time.monotonic())
            if (failure := self._failure_of(slave, deaths)) is not None:
                self._failure = failure
                for application in self._applications:
                    application._fail(failure)
                return
            with self._scaling:
                _let_go(slave.process)
                if self._closing.is_set():
                    return
                if slave not in self._staying():  # since a moment ago
                    self._slaves.remove(slave)
                    return
                slave.process = self._spawn("slave", workers=slave.workers)
                _write_line(slave.process, str(self.connection_file))

    def _failure_of(self, slave: "_SlaveProcess", deaths: "deque[float]") -> ClusterStartFailed | None:
        """Say why a slave that has ended is not started again; None if it is."""
        code = slave.process.returncode
        log = f"its log ends:\n{self.log_tail()}"
        if code == NOT_INITIALIZED:
            return InitializerFailed(f"the workers of cluster {self.name!r} cannot be initialized; {log}")
        if code == REFUSED:
            return ClusterStartFailed(f"the slave of cluster {self.name!r} does not start; {log}")
        if len(deaths) == RESTARTS and deaths[-1] - deaths[0] < RESTART_WINDOW_S:
            why = f"has died {RESTARTS} times in a row and is not started again"
            return ClusterStartFailed(f"the slave of cluster {self.name!r} {why}; {log}")
        return None


def _pickled_initializer(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    """Pickle what workers call before their first task. Raises ConfigurationError or NotPicklable."""
    if not callable(initializer):
        raise ConfigurationError(f"initializer is {initializer!r}, it must be a function or another callable")
    return always_in_envelope(TRACKER.current(), pickled_call(initializer, tuple(initargs)))


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _write_line(node: "subprocess.Popen[str]", line: str) -> None:
    assert node.stdin is not None
    try:
        node.stdin.write(line + "\n")
        node.stdin.flush()
    except BrokenPipeError:
        return  # it has died already; whoever waits for it will see that


def _let_go(node: "subprocess.Popen[str]") -> None:
    """Close the pipe that the node lives on."""
    for pipe in (node.stdin, node.stdout):
        if pipe is not None and not pipe.closed:
            try:
                pipe.close()
            except BrokenPipeError:
                continue


def _end(nodes: "list[subprocess.Popen[str]]") -> None:
    """Let nodes go, remind those that do not notice (a fork of ours may hold their pipes open), kill what is left."""
    for node in nodes:
        _let_go(node)
    let_go_at = time.monotonic()
    for patience_s, insist in ((REMIND_AFTER_S, subprocess.Popen.terminate), (LEAVE_TIMEOUT_S, subprocess.Popen.kill)):
        for node in nodes:
            try:
                node.wait(max(0.1, let_go_at + patience_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                insist(node)
    for node in nodes:
        node.wait()
