"""The slave process: receives runs of tasks from the master, feeds its workers, sends packed outcomes.

One thread with one poll loop around ComputeClient (ZeroMQ), Pool (worker processes) and SlaveLoop. Unpickles nothing.
"""

import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb.clock import monotonic
from concurrent_nb.components.config import BoolItem, FloatItem, IntItem
from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import AccessRefused, ClusterError, ClusterStartFailed, InitializerFailed, ProtocolError
from concurrent_nb.foreign import describe
from concurrent_nb.ids import DRAIN, INITIALIZER_VARIABLE
from concurrent_nb.nodes.common.garbage import search_rarely
from concurrent_nb.nodes.common.log_format import name_slave
from concurrent_nb.nodes.common.sections import check_sections_of_files
from concurrent_nb.nodes.common.session_loop import Verdict
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.settings import files as settings
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.poller import Poller, fd_of
from concurrent_nb.workers.protocol.records import ClusterAt
from concurrent_nb.workers.slave_side.freeze_watch import HUNG_DISK_S, STOPPED_S
from concurrent_nb.workers.slave_side.machine import cores, host_load, memory_bytes
from concurrent_nb.workers.slave_side.pool import Pool, make_launcher

if TYPE_CHECKING:
    from concurrent_nb.nodes.common.registration import Membership
    from concurrent_nb.nodes.slave.core import SlaveCore
    from concurrent_nb.nodes.slave.kernel_thread import KernelHost
    from concurrent_nb.nodes.slave.loop import SlavePool
    from concurrent_nb.nodes.slave.unacknowledged import Unacknowledged

log = logging.getLogger(__name__)

#: time between two attempts to reach a master
RETRY_S: Final = 0.5
#: so many sessions in a row may end with a breach of the protocol or an internal error; after each of them the slave
#: waits twice as long before it registers again
FAILED_SESSIONS_MAX: Final = 6
#: a session that has lasted so long starts a new row
GOOD_SESSION_S: Final = 60.0
#: descriptors that a slave needs for itself, and for each worker
OPEN_FILES: Final = 48
OPEN_FILES_PER_WORKER: Final = 9


#: where a slave finds out how to join: a connection file, which it reads again for each session, or the content of one
Source = Path | ConnectionFile


class SlaveSettings(Component):
    """Settings of a slave: number of workers, tasks that it accepts, how long it waits for a master."""

    section = "SlaveNode"

    workers = IntItem(0, min=0, max=1000, help="Worker processes; 0 means one for each core that this process may use.")
    credit_per_worker = IntItem(512, min=1, help="Unfinished tasks that the slave accepts for each worker.")
    grace_s = FloatItem(1.0, min=0.0, help="Seconds between the interrupt of a task and the kill of its worker.")
    max_tasks_per_worker = IntItem(0, min=0, help="A worker process is replaced after so many tasks; 0 means never.")
    spawn = BoolItem(False, help="Start each worker as a new interpreter instead of forking it from a warm one.")
    result_s = FloatItem(
        5.0,
        min=0.1,
        help="Seconds that the result of a task that has ended may take to come, while nothing comes of its worker;"
        " then the worker is broken and is killed, and the task runs again.",
    )
    stopped_s = FloatItem(
        STOPPED_S,
        min=0.0,
        help="Seconds for which a worker with a task, the process that starts workers, or a slave or master that the"
        " cluster has started may be stopped, as by SIGSTOP; then it is killed and replaced, which counts as a death of"
        " the task that ran; 0 means for ever.",
    )
    hung_disk_s = FloatItem(
        HUNG_DISK_S,
        min=0.0,
        help="The same for a process that waits for a disk or network file system without doing anything else; 0 means"
        " for ever.",
    )
    result_mib = IntItem(
        0,
        min=0,
        help="Most MiB of one result that go through the slave's memory, which they do where memory is not shared;"
        " 0 means half of this machine's memory.",
    )
    patience_s = FloatItem(60.0, min=0.0, help="Seconds to look for a master that has gone before the slave ends.")


