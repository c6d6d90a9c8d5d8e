"""An application whose tasks run on an engine: an application node, a master process, and a slave in a thread."""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.engines.master_process import MasterProcess
from concurrent_nb.errors import ClusterStartFailed, ConcurrentError, EngineLost, EngineUnavailable
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.nodes.slave.process import Slave, SlaveSettings
from concurrent_nb.settings import files as settings
from concurrent_nb.transport import keys
from concurrent_nb.transport.poller import Poller

if TYPE_CHECKING:
    from concurrent_nb.nodes.common.registration import Membership
    from concurrent_nb.nodes.slave.core import SlaveCore
    from concurrent_nb.nodes.slave.loop import SlavePool

log = logging.getLogger(__name__)

#: the slave must have joined its master after this time, in seconds
JOIN_S: Final = 30.0
#: it is left behind if it has not ended after this time, in seconds: something of the engine waits for ever
CLOSE_S: Final = 60.0


class EngineSlave(Slave):
    """A slave in a thread of the user's process, whose workers are an engine's.

    Args:
        engine: its name, which begins the slave's.
        path: of the connection file.
        pool: stands for the workers.
        lost: called with the reason when the slave has ended by itself.
    """

    def __init__(self, engine: str, path: Path, pool: "SlavePool", lost: Callable[[EngineLost], None]) -> None:
        manager = ComponentManager(settings.load({"SlaveNode": {"patience_s": 0.0}}))
        manager.load([SlaveSettings])
        self._stop_wakeup = Wakeup()
        super().__init__(
            manager.get(SlaveSettings), lambda: path, f"{engine}-{os.getpid()}", self._stop_wakeup.fileno(), pool
        )
        self._engine = engine
        self._lost = lost
        self._failure: EngineLost | None = None
        self._is_closing = False
        self._joined = threading.Event()
        self._thread = threading.Thread(target=self._serve_engine, name=f"concurrent_nb engine {engine}", daemon=True)

    def start(self) -> None:
        """Start the thread; return when the slave has joined. Raises EngineUnavailable if it cannot."""
        self._thread.start()
        if not self._joined.wait(JOIN_S):
            raise EngineUnavailable(f"the engine {self._engine!r} did not join its master within {JOIN_S:g} s")
        if self._failure is not None:
            raise EngineUnavailable(str(self._failure))

    def close(self) -> None:
        """End the thread, with all that runs on the engine, and wait for it, for `CLOSE_S` at most."""
        self._is_closing = True
        self.stop()
        self._stop_wakeup.set()
        is_own = self._thread is threading.current_thread()
        if self._thread.ident is not None and not is_own:
            self._thread.join(CLOSE_S)
        if self._thread.is_alive() and not is_own:
            log.error("engine %r has not ended within %g s, and its thread is left behind", self._engine, CLOSE_S)
        else:
            self._stop_wakeup.close()

    def _serve_engine(self) -> None:
        try:
            self.run(lambda name: self._joined.set())
            reason = "its master has ended"
        except ClusterStartFailed as error:
            reason = str(error).rpartition("cannot keep workers alive: ")[2]
        except BaseException as error:
            log.debug("engine %s has failed", self._engine, exc_info=error)
            reason = describe(error)
        if not self._is_closing:
            self._failure = EngineLost(f"engine {self._engine!r} runs no more tasks: {reason}")
            self._lost(self._failure)
        self._joined.set()

    # ------------------------------------------------------------------------------- what differs in a thread

    def _lease_over(self) -> bool:
        """Return whether `close` was called."""
        return self._stopping

    def _turn_kernel(self, core: "SlaveCore", waiter: Poller, membership: "Membership") -> None:
        """Refuse: this process belongs to the user, and may be a kernel already."""
        core.kernel_opened(None, f"workers of the engine {self._engine!r} cannot become kernels")


class EngineCluster:
    """What an engine needs on this machine: its master, and its slave. Closing it leaves nothing.

    Args:
        engine: its name.
        pool: stands for the workers; this object closes it.
        describe: returns a description of the engine for people.
    """

    def __init__(self, engine: str, pool: "SlavePool", describe: Callable[[], str]) -> None:
        self.engine = engine
        self.describe = describe
        self._pool = pool
        self._application: weakref.ref[EngineApplication] | None = None
        self._failure: EngineLost | None = None
        self._closing = threading.Lock()
        self._is_closed = False
        self._slave: EngineSlave | None = None
        self._pid = os.getpid()
        try:
            self._master = MasterProcess(engine)
        except BaseException:
            pool.close()
            raise
        try:
            self._slave = EngineSlave(engine, self._master.path, pool, self._lost)
            self._slave.start()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """The connection file of its master."""
        return self._master.path

    def application(self) -> "EngineApplication":
        """Return its application, which closes the engine when it is closed. To be called once."""
        application = EngineApplication(self)
        self._application = weakref.ref(application)
        if self._failure is not None:  # set meanwhile
            application._fail(self._failure)
        return application

    def _lost(self, error: EngineLost) -> None:
        self._failure = error
        application = self._application() if self._application is not None else None
        if application is not None:
            application._fail(error)

    def close(self) -> None:
        """End slave and master. Does nothing the second time, and in a process that was forked from this one."""
        with self._closing:
            if self._is_closed or os.getpid() != self._pid:
                return
            self._is_closed = True
            try:
                if self._slave is None:
                    self._pool.close()
                else:
                    self._slave.close()
            finally:
                self._master.close()


class EngineApplication(ApplicationNode):
    """An application whose tasks run on an engine; `concurrent_nb.connect` returns one for `"dask://..."` and the like.

    It is used as any other one. Closing it leaves the engine as it was.

    Args:
        cluster: its engine.
    """

    def __init__(self, cluster: EngineCluster) -> None:
        self.engine = cluster.engine  #: "dask", "ray", "executor" or "inline"
        self._engine_cluster = cluster
        # First, so that the end of the interpreter waits for tasks before it closes the engine.
        weakref.finalize(self, cluster.close)
        try:
            super().__init__(cluster.path, keys.fresh())
        except BaseException:
            cluster.close()
            raise

    @property
    def connection_file(self) -> Path:
        """The connection file of its master, a process of its own on this machine."""
        return self._engine_cluster.path

    @property
    def engine_description(self) -> str:
        """What is behind this application, in a few words."""
        return self._engine_cluster.describe()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks, and leave the engine when those that were accepted have ended, as `ApplicationNode`."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._engine_cluster.close()
            return
        threading.Thread(target=self._leave_engine, name="concurrent_nb engine leaves", daemon=True).start()

    def close(self) -> None:
        """Leave the engine now: tasks that have not ended are cancelled, running ones are stopped."""
        try:
            super().close()
        finally:
            self._engine_cluster.close()

    def _leave_engine(self) -> None:
        """Leave the engine when all tasks have ended."""
        try:
            super().shutdown(wait=True)
        except ConcurrentError as error:
            log.warning("engine %s was left: %s", self.engine, error)
        finally:
            self._engine_cluster.close()
