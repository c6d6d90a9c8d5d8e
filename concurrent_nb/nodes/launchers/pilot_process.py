"""The helper process of a pilot: `python -m concurrent_nb.nodes.launchers.pilot_process`. The client of the engine.

Standard input is its lease and brings messages, standard output takes them (`pilot_messages.py`). At the end of its
input it ends all slaves, then itself.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConcurrentError, LaunchFailed
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.common.log_format import write_logs
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart
from concurrent_nb.nodes.launchers.pilot_hosts import PilotHost, PilotSlaves
from concurrent_nb.nodes.launchers.pilot_messages import (
    TO_PILOT,
    ConnectPilot,
    EndThere,
    FromPilot,
    LaunchThere,
    PilotConnected,
    PilotFailed,
    PilotSlavesNow,
    ToPilot,
    pilot_line,
)

#: seconds between two looks at the slaves, and between two at the engine's hosts
LOOK_S: Final = 0.1
HOSTS_S: Final = 1.0
STDIN, STDOUT, STDERR = 0, 1, 2


Send = Callable[[FromPilot], None]


class IEngineHosts(Protocol):
    """An engine's hosts, on which slaves are started. All methods return soon."""

    engine: str  #: for people
    unfit: str  #: why slaves cannot run on one of its hosts; "" if they can run on each

    def hosts(self) -> Sequence[PilotHost]:
        """Return the hosts that can run a slave, or do. Raises LaunchFailed if the engine has gone."""

    def start(self, start: SlaveStart, host: PilotHost) -> None:
        """Start a slave on a host."""

    def begun(self) -> Sequence[str]:
        """Return the slaves whose processes have begun to run since the last call."""

    def ended(self) -> Sequence[LaunchedSlave]:
        """Return the slaves that have ended since the last call."""

    def end(self, name: str) -> None:
        """End a slave."""

    def close(self) -> None:
        """End all slaves, wait for that, and leave the engine."""


def main() -> None:
    """Run the helper until its input ends."""
    owner = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)  # what the engine's library prints belongs to the log
    write_logs("text")
    incoming: queue.SimpleQueue[ToPilot | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(incoming,), daemon=True).start()

    def send(message: FromPilot) -> None:
        os.write(owner, f"{pilot_line(message)}\n".encode())

    first = incoming.get()
    if not isinstance(first, ConnectPilot):
        return  # the owner has ended
    try:
        _serve(connected(first), incoming, send)
    except ConcurrentError as error:
        send(PilotFailed(str(error)))
        sys.exit(1)


def connected(connect: ConnectPilot) -> IEngineHosts:
    """Connect to an engine. Raises LaunchFailed."""
    try:
        # Here: a helper needs one of these libraries, and the other one may not be installed.
        if connect.engine == "dask":
            from concurrent_nb.nodes.launchers.dask_hosts import DaskHosts  # as above: they need a library

            return DaskHosts(connect)
        from concurrent_nb.nodes.launchers.ray_hosts import RayHosts  # as above: they need a library

        return RayHosts(connect)
    except ImportError as error:
        raise LaunchFailed(
            f"the library of the engine cannot be imported ({error}): run `{sys.executable} -m pip install"
            f" 'concurrent-nb[{connect.engine}]'`"
        ) from None


def _read(incoming: "queue.SimpleQueue[ToPilot | None]") -> None:
    with os.fdopen(STDIN, "rb", closefd=False) as lines:
        for line in lines:
            incoming.put(TO_PILOT.decode(line))
    incoming.put(None)


def _serve(engine: IEngineHosts, incoming: "queue.SimpleQueue[ToPilot | None]", send: Send) -> None:
    """Take messages, and report changes, until the input ends."""
    slaves, starts = PilotSlaves(engine.engine), dict[str, SlaveStart]()
    shown: list[LaunchedSlave] = []
    try:
        hosts = engine.hosts()
        hosts_at = monotonic()
        send(PilotConnected(len(hosts), engine.unfit))
        while True:
            is_free = False  # a host, of a slave that has ended
            for message in _received(incoming):
                if isinstance(message, LaunchThere):
                    slaves.launch(message.start.name)
                    starts[message.start.name] = message.start
                elif isinstance(message, EndThere):
                    for name in slaves.forget(message.names):
                        engine.end(name)
                        is_free = True
                elif message is None:
                    return
            for ended in engine.ended():
                slaves.ended(ended)
                is_free = True
            if is_free or monotonic() - hosts_at >= HOSTS_S:
                hosts, hosts_at = engine.hosts(), monotonic()
            for placed in slaves.place(hosts):
                _start(engine, slaves, starts.pop(placed.name), placed.host)
            slaves.explain(f"each of its {len(hosts)} hosts has a slave" if hosts else "it has no host yet")
            for name in engine.begun():
                slaves.runs(name)
            if (now := slaves.slaves()) != shown:
                shown = now
                send(PilotSlavesNow(now))
    finally:
        engine.close()


def _start(engine: IEngineHosts, slaves: PilotSlaves, start: SlaveStart, host: PilotHost) -> None:
    try:
        engine.start(start, host)
    except Exception as error:  # noqa: BLE001  (any error of the engine's library is the reason)
        reason = f"{engine.engine} has not started it: {describe(error)}"
        slaves.ended(LaunchedSlave(start.name, LaunchState.ENDED, "", reason))


def _received(incoming: "queue.SimpleQueue[ToPilot | None]") -> list[ToPilot | None]:
    """Return the messages that have come; wait for the first one until the next look."""
    received: list[ToPilot | None] = []
    try:
        received.append(incoming.get(timeout=LOOK_S))
        while True:
            received.append(incoming.get_nowait())
    except queue.Empty:
        return received


if __name__ == "__main__":
    main()
