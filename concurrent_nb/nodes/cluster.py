"""A whole cluster on this machine: a master process and slave processes, which end with their owner.

Each node has one end of a pipe (its standard input), and only the owner has the other. When the owner closes it, or
dies in any way, the node reads end-of-file and ends; a slave ends its workers, too. Nothing else is needed to leave no
process behind. A slave that must leave gracefully gets a line on that pipe: it starts no more tasks, and ends when the
running ones have ended. The master writes to another pipe what admins want of the owner, which alone starts slaves.

With `on`, slaves are started elsewhere by a launcher (`launchers/`); the master is here all the same.
"""

import atexit
import contextlib
import logging
import math
import multiprocessing
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from concurrent_nb.errors import (
    ClusterError,
    ClusterStartFailed,
    ConcurrentError,
    ConfigurationError,
    InitializerFailed,
)
from concurrent_nb.ids import DRAIN
from concurrent_nb.nodes.cluster_log import ClusterLog
from concurrent_nb.nodes.common.child_processes import close_input, write_line
from concurrent_nb.nodes.common.exit_codes import DRAINED, NOT_INITIALIZED, REFUSED
from concurrent_nb.nodes.common.log_format import LOG_FORMATS, LogFormat
from concurrent_nb.nodes.common.owner_wishes import REFUSED_MAX, Adapt, Scale, Wish, WishAnswer, line_of
from concurrent_nb.nodes.common.restarts import restart_workers
from concurrent_nb.nodes.common.sections import check_sections
from concurrent_nb.nodes.common.start_report import CONFIGURED, JOINED
from concurrent_nb.nodes.common.wish_reader import WishReader
from concurrent_nb.nodes.master_restarts import MasterEnd, MasterRestarts
from concurrent_nb.nodes.node_processes import (
    KILL_AFTER_S,
    RESTARTS,
    RESTARTS_S,
    NodeStarter,
    SlaveProcess,
    end_nodes,
)
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.shipping.environment.envelope import always_in_envelope
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import pickled_call
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.master_identity import MasterIdentity, identity_of
from concurrent_nb.transport.taken_names import refuse_taken
from concurrent_nb.workers.slave_side.machine import cores

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.node import ApplicationNode
    from concurrent_nb.nodes.launchers.launched_slaves import LaunchedSlaves

log = logging.getLogger(__name__)

TRACKER.install()  # before the user imports modules that tasks will need

#: loaded while the nodes start: importing it takes as long as a node's start
_APPLICATION_MODULE: Final = "concurrent_nb.nodes.application.node"
#: a node that is not ready after this time has failed
START_TIMEOUT_S: Final = 30.0
#: seconds in which a master ends after its slaves when the cluster is stopped
MASTER_ENDS_S: Final = 1.0
#: seconds between two looks at whether the master lives, while a slave is awaited
JOIN_POLL_S: Final = 0.1


