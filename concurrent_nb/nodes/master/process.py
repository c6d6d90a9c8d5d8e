"""The master process: registers nodes and assigns tasks. It never unpickles anything and never runs a user's code.

    main thread: Tornado's loop, the control channel (JSON-RPC over HTTP)  --asks-->  compute thread
    compute thread: MasterLoop, a poll loop around ComputeServer (ZeroMQ) and MasterCore

The main thread puts questions into a queue; only the compute thread touches the core.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from concurrent_nb.clock import monotonic
from concurrent_nb.components.config import BoolItem, ExtensionPointItem, FloatItem, IntItem, ListItem
from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import AccessRefused, ClusterError, ConfigurationError
from concurrent_nb.foreign import describe
from concurrent_nb.ids import SessionId, new_job_id, new_session_id
from concurrent_nb.nodes.common import descriptors
from concurrent_nb.nodes.common.garbage import search_rarely
from concurrent_nb.nodes.common.kernel_access import connection_info
from concurrent_nb.nodes.common.memory_return import trim_periodically
from concurrent_nb.nodes.common.process_identity import liveness_check
from concurrent_nb.nodes.common.registration import as_json, can_open, check_versions
from concurrent_nb.nodes.common.sections import check_sections_of_files
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.nodes.master.cluster_statistics import SAMPLE_TASKS
from concurrent_nb.nodes.master.cluster_statistics import sample as take_sample
from concurrent_nb.nodes.master.control_methods import ControlMethods, job_of, session_of
from concurrent_nb.nodes.master.core import KEPT_S, MasterCore
from concurrent_nb.nodes.master.detached_jobs import DetachedLimits
from concurrent_nb.nodes.master.journal_components import JOURNALS, IJournal
from concurrent_nb.nodes.master.journaled_identity import identity_in, store_identity
from concurrent_nb.nodes.master.live_feed import LiveFeed
from concurrent_nb.nodes.master.loop import MasterLoop
from concurrent_nb.nodes.master.metrics_source import MetricsSource
from concurrent_nb.nodes.master.owner import Owner, OwnerMethods
from concurrent_nb.nodes.master.peers import NodeInfo
from concurrent_nb.nodes.master.strategy_components import BUILT_IN, IStrategy, makers
from concurrent_nb.nodes.master.waiting_callers import WaitingCallers
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.rpc import Caller, Dispatcher, Registry, remote
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.scheduler_state import RESULTS_KEPT_BYTES
from concurrent_nb.settings import files as settings
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.addresses import is_loopback, own_addresses
from concurrent_nb.transport.compute import SILENT_S, ComputeServer
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.connections import SILENT_MAX
from concurrent_nb.transport.control_server import ConnectionLimits, ControlServer, WebPages
from concurrent_nb.transport.master_identity import MasterIdentity
from concurrent_nb.transport.page_handlers import LOGIN_PATH
from concurrent_nb.transport.poller import Poller, fd_of
from concurrent_nb.transport.taken_names import write_untaken
from concurrent_nb.transport.tls import TlsMaterial
from concurrent_nb.transport.web_files import read_files
from concurrent_nb.transport.web_sessions import WebSessions
from concurrent_nb.wire import messages as m

log = logging.getLogger(__name__)
T = TypeVar("T")

ROLES: Final = ("admin", "client", "slave")
ALL_ROLES: Final = list(ROLES)
#: most characters of a node's name
LABEL_MAX: Final = 100
#: free shared memory that is kept for the next contents from applications on other hosts, in bytes
RESIDENT_BYTES: Final = 32 * 1024 * 1024
#: the files of the web page
WEB_FILES: Final = Path(__file__).parents[2] / "web" / "static"
#: a node checks this often whether its parent process lives
PARENT_CHECK_S: Final = 1.0


#: what the master keeps of detached jobs unless it is configured otherwise
KEPT: Final = DetachedLimits()


class MasterSettings(Component):
    """Settings of a master: where it listens, its strategy, its intervals and limits."""

    section = "MasterNode"

    strategy = ExtensionPointItem(IStrategy, "PullRoundRobin", help="Which slave gets the next tasks.")
    addresses = ListItem(["127.0.0.1"], help="IP addresses to listen on. Beyond loopback the control channel uses TLS.")
    control_port = IntItem(0, min=0, max=65535, help="Port of the control channel; 0 takes a free one.")
    interval_s = FloatItem(1.0, min=0.01, help="Seconds between two heartbeats of a node.")
    suspect_after_s = FloatItem(3.0, min=0.01, help="A node that was silent for this many seconds gets no new tasks.")
    lost_after_s = FloatItem(
        5.0, min=0.01, help="A slave that was silent for this many seconds is lost: its tasks run elsewhere."
    )
    deaths_allowed = IntItem(3, min=1, help="A task is quarantined after this many deaths of its worker or slave.")
    results_kept_s = FloatItem(
        KEPT_S,
        min=0.0,
        help="Seconds for which the results of an application whose connection has broken are kept.",
    )
    results_kept_bytes = IntItem(
        RESULTS_KEPT_BYTES,
        min=0,
        help="Bytes of results that an application has not acknowledged, above which its tasks wait.",
    )
    unattended_jobs_s = FloatItem(
        KEPT.unattended_jobs_s,
        min=0.0,
        help="Seconds for which jobs go on whose application was killed, or whose kernel was restarted; 0: they are"
        " cancelled. Detached jobs go on in any case.",
    )
    detached_results_s = FloatItem(
        KEPT.results_s, min=0.0, help="Seconds for which results and output of a detached job are kept after its end."
    )
    detached_results_bytes = IntItem(
        KEPT.results_bytes,
        min=0,
        help="Bytes of results and output of detached jobs that are kept for one user; the oldest job goes first.",
    )
    clients = IntItem(DEFAULT.clients, min=1, help="Applications that may be registered at once.")
    tasks_per_client = IntItem(
        DEFAULT.tasks, min=1, help="Unanswered tasks of one application at the master; more wait in the application."
    )
    bytes_per_client = IntItem(
        DEFAULT.size_bytes,
        min=1024 * 1024,
        help="Bytes of arguments and functions kept for one application, and of the largest single one.",
    )
    segments_per_client = IntItem(
        DEFAULT.segments, min=1, help="Segments of shared memory of one application that the master has open."
    )
    object_bytes = IntItem(
        DEFAULT.object_bytes,
        min=1024 * 1024,
        help="Bytes of the largest result, or argument in shared memory, that is sent to or from another host.",
    )
    share_memory = BoolItem(True, help="Whether nodes of this host exchange large buffers through shared memory.")
    journal = ExtensionPointItem(
        IJournal, "memory", help="Where a master writes down what it has accepted: memory (nowhere) or sqlite."
    )
    rejoin_s = FloatItem(
        10.0, min=0.0, help="Seconds for which a master that was started again waits for its slaves with their tasks."
    )


class Master:
    """A running master: its core, its compute thread, its control channel.

    Args:
        config: the settings.
        name: the name of the cluster, and so of the connection file.
        owner: the process that has started it, and can start slaves.
        former: the identity of the last master of the cluster, which has died; None: a new one.
    """

    def __init__(
        self,
        config: MasterSettings,
        name: str,
        owner: Owner | None = None,
        former: MasterIdentity | None = None,
    ) -> None:
        self.name = connection_file.check_name(name)
        self.config = config
        self._journal = config.journal.open(name)
        if self._journal is not None and config.unattended_jobs_s:
            self._journal.close(empty=False)
            raise ConfigurationError(
                "MasterNode.unattended_jobs_s keeps jobs that are in no journal: leave it out, or set"
                ' MasterNode.journal to "memory"'
            )
        journaled = identity_in(self._journal)
        self._former = former = former if journaled is None else journaled
        self._keys = keys.fresh()
        self._tokens = {role: keys.fresh_token() for role in ROLES}
        self._journal_id = "" if self._journal is None else new_job_id().hex()
        # Wall clock, so that a restarted master has a larger number although nothing is kept between two runs.
        epoch = time.time_ns() // 1_000_000
        if former is not None:
            self._keys = keys.KeyPair(former.public_key.encode(), former.secret_key.encode())
            self._tokens = former.tokens
            self._journal_id = former.journal or self._journal_id
            epoch = max(epoch, former.epoch + 1)  # the wall clock may have been set back
        strategy = config.strategy.make()
        scheduler = Scheduler(
            strategy,
            makers=makers(config.manager),
            deaths_allowed=config.deaths_allowed,
            results_kept_bytes=config.results_kept_bytes,
        )
        liveness = Liveness(config.interval_s, config.suspect_after_s, config.lost_after_s)
        # With a journal no memory is shared, so that large arguments and results are in it.
        self._shares_memory = config.share_memory and self._journal is None
        self._reader = SegmentReader()
        can_store = self._journal is None and segments.is_available()
        self._store = ObjectStore(resident_bytes=RESIDENT_BYTES) if can_store else None
        self._core = MasterCore(
            epoch,
            scheduler,
            liveness,
            config.interval_s,
            self._reader if self._journal is None else None,
            self._store,
            kept_s=config.results_kept_s,
            limits=Limits(
                clients=config.clients,
                tasks=config.tasks_per_client,
                size_bytes=config.bytes_per_client,
                segments=config.segments_per_client,
                object_bytes=config.object_bytes,
            ),
            detached=DetachedLimits(
                unattended_jobs_s=config.unattended_jobs_s,
                results_s=config.detached_results_s,
                results_bytes=config.detached_results_bytes,
            ),
            journal=self._journal,
        )
        self._core.recover(monotonic(), config.rejoin_s)
        self._web_sessions = WebSessions()  # used by the main thread
        self._kernels = WaitingCallers(self._core.kernels)
        self._stacks = WaitingCallers(self._core.stacks)
        self._wake = Wakeup()
        self._look_at = 0.0  # when connections are to be checked again
        self._began = monotonic()
        self._of_owner = OwnerMethods(self.name, owner, self._core, self._ask, self._compute_of)
        # Each report of the owner is a new dict, so another thread may read it.
        self._feed = LiveFeed(self._core, self.name, self._began, self._ask, lambda: self._of_owner.launched)
        self._stopping = self._is_stopped = False
        self._failure: BaseException | None = None  # of the compute thread
        self._stop_event = asyncio.Event()
        self._thread = threading.Thread(target=self._compute, name="compute channel", daemon=True)

    # --------------------------------------------------------------------------------------------- control channel

    def identity(self) -> MasterIdentity:
        """Return what the next master needs to be known as this one. From `ready` on."""
        return MasterIdentity(
            public_key=self._keys.public.decode(),
            secret_key=self._keys.secret.decode(),
            tokens=self._tokens,
            certificate_pem=None if self._tls is None else self._tls.certificate_pem,
            certificate_key_pem=None if self._tls is None else self._tls.key_pem,
            control_port=self._control_port,
            compute_ports=self._gate.ports,
            epoch=self._core.epoch,
            journal=self._journal_id,
        )

    async def run(self, ready: Callable[[ConnectionFile, Path], None]) -> None:
        """Serve until `stop`; call `ready` when nodes can register. Raises ClusterError if the compute thread fails."""
        self._loop = asyncio.get_running_loop()
        addresses = own_addresses(self.config.addresses, "MasterNode.addresses")
        self._gate = ComputeServer(
            addresses,
            self._keys.public,
            self._keys.secret,
            self._core.admits,
            silent_s=self._silent_s(),
            silent_max=descriptors.share_of_limit(1 / 8, SILENT_MAX),
            ports={} if self._former is None else self._former.compute_ports,
        )
        self._compute_loop = MasterLoop(self._core, self._gate, self.config.interval_s, self._journal)
        tls = self._tls = self._certificate(addresses)
        tokens = {token: role for role, token in self._tokens.items()}
        metrics = MetricsSource(self._core, self._ask, self._whole_status)
        methods = ControlMethods(self.name, self._core, self.config, self._ask, self._stacks)
        dispatcher = Dispatcher(Registry(self, methods, metrics, self._of_owner))
        limits = ConnectionLimits()
        limits = limits._replace(
            connections=descriptors.share_of_limit(1 / 4, limits.connections),
            readers_of_role=descriptors.share_of_limit(1 / 8, limits.readers_of_role),
        )
        pages = WebPages(self.name, self._web_sessions, read_files(WEB_FILES))

        def make_server(port: int) -> ControlServer:
            return ControlServer(
                dispatcher,
                tokens,
                addresses,
                port,
                tls,
                limits=limits,
                watches=self._feed,
                metrics=metrics.scrape,
                pages=pages,
            )

        former_port = 0 if self._former is None else self._former.control_port
        server = make_server(self.config.control_port or former_port)
        self._thread.start()
        path = None
        at_end = contextlib.ExitStack()
        giving_back = asyncio.create_task(trim_periodically())
        try:
            self._probe = at_end.enter_context(segments.probe())
            try:
                await server.start()
            except ConfigurationError as error:
                if self.config.control_port or not former_port:
                    raise
                log.warning("nodes elsewhere need the new connection file: %s", error)
                server = make_server(0)
                await server.start()
            self._control_port = int(server.endpoints[0].rpartition(":")[2])
            if self._journal is not None:
                store_identity(self._journal, self.identity())
                self._journal.start(self._wake.set)
            info = ConnectionFile(
                name=self.name,
                endpoints=server.endpoints,
                master_key=self._keys.public.decode(),
                tokens=self._tokens,
                certificate_pem=None if tls is None else tls.certificate_pem,
                pid=os.getpid(),
                host=socket.gethostname(),
                epoch=self._core.epoch,
            )
            path = await asyncio.to_thread(write_untaken, info)
            ready(info, path)
            await self._stop_event.wait()
        finally:
            giving_back.cancel()
            await server.stop()
            await self._feed.stop()
            if path is not None:
                connection_file.remove(path, self._core.epoch)
            self._stopping = True
            self._wake.set()
            await asyncio.to_thread(self._thread.join)
            if self._journal is not None:  # a cluster that is stopped has no open jobs
                await asyncio.to_thread(self._journal.close, empty=self._is_stopped and self._failure is None)
            self._wake.close()
            at_end.close()
            self._reader.close()
            if self._store is not None:
                self._store.close()
        if self._failure is not None:
            raise ClusterError(f"the compute thread has failed: {describe(self._failure)}") from self._failure

    def stop(self) -> None:
        """End `run`, after a Bye to every node: the cluster has been stopped. To be called in the loop's thread."""
        self._is_stopped = True
        self._stop_event.set()

    def _silent_s(self) -> float:
        """Return how long a connection may take for its first message; a node sends heartbeats far more often."""
        return max(SILENT_S, 3 * self.config.suspect_after_s)

    def _certificate(self, addresses: list[str]) -> TlsMaterial | None:
        if all(is_loopback(address) for address in addresses):
            return None
        former = self._former
        if former is not None and former.certificate_pem and former.certificate_key_pem:
            return TlsMaterial(former.certificate_pem, former.certificate_key_pem)
        from concurrent_nb.transport.tls import make_tls  # here, because it needs the extra `tls`

        return make_tls(addresses)

    async def _ask(self, question: Callable[[float], T]) -> T:
        """Return the answer of the compute thread to a question about the core."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if not answer.done():
                answer.set_result(value) if error is None else answer.set_exception(error)

        def on_compute_thread(now: float) -> None:
            value: T | None = None
            error: Exception | None = None
            try:
                value = question(now)
            except Exception as failure:  # noqa: BLE001  (handed on to the caller)
                error = failure
            self._loop.call_soon_threadsafe(settle, value, error)

        self._compute_loop.questions.append(on_compute_thread)
        self._wake.set()
        return await answer

    @remote(roles=ALL_ROLES)
    def ping(self) -> str:
        """Return "pong"."""
        return "pong"

    @remote(roles=ALL_ROLES)
    async def status(self, caller: Caller, session: str = "", secret: str = "") -> dict[str, Any]:
        """Return the cluster's slaves, applications (`clients`), jobs and task counts.

        An admin gets all jobs. Others get those of the owner whose session they have, and the number of the others.
        """
        asker, sees_all = session_of(session), caller.role == "admin"

        def describe_cluster(now: float) -> dict[str, Any]:
            is_own = self._core.is_session(asker, "client", secret)
            return self._core.status(now, asker if is_own else None, sees_all=sees_all)

        return self._with_place(await self._ask(describe_cluster))

    async def _whole_status(self) -> dict[str, Any]:
        return self._with_place(await self._ask(lambda now: self._core.status(now, sees_all=True)))

    def _with_place(self, status: dict[str, Any]) -> dict[str, Any]:
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        uptime_s, feed = monotonic() - self._began, self._feed.describe()
        return {"name": self.name, **where, "uptime_s": uptime_s, **self._of_owner.add_places(status), "feed": feed}

    @remote(roles=["admin", "client"])
    async def stats(
        self, caller: Caller, job: str = "", session: str = "", secret: str = "", sample: bool = False
    ) -> dict[str, Any]:
        """Return the statistics of a job, by its id (hexadecimal), or of the cluster, in seconds and bytes.

        An admin gets those of any job. A client must have a session, and gets those of its owner's jobs. With
        `sample`, the answer about a job also has run times and shares of its last tasks.
        """
        asker, sees_all = session_of(session), caller.role == "admin"
        job_id = job_of(job) if job else None

        def read(now: float) -> tuple[dict[str, Any], TaskLog | None]:
            if not sees_all and not self._core.is_session(asker, "client", secret):
                raise AccessRefused("the session is over, or is not yours: register, then give session and secret")
            answer = self._core.statistics(now, job_id, asker, sees_all=sees_all)
            wanted = sample and job_id is not None
            return answer, self._core.scheduler.task_log.tail(SAMPLE_TASKS) if wanted else None

        answer, log = await self._ask(read)
        if log is not None and job_id is not None:  # in a thread, because it takes a while
            answer["sample"] = await asyncio.to_thread(take_sample, log, job_id)
        return answer

    @remote(roles=["admin", "client"])
    def one_time_link(self, caller: Caller) -> dict[str, str]:
        """Return the path of a link to the web page, which works once, within a minute.

        The browser that opens it may do for 12 hours what the caller's role may do.
        """
        return {"path": f"{LOGIN_PATH}?code={self._web_sessions.new_code(caller.role)}"}

    @remote(roles=["admin"])
    def stop_cluster(self) -> bool:
        """Stop the cluster: all nodes get a Bye, open tasks end with MasterLost."""
        self._loop.call_later(0.05, self.stop)
        return True

    @remote(roles=["admin"])
    async def restart_workers(self, now: bool = False) -> int:
        """Replace all worker processes; return how many there are. `status` reports how many are still outdated.

        A worker's running task ends first; with `now` it is stopped and runs again.
        """
        return await self._ask(lambda _: self._core.requests.restart_workers(stop=now))

    @remote(roles=["admin"])
    async def open_kernel(self, slave: str) -> dict[str, Any]:
        """Open a Jupyter kernel in a slave, unless it is open; return the content of its connection file."""
        answer: asyncio.Future[m.KernelAccess] = self._loop.create_future()

        def ask(now: float) -> None:
            self._kernels.add(self._core.requests.open_kernel(slave, now), answer)

        await self._ask(ask)
        return connection_info(await answer)

    @remote(roles=ALL_ROLES)
    async def register_client(
        self,
        caller: Caller,
        key: str,
        versions: dict[str, Any],
        name: str,
        comes_back: bool = True,
        memory: list[Any] | None = None,
        host: str = "",
        pid: int = 0,
        begun: float | None = None,
        replaces: str = "",
        replaces_secret: str = "",
        parent_job: str = "",
        parent_index: int = 0,
    ) -> dict[str, Any]:
        """Register an application with its CURVE public key (z85); return session, compute endpoint and intervals.

        In the answer, `secret` is what other methods take besides the session, and `limits` is what the application
        must keep to: tasks without an answer, bytes of their arguments and functions, and segments.

        With `comes_back` false, its jobs end as soon as its connection has broken; else they wait for its return.
        `memory` describes a segment of shared memory of the node: segment (hexadecimal), process, descriptor, bytes.
        `host` and `pid` are shown in the status; with `begun`, the start of that process by a clock of its host, a
        master of the same host notices when the process has ended. `replaces` is its former session, and
        `replaces_secret` the secret of that session. With `parent_job` (hexadecimal) and `parent_index`, the
        application is in this running task, and its jobs belong to the owner of the task. Only such ones may register
        with a token of role slave.
        """
        if caller.role == "slave" and not parent_job:
            raise AccessRefused("a token of role slave registers only applications in tasks: use one of role client")
        parent = (job_of(parent_job), parent_index) if parent_job else None
        public = check_key(key)
        check_versions(versions, f"application {check_label(name)!r}")
        descriptors.refuse_if_full(f"application {name!r}")
        session, secret = new_session_id(), keys.fresh_token()
        info = NodeInfo(check_host(host), pid)
        is_alive = liveness_check(host, pid, begun)
        before = session_of(replaces)

        def add(now: float) -> None:
            former = before if self._core.is_session(before, "client", replaces_secret) else None
            self._core.add_client(
                session,
                public,
                name,
                now,
                comes_back,
                info,
                is_alive=is_alive,
                replaces=former,
                secret=secret,
                parent=parent,
            )

        await self._ask(add)
        welcome = self._welcome(session, secret, name, caller, memory)
        return {**welcome, "limits": self._core.limits.announced()}

    @remote(roles=["admin", "slave"])
    async def register_slave(
        self,
        caller: Caller,
        key: str,
        versions: dict[str, Any],
        name: str,
        slots: int,
        credit: int,
        memory: list[Any] | None = None,
        host: str = "",
        pid: int = 0,
        cores: int = 0,
    ) -> dict[str, Any]:
        """Register a slave that runs `slots` tasks at once and accepts `credit` unfinished ones.

        `memory`, `host` and `pid` are as for an application; `cores` is the number of cores that the slave may use.
        """
        public = check_key(key)
        check_versions(versions, f"slave {check_label(name)!r}")
        descriptors.refuse_if_full(f"slave {name!r}")
        if not 1 <= slots <= credit <= 1_000_000:
            raise ConfigurationError(
                f"slave {name!r} offers {slots} slots and a credit of {credit}: 1 <= slots <= credit"
            )
        session, secret = new_session_id(), keys.fresh_token()
        info = NodeInfo(check_host(host), pid, cores)
        given = await self._ask(
            lambda now: self._core.add_slave(session, public, name, slots, credit, now, info, secret=secret)
        )
        welcome = self._welcome(session, secret, given, caller, memory)
        return {**welcome, "limits": {"object": self.config.object_bytes}}

    @remote(roles=ALL_ROLES)
    async def unregister_client(self, session: str, secret: str, unattended: bool = False) -> bool:
        """End an application's session; its unfinished jobs are cancelled. False if there is no such session.

        With `unattended`, they go on if MasterNode.unattended_jobs_s says so: the user of the application comes back.
        """
        return await self._unregister("client", session, secret, left=not unattended)

    @remote(roles=["admin", "slave"])
    async def unregister_slave(self, session: str, secret: str) -> bool:
        """End a slave's session; its tasks run elsewhere. False if there is no such session."""
        return await self._unregister("slave", session, secret)

    @remote(roles=ALL_ROLES)
    async def owns_job(self, job: str, session: str, secret: str) -> bool:
        """Return whether a job (hexadecimal) belongs to the owner of this session. False if it has ended."""
        own, which, core = session_of(session), job_of(job), self._core
        return await self._ask(lambda now: core.is_session(own, "client", secret) and core.owns_job(own, which))

    @remote(roles=ALL_ROLES)
    async def heartbeat_client(self, session: str, secret: str) -> bool:
        """Take a heartbeat of a node. False if its session is over: the node must register again."""
        return await self._heartbeat("client", session, secret)

    @remote(roles=["admin", "slave"])
    async def heartbeat_slave(self, session: str, secret: str) -> bool:
        """Take a heartbeat of a node. False if its session is over: the node must register again."""
        return await self._heartbeat("slave", session, secret)

    async def _unregister(self, role: str, session: str, secret: str, *, left: bool = True) -> bool:
        own, core = session_of(session), self._core
        return await self._ask(
            lambda now: core.is_session(own, role, secret) and core.remove(own, "it has unregistered", now, left=left)
        )

    async def _heartbeat(self, role: str, session: str, secret: str) -> bool:
        own, core = session_of(session), self._core
        return await self._ask(lambda now: core.is_session(own, role, secret) and core.heartbeat(own, now))

    def _welcome(
        self, session: SessionId, secret: str, name: str, caller: Caller, memory: list[Any] | None
    ) -> dict[str, Any]:
        shares = self._shares_memory and can_open(memory)
        return {
            "session": session.hex(),
            "secret": secret,
            "name": name,
            "epoch": self._core.epoch,
            "compute": f"tcp://{self._compute_of(caller)}",
            "master_key": self._keys.public.decode(),
            "interval_s": self.config.interval_s,
            "silence_s": self.config.suspect_after_s,
            "journal": self._journal_id,
            "memory": as_json(self._probe) if shares and self._probe is not None else None,
        }

    def _compute_of(self, caller: Caller) -> str:
        """Return HOST:PORT of the compute channel, on the address that a caller has reached."""
        host = caller.local_host if caller.local_host in self._gate.ports else next(iter(self._gate.ports))
        return f"[{host}]:{self._gate.ports[host]}" if ":" in host else f"{host}:{self._gate.ports[host]}"

    # --------------------------------------------------------------------------------------------- compute channel

    def _compute(self) -> None:
        try:
            waiter = Poller(self._gate.socket)
            zap_fd, monitor_fd = fd_of(self._gate.zap_socket), fd_of(self._gate.monitor)
            for fd in (zap_fd, monitor_fd, self._wake.fileno()):
                waiter.add(fd)
            self._gate.take_left()  # a monitor's descriptor becomes readable only after a first read
            while not self._stopping:
                self._turn(waiter, zap_fd, monitor_fd)
            self._compute_loop.stop()
        except BaseException as error:
            log.exception("the compute thread has failed; the master stops")
            self._failure = error
            self._loop.call_soon_threadsafe(self.stop)
        finally:
            self._gate.close()

    def _turn(self, waiter: Poller, zap_fd: int, monitor_fd: int) -> None:
        gate, core, loop = self._gate, self._core, self._compute_loop
        now = monotonic()
        ready = waiter.wait(max(0.0, min(core.next_deadline(now), self._look_at) - now))
        now = monotonic()
        if self._wake.fileno() in ready:
            self._wake.clear()
        loop.answer(now)
        if zap_fd in ready:
            gate.answer_zap()
        loop.turn(monitor_fd in ready, now)
        self._look_at = gate.look(now)
        self._kernels.settle()
        self._stacks.settle()


