"""Slaves inside the workers of an existing cluster of another engine: what the pilots of Dask and Ray have in common.

    owner's process          helper process                worker of the engine         child of it
    Pilot  --two pipes-->    PilotProcess  --engine-->     held_slaves.py  --pipe-->    concurrent-nb slave

The engine decides on which machines there are workers. One slave runs on each host and has as many workers as the
engine counts cores there, which the engine gives to nothing else meanwhile. When a process or connection in this chain
ends, everything to its right ends.
"""

import logging
import sys
import threading
from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from concurrent_nb.components.config import FloatItem, TextItem
from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart
from concurrent_nb.nodes.launchers.own_address import address_of_interface, beyond_loopback
from concurrent_nb.nodes.launchers.pilot_messages import (
    FROM_PILOT,
    ConnectPilot,
    EndThere,
    LaunchThere,
    PilotConnected,
    PilotSlavesNow,
    pilot_line,
)
from concurrent_nb.nodes.launchers.started_process import StartedProcess, end_processes

log = logging.getLogger(__name__)

#: a helper that has not started within this time beyond `connect_s` has failed
START_S: Final = 30.0
#: a helper that takes longer to end its slaves is killed
CLOSE_S: Final = 8.0


class Pilot(Component):
    """Starts slaves inside the workers of another engine. Subclasses name the engine."""

    interface = TextItem("", help="Interface or address of this machine that the engine's workers reach. Empty: found.")
    connect_s = FloatItem(20.0, min=0.1, help="Seconds in which the engine must answer.")

    #: the engine's name for people, and the key of its side in `pilot_process.py`
    engine: ClassVar[str]
    engine_key: ClassVar[str]

    place = ""
    start_bound_s = 60.0

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self.slaves_default = 1
        self._condition = threading.Condition()
        self._helper: StartedProcess | None = None
        self._reader: threading.Thread | None = None
        self._connected: PilotConnected | None = None
        self._failed = ""  # why the helper has ended
        self._slaves: dict[str, LaunchedSlave] = {}

    # ------------------------------------------------------------------------------------------- what subclasses have

    def engine_address(self) -> str:
        """Return the address of the engine. Raises LaunchFailed or ConfigurationError."""
        raise NotImplementedError

    def own_address(self) -> str:
        """Return the address of this machine that the engine's hosts reach. Raises LaunchFailed."""
        raise NotImplementedError

    def engine_options(self) -> dict[str, str | int]:
        """Return further options of the engine's side."""
        return {}

    # ----------------------------------------------------------------------------------------------- the contract

    def addresses(self) -> Sequence[str]:
        """Return the address that the engine's workers reach: of `interface`, or the one towards the engine."""
        return beyond_loopback(address_of_interface(self.interface) if self.interface else self.own_address())

    def check(self) -> None:
        """Connect the helper to the engine, and compare versions. Raises LaunchFailed."""
        self._start_helper()
        with self._condition:
            is_over = self._condition.wait_for(lambda: self._connected or self._failed, self.connect_s + START_S)
            connected, failed = self._connected, self._failed
        if failed:
            raise LaunchFailed(failed)
        if not is_over or connected is None:
            raise LaunchFailed(f"{self.engine} at {self.engine_address()} has not answered: is this its address?")
        if connected.unfit and not connected.hosts:
            raise LaunchFailed(f"slaves cannot run on {self.engine}'s hosts: {connected.unfit}")
        if connected.unfit:
            log.warning("slaves cannot run on one of %s's hosts: %s", self.engine, connected.unfit)
        self.slaves_default = max(1, connected.hosts)

    def launch(self, start: SlaveStart) -> None:
        """Have the helper start a slave; another helper is started if the former one has ended."""
        with self._condition:
            is_lost = bool(self._failed)
        if self._helper is None or is_lost:
            self._start_helper()
        with self._condition:
            self._slaves[start.name] = LaunchedSlave(start.name, LaunchState.QUEUED, self.engine)
        assert self._helper is not None
        self._helper.write_lines([pilot_line(LaunchThere(start))])
        with self._condition:
            if self._failed:  # the helper has ended before the order could be sent
                self._slaves[start.name] = LaunchedSlave(start.name, LaunchState.ENDED, self.engine, self._failed)

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return the last report of the helper about each slave."""
        if self._helper is not None:
            self._helper.shorten_log()
        with self._condition:
            return list(self._slaves.values())

    def end(self, names: Collection[str]) -> None:
        """Have the helper end these slaves."""
        with self._condition:
            known = [name for name in names if self._slaves.pop(name, None) is not None]
        if known and self._helper is not None:
            self._helper.write_lines([pilot_line(EndThere(known))])

    def close(self) -> None:
        """End the helper, which ends all slaves first."""
        self._end_helper()
        with self._condition:
            self._slaves.clear()

    # ------------------------------------------------------------------------------------------------- the helper

    def _start_helper(self) -> None:
        self._end_helper()
        words = [sys.executable, "-P", "-m", "concurrent_nb.nodes.launchers.pilot_process"]
        is_local = not self.addresses()
        connect = ConnectPilot(self.engine_key, self.engine_address(), is_local, self.connect_s, self.engine_options())
        helper = StartedProcess(words, f"the process that connects to {self.engine}", keeps_output=False)
        with self._condition:
            self._connected, self._failed = None, ""
        reader = threading.Thread(target=self._read, args=(helper,), name=f"{self.engine} pilot", daemon=True)
        try:
            reader.start()
        except RuntimeError:  # this machine starts no more threads
            end_processes([helper])
            raise
        self._helper, self._reader = helper, reader
        helper.write_lines([pilot_line(connect)])

    def _end_helper(self) -> None:
        if self._helper is not None:
            self._helper.close_input()
            assert self._reader is not None
            self._reader.join(CLOSE_S)  # it ends with the helper
            self._helper.process.kill()
            self._reader.join()
            end_processes([self._helper])
            self._helper = self._reader = None

    def _read(self, helper: StartedProcess) -> None:
        """Read the messages of the helper until it ends."""
        assert helper.process.stdout is not None
        for line in helper.process.stdout:
            message = FROM_PILOT.decode(line)
            with self._condition:
                if isinstance(message, PilotSlavesNow):
                    # Slaves that the helper does not know yet stay as they are; those that were ended are left out.
                    self._slaves.update({each.name: each for each in message.slaves if each.name in self._slaves})
                elif isinstance(message, PilotConnected):
                    self._connected = message
                else:
                    self._failed = message.reason
                self._condition.notify_all()
        helper.process.wait()
        with self._condition:
            if not self._failed:
                self._failed = f"the connection to {self.engine} has ended; its log ends:\n{helper.log_tail().strip()}"
            self._slaves = {
                name: slave
                if slave.state is LaunchState.ENDED
                else LaunchedSlave(name, LaunchState.ENDED, slave.place, self._failed)
                for name, slave in self._slaves.items()
            }
            self._condition.notify_all()