class Cluster:
    """A cluster on this machine: a master and worker processes, which end with this process at the latest.

    >>> with concurrent_nb.Cluster(workers=2) as cluster:
    ...     app = cluster.application()
    ...     print(list(app.map(abs, range(-3, 0))))
    [3, 2, 1]

    Leaving the block ends the cluster, and cancels what has not ended: ask for results in the block, or use `with
    cluster.application() as app` in it, which waits for the tasks unless an exception leaves it. `start` and `close` do
    the same without a block. With a `name`, other processes of this machine can `connect` to it.

    With `on`, a launcher starts the slaves, on other machines (`on="ssh:hostA,hostB:8"`) or, to try it, on this one:

    >>> with concurrent_nb.Cluster(on="local", slaves=2, workers=1) as cluster:
    ...     print(cluster.application().submit(pow, 2, 10).result())
    1024

    Args:
        workers: number of worker processes, with `on` of each slave; None: one for each core that they may use.
        name: under which others on this machine `connect`; None: a random one.
        config: configuration of the nodes, such as {"MasterNode": {"strategy": "push_best"}}.
        initializer: called as `initializer(*initargs)` in each worker process before its first task. Tasks find globals
            that it assigns (`global model`), whatever they are here. If it raises an error, open futures and later
            submits end with InitializerFailed, a BrokenExecutor.
        initargs: arguments of the initializer.
        max_tasks_per_worker: tasks that a worker process runs before a new one replaces it; None: no limit. A chunk
            or a batch whose size was given (`chunksize`, `batch`) counts as one task, tasks in threads are not counted.
        log: file to which the nodes' logs are appended; None: a temporary file.
        log_format: "text", or "json" for one JSON object per line.
        on: the launcher that starts slaves, and where: "ssh:hostA,hostB:8", "slurm", "command:...", "local".
        slaves: how many; None: the launcher's default, for "ssh" one on each host. Without `on` they are local.
        adapt: least and most slaves, whose number then follows the queue.
        restart_master: start the master again when it dies, as `concurrent-nb start` does. The connection file and its
            copies remain valid. Applications that find the new master within 5 seconds submit again what has no result
            yet; the others get MasterLost, and may connect again.
        options: configuration items of the launcher, such as `partition="short"`.

    Raises:
        ConfigurationError: an argument has a value that is not allowed, or `config` a section that does not exist; at
            the start, a running cluster has that name.
        NotPicklable: the initializer or its arguments cannot be sent.
        ClusterStartFailed: at the start, a node refuses its configuration, or has not come up within 30 seconds.
        LaunchFailed: at the start, the launcher finds that it cannot start slaves.
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
        log_format: LogFormat = "text",
        on: str | None = None,
        slaves: int | None = None,
        adapt: tuple[int, int] | None = None,
        restart_master: bool = False,
        **options: Any,
    ) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ConfigurationError(f"workers is {workers!r}, it must be a whole number of at least 1")
        self.name = connection_file.check_name(name or f"embedded-{os.getpid()}-{secrets.token_hex(4)}")
        self.connection_file: Path | None = None  #: None before it has started
        self._config = {key: dict(value) for key, value in (config or {}).items()}
        check_sections(self._config)
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
        self._starter: NodeStarter | None = None
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._master: subprocess.Popen[str] | None = None
        self._wishes: WishReader | None = None  # from the master
        self._restarts = MasterRestarts(RestartLimit(RESTARTS, RESTARTS_S)) if restart_master else None
        self._identity: MasterIdentity | None = None  # of the master, if it is started again when it dies
        self._master_lock = threading.Lock()  # held while a master is started, and when no more may be
        self._master_is_up = threading.Event()  # cleared from its death until the next one is ready
        self._master_is_over = threading.Event()  # it has ended for good
        self._watchers: list[threading.Thread] = []
        self._slaves: list[SlaveProcess] = []
        self._scaling_lock = threading.Lock()
        self._applications: list[
            ApplicationNode
        ] = []  # the last one, and those that are shut down and still have tasks
        self._application_lock = threading.Lock()
        self._keys = keys.fresh()
        self._epoch = 0  # of the master
        self._failure: ClusterStartFailed | None = None  # why no slave is started any more
        self._at_exit: Any = None
        if log_format not in LOG_FORMATS:
            raise ConfigurationError(f"log_format is {log_format!r}, it must be one of {', '.join(LOG_FORMATS)}")
        self._log_format = log_format
        self._log = ClusterLog(log)
        if on is None and options:
            name = next(iter(options))
            raise TypeError(f"Cluster() has no argument {name!r}; options of a launcher need on=, as in on='slurm'")
        self._launched: LaunchedSlaves | None = None  # None: its slaves are children of this process
        if on is not None or slaves is not None or adapt is not None:
            self._launched = self._make_launched("local" if on is None else on, slaves, adapt, options)

    # -------------------------------------------------------------------------------------------------- start and end

    def start(self) -> Self:
        """Start the nodes; return when the master answers and the slave has begun. The slave joins a moment later.

        Raises ClusterStartFailed, and ClusterError for a cluster that was started before.
        """
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
        self._log.open()
        self._starter = NodeStarter(self._config, self._log.file, self._log_format, self._initializer_pickle)
        try:
            if self._launched is not None:
                self._listen_for(self._launched)
                self._launched.begin_check()
            self._master, self._wishes = self._starter.master(self.name, keeps=self._restarts is not None)
            first = self._add_slave() if self._launched is None else None  # it starts while the master does
            import_module(_APPLICATION_MODULE)  # this process will need it, and has to wait anyhow
            self.connection_file = self._await_master()
            info = connection_file.read(self.connection_file)
            self._epoch = info.epoch
            if first is not None:
                self._await_configured(first)
                self._attach_slave(first)
            elif self._launched is not None:
                self._launched.finish_check()
                items = self._config.get("SlaveNode", {})
                self._launched.begin(info, items, self._initializer_pickle, self._log_format)
            assert self._wishes is not None
            if self._restarts is not None:
                self._identity = identity_of(self._wishes.first_line(START_TIMEOUT_S))
            self._wishes.serve(self._fulfil, f"cluster {self.name}")
            self._master_is_up.set()
            self._watch(self._watch_for_frozen)
            if self._restarts is not None:
                self._watch(self._supervise_master)
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
        """End the cluster with its applications, nodes and workers. Does nothing if it has ended."""
        if os.getpid() != self._pid or self._closing.is_set():
            return
        self._closing.set()
        for application in self._applications:
            application.close()
        with self._master_lock:  # none is started from here on
            is_starting = self._restarts is not None and bool(self._watchers) and not self._master_is_up.is_set()
        if is_starting and self._master is not None:
            self._master.kill()
            self._join_watchers()  # one of them waits until it is ready
        if self._wishes is not None:
            self._wishes.close()
        if self._launched is not None:
            self._launched.stop()
        with self._scaling_lock:
            slaves = list(self._slaves)
        nodes = [*(slave.process for slave in slaves), *([self._master] if self._master is not None else [])]
        end_nodes(nodes)
        self._join_watchers()
        if self._launched is not None:
            self._launched.close()
        if self.connection_file is not None:
            with contextlib.suppress(ConcurrentError):  # a killed master has left its file
                left = connection_file.read(self.connection_file)
                is_ours = self._identity is not None and left.master_key == self._identity.public_key
                connection_file.remove(self.connection_file, left.epoch if is_ours else self._epoch)
        for slave in slaves:
            if slave.supervisor is not None and slave.supervisor is not threading.current_thread():
                slave.supervisor.join()
        for slave in slaves:
            slave.report.close()
        self._log.close()
        if self._starter is not None:
            self._starter.close()
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

    def application(self) -> "ApplicationNode":
        """Return the application node of this process: an Executor. The same one until it is shut down."""
        from concurrent_nb.nodes.application.node import ApplicationNode  # here: it was loaded while the nodes started

        path = self._require_started()
        with self._application_lock:
            if not self._applications or self._applications[-1].is_closed:
                self._applications = [one for one in self._applications if not one._has_left]
                application = ApplicationNode(path, self._keys)
                if self._config.get("SlaveNode", {}).get("max_tasks_per_worker"):
                    application.default_chunksize = 1  # so that each task of the user counts as one
                self._applications.append(application)
                if self._failure is not None:  # set meanwhile
                    application._fail(self._failure)
            return self._applications[-1]

    def status(self) -> dict[str, Any]:
        """Return the cluster's slaves, applications (`clients`) and task counts. Raises MasterUnreachable."""
        info = connection_file.read(self._require_started())
        control = ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem)
        try:
            answer = control.call("status")
        finally:
            control.close()
        assert isinstance(answer, dict)
        return answer

    @property
    def workers(self) -> int:
        """The number of worker processes that run or are starting; with `on`, of the slaves that have joined."""
        if self._launched is not None:
            return self._launched.workers
        with self._scaling_lock:
            return sum(slave.workers for slave in self._remaining_slaves())

    def scale(self, workers: int | None = None, *, slaves: int | None = None) -> None:
        """Change the number of workers, or of slaves. Returns immediately; they come and go a moment later.

        More workers are added as one more slave, with `on` as as many slaves as have so many workers. If there are to
        be fewer, slaves leave: their running tasks end first, and those that have not started run elsewhere.

        Args:
            workers: the new number, at least 1.
            slaves: the new number of slaves, at least 1, instead; for clusters with `on`.

        Raises ConfigurationError for a number below 1, and if the workers of a slave are not known yet.
        """
        what, number = ("workers", workers) if slaves is None else ("slaves", slaves)
        if type(number) is not int or number < 1 or (workers is not None and slaves is not None):
            raise ConfigurationError(f"{what} is {number!r}, it must be a whole number of at least 1")
        if self._launched is not None:
            self._require_started()
            self._launched.scale(number if slaves is not None else self._launched.slaves_for(number))
            return
        if slaves is not None:
            raise ConfigurationError(
                f"cluster {self.name!r} has no launcher: scale its workers, or start it with Cluster(on='local')"
            )
        workers = number
        with self._scaling_lock:
            self._require_started()  # here: `close` stops the slaves that there are when it has the lock
            remaining = self._remaining_slaves()
            total = sum(slave.workers for slave in remaining)
            leaving: list[SlaveProcess] = []
            while total > workers:
                leaving.append(remaining.pop())
                total -= leaving[-1].workers
            if total < workers:  # first, so that there is always a slave
                self._attach_slave(self._add_slave(workers - total))
            for slave in leaving:
                slave.is_leaving = True
                write_line(slave.process, DRAIN)

    def adapt(self, least: int, most: int, *, wait_s: float = 30.0) -> None:
        """Have the number of slaves follow the queue from now on, until `scale`; for clusters with `on`.

        Args:
            least, most: numbers of slaves.
            wait_s: seconds for which fewer must have been needed before slaves leave.

        Raises ConfigurationError for numbers that are not in order, and for a cluster without a launcher.
        """
        from concurrent_nb.nodes.launchers.place import check_range  # here: most clusters have no launcher

        check_range(least, most)
        self._require_started()
        if self._launched is None:
            raise ConfigurationError(
                f"cluster {self.name!r} has no launcher, so its number of slaves does not follow the queue: start it"
                " with Cluster(on='local')"
            )
        self._launched.adapt(least, most, wait_s)

    def _restart_slave(self, name: str, host: str, pid: int) -> int:
        """Start a slave with as many workers as another one, which leaves; return how many.

        Raises ClusterError if the other one was not started here, or is leaving already.
        """
        if self._launched is not None:
            return self._launched.replace(name)
        with self._scaling_lock:
            self._require_started()
            found = [slave for slave in self._slaves if host == socket.gethostname() and slave.process.pid == pid]
            if not found:
                raise ClusterError(
                    f"slave {name!r} was not started by cluster {self.name!r} itself, so it can only be drained: start"
                    " another one where it ran, with `concurrent-nb slave`"
                )
            slave = found[0]
            if slave.is_leaving:
                raise ClusterError(f"slave {name!r} is leaving already: its running tasks end first")
            self._attach_slave(self._add_slave(slave.workers))  # first, so that there is always a slave
            slave.is_leaving = True
            write_line(slave.process, DRAIN)
            return slave.workers

    def _fulfil(self, wish: Wish) -> None:
        """Do what an admin has asked the master for, and answer it."""
        workers, refused = 0, ""
        try:
            if isinstance(wish, Scale) and wish.slaves:
                workers = self._slaves_wanted()
                self.scale(slaves=wish.slaves)
            elif isinstance(wish, Scale):
                workers = self.workers
                self.scale(wish.workers)
            elif isinstance(wish, Adapt):
                workers = self._slaves_wanted()
                self.adapt(wish.least, wish.most)
            else:
                workers = self._restart_slave(wish.slave, wish.host, wish.pid)
        except (ConcurrentError, OSError, RuntimeError) as error:  # no more processes or threads, for example
            refused = str(error)[:REFUSED_MAX] or type(error).__name__
        assert self._master is not None
        write_line(self._master, line_of(WishAnswer(wish.number, workers, refused)).decode().rstrip("\n"))

    def _slaves_wanted(self) -> int:
        return len(self._remaining_slaves()) if self._launched is None else self._launched.wanted

    def restart_workers(self, *, now: bool = False) -> int:
        """Replace all worker processes; return how many, when the new ones are ready.

        Running tasks end first, or with `now` are stopped and run again. No task of any application fails.
        """
        return restart_workers(connection_file.read(self._require_started()), now=now).workers

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the master has ended, in any way, and is not started again. Return False after `timeout_s`
        seconds.
        """
        if self._restarts is not None and self._failure is not None:
            return True
        self._require_started()
        if self._restarts is not None:
            return self._master_is_over.wait(timeout_s)
        assert self._master is not None
        try:
            self._master.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_for_slave(self, timeout_s: float | None = None) -> bool:
        """Wait until the master has registered a slave, so that tasks can run. `status` shows the slave a moment later.

        Return False after `timeout_s` seconds.

        Raises ClusterStartFailed if no slave can join, ClusterError if the master has ended.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._require_started()
            self.raise_if_failed()
            if self._launched is not None and self._launched.wait_joined(JOIN_POLL_S):
                self._require_started()  # it may have failed
                return True
            with self._scaling_lock:
                reports = [slave.report for slave in self._remaining_slaves()]
            for report in reports:
                report.wait(JOINED, JOIN_POLL_S / max(1, len(reports)))
                if report.has(JOINED):
                    return True
            if self.wait(0 if reports or self._launched is not None else JOIN_POLL_S):
                raise ClusterError(f"cluster {self.name!r} was stopped before a slave had joined")
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def queued(self) -> list[str]:
        """Return where the slaves are, if all of them have only waited in the queue of a batch system for 3 s; else [].

        Tasks can be submitted then, too: they wait for the slaves.
        """
        return [] if self._launched is None else self._launched.queued()

    def raise_if_failed(self) -> None:
        """Raise ClusterError, with the end of the log, if the master has ended with an error, and for good."""
        self._require_started()
        assert self._master is not None
        if self._restarts is not None and not self._master_is_over.is_set():
            return
        if code := self._master.poll():
            how = _how_it_ended(code)
            raise ClusterError(f"the master of cluster {self.name!r} {how}; {self._log.end_of('master')}")

    def log_tail(self, limit: int = 4000) -> str:
        """Return the last `limit` characters of the nodes' log."""
        return self._log.tail(limit)

    def _require_started(self) -> Path:
        if self.connection_file is None or self._closing.is_set():
            state = "has been closed" if self._closing.is_set() else "has not been started"
            raise ClusterError(f"cluster {self.name!r} {state}: use it as `with Cluster(...) as cluster:`")
        if self._failure is not None:
            raise self._failure
        return self.connection_file

    # -------------------------------------------------------------------------------------------- what dies and freezes

    def _watch(self, run: Callable[[], None]) -> None:
        self._watchers.append(threading.Thread(target=run, name=f"cluster {self.name} watch", daemon=True))
        self._watchers[-1].start()

    def _join_watchers(self) -> None:
        for watcher in self._watchers:
            if watcher is not threading.current_thread():
                watcher.join()

    def _supervise_master(self) -> None:
        """Start the master again when it dies, unless it dies too often."""
        assert self._restarts is not None
        while True:
            assert self._master is not None
            code = self._master.wait()
            self._master_is_up.clear()
            end = self._restarts.ended(code, time.monotonic())
            if self._closing.is_set() or end is not MasterEnd.AGAIN:
                break
            log.warning(
                "the master of cluster %s %s; another one is started. It knows no jobs: applications submit again what"
                " has no result yet, or get MasterLost",
                self.name,
                _how_it_ended(code),
            )
            if not self._start_master_again():
                break
        if not self._closing.is_set() and end is not MasterEnd.STOPPED:
            why = "does not start" if end is MasterEnd.REFUSED else "has died too often and is not started again"
            text = f"the master of cluster {self.name!r} {why}: it {_how_it_ended(code)}; {self._log.end_of('master')}"
            self._fail(ClusterStartFailed(text))
        self._master_is_over.set()

    def _start_master_again(self) -> bool:
        """Start another master at the same place. If it does not come up, it is killed, which counts as a death.

        Return False if this cluster closes.
        """
        assert self._starter is not None and self._wishes is not None
        with self._master_lock:
            if self._closing.is_set():
                return False
            assert self._master is not None
            self._wishes.close()
            close_input(self._master)
            self._master, self._wishes = self._starter.master(self.name, former=self._identity)
        path, identity = self._wishes.first_line(START_TIMEOUT_S), self._wishes.first_line(START_TIMEOUT_S)
        if not path or not identity:
            self._master.kill()
            return True
        self._identity = identity_of(identity)
        self._epoch = self._identity.epoch
        if self._launched is not None:
            self._launched.master_restarted()
        self._wishes.serve(self._fulfil, f"cluster {self.name}")
        self._master_is_up.set()
        return True

    def _has_ended(self) -> bool:
        """Return whether the master has ended for good."""
        assert self._master is not None
        if self._restarts is None:
            return self._master.poll() is not None
        return self._master_is_over.is_set() or self._master.poll() == 0

    def _watch_for_frozen(self) -> None:
        """Tell the user about nodes that are frozen, and kill them if they are started again then."""
        from concurrent_nb.workers.slave_side.freeze_watch import INTERVAL_S, FreezeWatch  # here: needed later
        from concurrent_nb.workers.slave_side.process_reading import ProcessReader  # here: with it

        if self._closing.wait(INTERVAL_S):
            return
        from concurrent_nb.settings import files as settings  # here: only now, not while the nodes start

        names = ("stopped_s", "hung_disk_s")
        items = {**settings.load({}).get("SlaveNode", {}), **self._config.get("SlaveNode", {})}
        watch, reader = FreezeWatch(**{name: float(items[name]) for name in names if name in items}), ProcessReader()
        while watch.interval_s < math.inf and not self._closing.wait(watch.interval_s):
            assert self._master is not None
            nodes = {slave.process.pid: ("slave", slave.process) for slave in tuple(self._slaves)}
            nodes[self._master.pid] = ("master", self._master)
            for frozen in watch.look(time.monotonic(), reader.read(nodes)):
                role, process = nodes[frozen.pid]
                is_killed = frozen.is_over and (role == "slave" or self._restarts is not None)
                then = "it is killed and started again" if is_killed else "nothing comes from it until it goes on"
                log.warning("%s %d of cluster %s %s: %s", role, frozen.pid, self.name, frozen, then)
                if is_killed:
                    process.kill()

    # ----------------------------------------------------------------------------------------------------- the launcher

    def _make_launched(
        self, on: str, slaves: int | None, adapt: tuple[int, int] | None, options: dict[str, Any]
    ) -> "LaunchedSlaves":
        from concurrent_nb.nodes.launchers.catalogue import choose_launcher  # here: most clusters have no launcher
        from concurrent_nb.nodes.launchers.launched_slaves import LaunchedSlaves  # here: with the others
        from concurrent_nb.nodes.launchers.place import check_range  # here: with the others

        if slaves is not None and (type(slaves) is not int or slaves < 1):
            raise ConfigurationError(f"slaves is {slaves!r}, it must be a whole number of at least 1")
        if adapt is not None:
            adapt = check_range(*adapt)
        items = {**self._config.get(choose_launcher(on).section, {}), **options}
        return LaunchedSlaves(self.name, on, items, slaves, adapt, self._fail)

    def _listen_for(self, launched: "LaunchedSlaves") -> None:
        """Have the master listen where the slaves of a launcher reach it, unless the user has configured addresses."""
        from concurrent_nb.settings import files as settings  # here: without a launcher only the nodes read them

        addresses = launched.addresses()
        own = self._config.setdefault("MasterNode", {})
        if addresses and "addresses" not in {**settings.load({}).get("MasterNode", {}), **own}:
            own["addresses"] = addresses

    def _fail(self, failure: ClusterStartFailed) -> None:
        """Have open futures and later calls end with a failure: no slave is started any more."""
        self._failure = failure
        for application in self._applications:
            application._fail(failure)

    # ---------------------------------------------------------------------------------------------------- the processes

    def _remaining_slaves(self) -> list[SlaveProcess]:
        return [slave for slave in self._slaves if not slave.is_leaving]

    def _add_slave(self, workers: int | None = None) -> SlaveProcess:
        """Start a slave with `workers`, or as many as configured; it waits for the path of the connection file."""
        configured = self._config.get("SlaveNode", {}).get("workers", 0)
        count = workers or (configured if type(configured) is int and configured > 0 else cores())
        assert self._starter is not None
        slave = SlaveProcess(count, *self._starter.slave(workers))
        self._slaves.append(slave)
        return slave

    def _attach_slave(self, slave: SlaveProcess) -> None:
        """Let a slave join, and supervise it."""
        write_line(slave.process, str(self.connection_file))
        slave.supervisor = threading.Thread(
            target=self._supervise, args=(slave,), name=f"cluster {self.name}", daemon=True
        )
        slave.supervisor.start()

    def _await_master(self) -> Path:
        """Wait until the master has written the path of its connection file, and return it."""
        assert self._master is not None and self._wishes is not None
        path = self._wishes.first_line(START_TIMEOUT_S)
        if not path:
            state = f"did not start within {START_TIMEOUT_S:g} s"
            if self._wishes.has_ended:
                refuse_taken(self.name, stopping_s=0.0)  # another cluster may have taken the name meanwhile
                state = f"ended with exit code {self._master.wait(KILL_AFTER_S)}"
            raise ClusterStartFailed(f"the master of cluster {self.name!r} {state}; {self._log.end_of('master')}")
        return Path(path)

    def _await_configured(self, slave: SlaveProcess) -> None:
        """Wait until a slave has accepted its configuration. Raises ClusterStartFailed if it has not."""
        state = f"did not begin within {START_TIMEOUT_S:g} s"
        if slave.report.wait(CONFIGURED, START_TIMEOUT_S):
            if slave.report.has(CONFIGURED):
                return
            state = f"ended with exit code {slave.process.wait(KILL_AFTER_S)}"
        raise ClusterStartFailed(f"the slave of cluster {self.name!r} {state}; {self._log.end_of('slave')}")

    def _supervise(self, slave: SlaveProcess) -> None:
        """Start a slave again when it dies, unless it dies too often."""
        while True:
            slave.process.wait()
            assert self._master is not None
            with self._scaling_lock:
                if slave.is_leaving or slave.process.returncode == DRAINED:  # `drain_slave` of the control channel
                    close_input(slave.process)
                    slave.report.close()
                    self._slaves.remove(slave)
                    return
            if slave.process.returncode == 0:  # as after a stop of the cluster, when the master is about to end, too
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._master.wait(MASTER_ENDS_S)
            while self._restarts is not None and not self._master_is_up.wait(JOIN_POLL_S):
                if self._closing.is_set() or self._has_ended():
                    return
            if self._closing.is_set() or self._has_ended():
                return
            if (failure := self._failure_of(slave, dies_too_often=slave.deaths.died(time.monotonic()))) is not None:
                self._fail(failure)
                return
            with self._scaling_lock:
                close_input(slave.process)
                slave.report.close()
                if self._closing.is_set():
                    return
                if slave not in self._remaining_slaves():  # it was asked to leave meanwhile
                    self._slaves.remove(slave)
                    return
                assert self._starter is not None
                slave.process, slave.report = self._starter.slave(slave.workers)
                write_line(slave.process, str(self.connection_file))

    def _failure_of(self, slave: SlaveProcess, *, dies_too_often: bool) -> ClusterStartFailed | None:
        """Return why a slave that has ended is not started again; None if it is."""
        code = slave.process.returncode
        log = self._log.end_of("slave")
        if code == NOT_INITIALIZED:
            return InitializerFailed(f"the workers of cluster {self.name!r} cannot be initialized; {log}")
        if code == REFUSED:
            return ClusterStartFailed(f"the slave of cluster {self.name!r} does not start; {log}")
        if dies_too_often:
            why = f"has died {slave.deaths.deaths + 1} times in a row and is not started again"
            return ClusterStartFailed(f"the slave of cluster {self.name!r} {why}; {log}")
        return None


def _pickled_initializer(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    """Pickle the call of an initializer. Raises ConfigurationError or NotPicklable."""
    if not callable(initializer):
        raise ConfigurationError(f"initializer is {initializer!r}, it must be a function or another callable")
    return always_in_envelope(TRACKER.current(), pickled_call(initializer, tuple(initargs)))


def _how_it_ended(code: int) -> str:
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