def run_master(
    overrides: dict[str, dict[str, Any]],
    name: str,
    ready: Callable[[ConnectionFile, Path], None],
    lease: int | None = None,
    wishes: int | None = None,
    former: MasterIdentity | None = None,
    keep: Callable[[MasterIdentity], None] = lambda identity: None,
) -> None:
    """Run a master in this process until it is stopped.

    Args:
        overrides: configuration that takes precedence over the files.
        name: the name of the cluster.
        ready: called with the connection file and its path when nodes can register.
        lease: descriptor whose end of file ends the master, and which its owner answers wishes with.
        wishes: descriptor of the pipe to the owner; None: there is no owner that can start slaves.
        former: the identity of the last master of the cluster, which has died.
        keep: called with the identity of this one, after `ready`.

    Raises ClusterError if the compute thread fails, and what `Master` and its configuration raise.
    """
    descriptors.raise_limit()
    manager = ComponentManager(settings.load(overrides))
    check_sections_of_files(manager.config.keys() - overrides.keys())
    manager.load([MasterSettings, *BUILT_IN, *JOURNALS])
    ours = {name for each in (*BUILT_IN, *JOURNALS) for name in (each.__name__, each.__dict__["short_name"])}
    chosen = manager.config.MasterNode
    if not {chosen.get("strategy", "PullRoundRobin"), chosen.get("journal", "memory")} <= ours:
        manager.load_entry_points()  # only then, because it searches all installed packages
    search_rarely()
    asyncio.run(_serve(manager.get(MasterSettings), name, ready, lease, wishes, former, keep))