class Slave:
    """A running slave.

    What only a member of a cluster needs is imported where it is used: the workers start before it is loaded.

    Args:
        config: its settings.
        where: returns the path of the connection file; called when the workers have begun to start.
        name: of the slave, which the master makes unique; "" for host and process id.
        lease: descriptor whose end of file ends the slave; None: none does.
        pool: its workers; None: processes of this machine, as `config` describes.
    """

    def __init__(
        self,
        config: SlaveSettings,
        where: Callable[[], Source],
        name: str,
        lease: int | None,
        pool: "SlavePool | None" = None,
    ) -> None:
        self._config = config
        self._where = where
        self._source: Source | None = None  # as soon as it is known
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._called = self._name  # the name that the master uses
        self._lease = lease
        self._parent = os.getppid()
        self._lease_line = b""  # the part of the next line that has arrived on the lease
        self._stopping = False
        self._draining = False
        self._kernel: KernelHost | None = None  # None until it is asked for
        self._keys = keys.fresh()
        self._slots = pool.usable_slots if pool is not None else config.workers or cores()
        self._failures = 0  # sessions in a row that have ended with an error
        self._retry_at = 0.0
        self._result_bytes_max = config.result_mib << 20 or memory_bytes() // 2
        self._pool: SlavePool = pool or _pool_of(config, self._slots, self._result_bytes_max)
        self._segments = SegmentReader()  # shared memory of our workers, which holds results
        self._polled: dict[int, int] = {}
        self._polled_version = -1
        # What a master with a journal has not acknowledged, and which run of which one: it may be started again.
        self._unacknowledged: Unacknowledged | None = None
        self._master: tuple[str, int] = ("", 0)

    def run(self, ready: Callable[[str], None] = lambda name: None) -> None:
        """Serve until the cluster is stopped, the lease ends, `stop` is called or the slave is drained.

        Leaves no process behind.

        Raises MasterUnreachable, AccessRefused or VersionMismatch if it cannot join, ClusterError if it joins again and
        again and each session ends with an error.
        """
        self._pool.start(monotonic())  # workers start while the slave registers
        try:
            membership: Membership | None = self._join()
            while membership is not None and not self._stopping:
                self._called = membership.name
                name_slave(membership.name)
                ready(membership.name)
                again = self._serve(membership)
                membership = self._rejoin() if again else None
        finally:
            self._pool.close()
            self._segments.close()
            if self._kernel is not None:
                self._kernel.close()

    @property
    def is_drained(self) -> bool:
        """Return whether this slave was asked to leave when its running tasks have ended."""
        return self._draining

    def stop(self) -> None:
        """End `run` soon. For signal handlers and other threads."""
        self._stopping = True
        if self._kernel is not None:
            self._kernel.wake.set()

    def be_kernel(self, kernel: "KernelHost") -> None:
        """Use this kernel from the start. Must be called before `run`."""
        self._kernel = kernel

    def describe(self) -> dict[str, Any]:
        """Return facts about the slave for the cells of its kernel. May be called on the slave's own thread only."""
        return {
            "name": self._called,
            "connection_file": str(self._source) if isinstance(self._source, Path) else "",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "workers": self._slots,
            "unfinished": self._pool.unfinished,
        }

    # --------------------------------------------------------------------------------------------------------- joining

    def _join(self) -> "Membership":
        # Here: the workers already start while these are loaded.
        from concurrent_nb.nodes.common.registration import register
        from concurrent_nb.nodes.slave.loop import credit_of  # here, too

        if self._source is None:  # asked once, because the owner answers once
            self._source = self._where()
        info = connection_file.read(self._source)
        credit = credit_of(self._slots, self._config.credit_per_worker)
        return register(info, "slave", self._keys, name=self._name, slots=self._slots, credit=credit, cores=cores())

    def _rejoin(self) -> "Membership | None":
        """Register again, for `patience_s` at most; None if that fails, or if this slave is to end."""
        deadline = monotonic() + self._config.patience_s
        while not (self._stopping or self._lease_over() or self._draining):
            if monotonic() < self._retry_at:
                self._pass_time(min(RETRY_S, max(0.0, self._retry_at - monotonic())))
                continue
            try:
                return self._join()
            except (ClusterError, ProtocolError, AccessRefused, OSError) as error:
                if monotonic() >= deadline:
                    log.error("no master for %.0f s, the slave ends: %s", self._config.patience_s, error)
                    return None
                self._pass_time(RETRY_S)
        return None

    def _pass_time(self, seconds: float) -> None:
        """Wait; workers that have tasks of a master with a journal go on meanwhile."""
        if self._unacknowledged is None:
            time.sleep(seconds)
            return
        until_s = monotonic() + seconds
        while not self._stopping and (left_s := until_s - monotonic()) > 0:
            self._polled, waiter = self._pool.fds(), select.poll()
            for fd, events in self._polled.items():
                waiter.register(fd, events)
            due_s = self._pool.next_deadline()
            wait_s = left_s if due_s is None else min(left_s, max(0.0, due_s - monotonic()))
            self._turn_pool(dict(waiter.poll(wait_s * 1000)), monotonic())

    def _lease_over(self) -> bool:
        """Return whether the lease has ended; read the owner's commands from it."""
        if self._lease is None:
            return False
        if os.getppid() != self._parent:  # a process that the owner forked may hold the other end open
            return True
        poll = select.poll()
        poll.register(self._lease, select.POLLIN)
        if not poll.poll(0):
            return False
        received = os.read(self._lease, 4096)
        *lines, self._lease_line = (self._lease_line + received).split(b"\n")
        self._draining = self._draining or DRAIN.encode() in lines
        return not received

    # --------------------------------------------------------------------------------------------------------- serving

    def _serve(self, membership: "Membership") -> bool:
        """Serve in one session. True to register again, False to end."""
        from concurrent_nb.nodes.slave.core import SlaveCore  # here: the workers already start while it is loaded

        store = ObjectStore() if is_available() else None
        resumes = self._unacknowledged is not None
        if resumes and (membership.journal != self._master[0] or membership.epoch == self._master[1]):
            resumes = False
            self._forget_tasks()
        self._master = membership.journal, membership.epoch
        if membership.journal and self._unacknowledged is None:
            from concurrent_nb.nodes.slave.unacknowledged import Unacknowledged  # here, too

            self._unacknowledged = Unacknowledged()
        core = SlaveCore(
            membership.name,
            membership.epoch,
            self._pool,
            membership.interval_s,
            self._segments,
            store,
            shares=membership.shares_memory,
            host_load=host_load,
            result_bytes_max=min(self._result_bytes_max, membership.quota.object),
            unacknowledged=self._unacknowledged,
            resumes=resumes,
        )
        source = self._source
        assert source is not None
        where = str(source.absolute()) if isinstance(source, Path) else connection_file.in_one_line(source)
        self._pool.cluster = ClusterAt(where, membership.name)
        begun_at = monotonic()
        verdict, may_resume = Verdict.REJOIN, True
        try:
            verdict = self._take_turns(core, membership)
            if core.degraded:
                self._stopping = True
                if self._pool.initializer_failed:
                    raise InitializerFailed(core.degraded)
                raise ClusterStartFailed(f"slave {core.name!r} cannot keep workers alive: {core.degraded}")
        except ClusterStartFailed:
            raise
        except (ClusterError, AccessRefused) as error:
            log.warning("the session is over: %s", error)
        except Exception as error:
            may_resume = False
            is_nonsense = isinstance(error, ProtocolError)
            log.error("the session is over: %s", describe(error), exc_info=None if is_nonsense else error)
            self._session_failed(error, begun_at)
        finally:
            core.end()
            if not (membership.journal and may_resume and verdict is Verdict.REJOIN) or self._stopping:
                self._forget_tasks()
            if store is not None:
                store.close()
            membership.leave() if self._stopping or verdict is Verdict.LEAVE else membership.close()
        return verdict is Verdict.REJOIN

    def _forget_tasks(self) -> None:
        """Stop all tasks: no master asks for them any more."""
        self._pool.reset(monotonic())
        self._unacknowledged = None

    def _take_turns(self, core: "SlaveCore", membership: "Membership") -> Verdict:
        """Take turns until the session is over: REJOIN, LEAVE or END."""
        from concurrent_nb.nodes.slave.loop import SlaveLoop  # here: the workers already start while it is loaded

        link, monitor_fd = membership.link, fd_of(membership.link.monitor)
        loop = SlaveLoop(
            core,
            self._pool,
            self._turn_pool,
            link,
            membership.silence_s,
            self._config.credit_per_worker,
            self._slots,
            monotonic(),
        )
        waiter = Poller(link.socket)
        waiter.add(monitor_fd)
        link.disturbed()  # a monitor's descriptor becomes readable only after a first read
        if self._lease is not None:
            waiter.add(self._lease)
        if self._kernel is not None:
            waiter.add(self._kernel.wake.fileno())
        self._polled, self._polled_version = {}, -1
        while True:
            self._watch_pool(waiter)
            ready = waiter.wait(0.0 if self._stopping else max(0.0, loop.next_deadline() - monotonic()))
            if self._stopping:  # after each wait: workers that were ended together with this slave may have woken it
                return Verdict.LEAVE
            now = monotonic()
            if (self._lease in ready or not ready) and self._lease_over():
                return Verdict.END
            if self._draining and not loop.is_draining:
                loop.drain(now)
            verdict = loop.turn(ready, monitor_fd in ready and link.disturbed(), now)
            self._draining = self._draining or loop.is_draining
            if verdict is not Verdict.STAY and verdict is not Verdict.ASK:
                return verdict
            if self._kernel is not None or core.kernel_requests:
                self._turn_kernel(core, waiter, membership)
            if verdict is Verdict.ASK:
                if not membership.still_known():
                    return Verdict.REJOIN
                loop.confirmed(monotonic())

    def _session_failed(self, error: Exception, begun_at: float) -> None:
        """Count a session that has ended with an error. Raises ClusterError if there were too many in a row."""
        now = monotonic()
        self._failures = 1 if now - begun_at > GOOD_SESSION_S else self._failures + 1
        self._retry_at = now + RETRY_S * 2 ** (self._failures - 1)
        if self._failures > FAILED_SESSIONS_MAX:
            raise ClusterError(
                f"slave {self._called!r} gives up: {self._failures} sessions in a row have ended with an error, the"
                f" last one with {describe(error)}; its log has the details"
            ) from error

    def _turn_kernel(self, core: "SlaveCore", waiter: Poller, membership: "Membership") -> None:
        """Start the kernel when it is first asked for; exchange messages between it and the master."""
        if self._kernel is None:
            from concurrent_nb.nodes.slave.kernel_thread import KernelHost  # here, because most slaves never need it

            try:
                self._kernel = KernelHost(self.describe, membership.master_ip)
            except OSError as error:  # no more descriptors
                core.kernel_opened(None, f"it cannot be started: {error}")
                return
            waiter.add(self._kernel.wake.fileno())
        self._kernel.turn(core)

    def _watch_pool(self, waiter: Poller) -> None:
        """Poll the descriptors that the pool has now."""
        if self._pool.fds_version == self._polled_version:
            return
        self._polled_version = self._pool.fds_version
        wanted = self._pool.fds()
        for fd in self._polled.keys() - wanted.keys():
            waiter.remove(fd)
        for fd, events in wanted.items():
            if self._polled.get(fd) != events:
                waiter.add(fd, events)
        self._polled = wanted

    def _turn_pool(self, ready: Mapping[int, int], now: float) -> None:
        for fd, events in ready.items():
            if fd in self._polled:
                self._pool.ready(fd, events, now)
        self._pool.tick(now)


def _pool_of(config: SlaveSettings, slots: int, result_bytes_max: int) -> Pool:
    """Return a pool of worker processes of this machine."""
    check_open_files(slots)
    return Pool(
        slots,
        make_launcher("spawn" if config.spawn else "fork_server", slots),
        grace_s=config.grace_s,
        tasks_max=config.max_tasks_per_worker,
        initializes=INITIALIZER_VARIABLE in os.environ,
        result_s=config.result_s,
        result_bytes_max=result_bytes_max,
        stopped_s=config.stopped_s,
        hung_disk_s=config.hung_disk_s,
    )


def check_open_files(slots: int) -> None:
    """Raise ClusterStartFailed if the limit of open files is too low for so many workers."""
    limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], OPEN_FILES + slots * OPEN_FILES_PER_WORKER
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise ClusterStartFailed(
            f"a slave with {slots} workers needs {needed} open files and may have {limit}: raise the hard limit"
            " (`ulimit -Hn`), or have fewer workers (SlaveNode.workers)"
        )


def make_slave(
    overrides: dict[str, dict[str, Any]], where: Callable[[], Source], name: str = "", lease: int | None = None
) -> Slave:
    """Return a slave with this configuration; see `run_slave`. Nothing runs yet."""
    manager = ComponentManager(settings.load(overrides))
    if lease is None:  # else its owner has started a master, too, which checks them
        check_sections_of_files(manager.config.keys() - overrides.keys())
    manager.load([SlaveSettings])
    return Slave(manager.get(SlaveSettings), where, name, lease)


def run_slave(
    overrides: dict[str, dict[str, Any]],
    where: Callable[[], Source],
    name: str = "",
    lease: int | None = None,
    ready: Callable[[str], None] = lambda name: None,
) -> bool:
    """Run a slave in this process until its cluster is stopped. Returns whether it was drained before that.

    Args:
        overrides: configuration that takes precedence over the files.
        where: returns the path of the connection file, or its content, of which then no file is needed; called when
            the workers have begun to start.
        name: of the slave, which the master makes unique; "" for host and process id.
        lease: descriptor whose end of file ends the slave.
        ready: called with the slave's name each time it has joined.

    Raises ClusterNotFound, MasterUnreachable, AccessRefused or VersionMismatch if it cannot join.
    """
    slave = make_slave(overrides, where, name, lease)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: slave.stop())
    search_rarely()
    slave.run(ready)
    return slave.is_drained