async def _serve(
    config: MasterSettings,
    name: str,
    ready: Callable[[ConnectionFile, Path], None],
    lease: int | None,
    wishes: int | None,
    former: MasterIdentity | None,
    keep: Callable[[MasterIdentity], None],
) -> None:
    loop = asyncio.get_running_loop()
    owner = None if wishes is None else Owner(wishes)
    master = Master(config, name, owner, former)

    def is_ready(info: ConnectionFile, path: Path) -> None:
        ready(info, path)
        keep(master.identity())

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, master.stop)
    watch = None
    if lease is not None:

        def lease_readable() -> None:
            received = os.read(lease, 4096)
            if received:
                if owner is not None:
                    owner.received(received)
                return
            if owner is not None:
                owner.ended()
            master.stop()

        loop.add_reader(lease, lease_readable)
        watch = asyncio.create_task(_watch_parent(os.getppid(), master.stop))
    try:
        await master.run(is_ready)
    finally:
        if lease is not None:
            loop.remove_reader(lease)
        if watch is not None:
            watch.cancel()


async def _watch_parent(parent: int, stop: Callable[[], None]) -> None:
    """Call `stop` when the parent has died, as a process that it forked may hold the other end of the lease open."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_CHECK_S)
    stop()


def check_key(text: str) -> bytes:
    """Return a z85 public key as bytes. Raises ConfigurationError if the text is not one."""
    if keys.Z85_KEY.fullmatch(text.encode()) is None:
        raise ConfigurationError("the key of a node is 40 characters of z85")
    return text.encode()


def check_label(name: str) -> str:
    """Return a node's name. Raises ConfigurationError for one that does not fit on a line of a terminal."""
    if not (0 < len(name) <= LABEL_MAX and name.isprintable()):
        raise ConfigurationError(f"a node's name has 1 to {LABEL_MAX} printable characters, not {name[:LABEL_MAX]!r}")
    return name


def check_host(host: str) -> str:
    """Return the name of a node's host, which may be "". Raises ConfigurationError as `check_label` does."""
    return check_label(host) if host else ""
