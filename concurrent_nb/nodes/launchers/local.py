"""`on="local"`: slaves on this machine, each a process of its own, under the same supervisor as slaves elsewhere."""

import json
import multiprocessing
import os
import sys
from collections.abc import Collection, Sequence

from concurrent_nb.components.core import Component, ComponentManager, implements
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import AUTHKEY_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.launchers.launcher import ILauncher, LaunchedSlave, LaunchState, SlaveStart, ended_slave
from concurrent_nb.nodes.launchers.started_process import StartedProcess, end_processes
from concurrent_nb.shipping.environment.tracker import TRACKER

_PLACE = "this machine"


@implements(ILauncher)
class Local(Component):
    """Starts slaves on this machine."""

    short_name = "local"
    place = ""
    slaves_default = 1
    start_bound_s = 30.0

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self._started: dict[str, StartedProcess] = {}

    def addresses(self) -> Sequence[str]:
        """Return (): loopback is enough."""
        return ()

    def check(self) -> None:
        """Raise ConfigurationError if a place was given."""
        if self.place:
            raise ConfigurationError(f"on=local:{self.place}: local slaves have no place, write on=local")

    def launch(self, start: SlaveStart) -> None:
        """Start a slave."""
        TRACKER.note()
        env = {
            **os.environ,
            SYS_PATH_VARIABLE: json.dumps(sys.path),
            AUTHKEY_VARIABLE: bytes(multiprocessing.current_process().authkey).hex(),
        }
        words = [sys.executable, "-P", "-m", "concurrent_nb", "slave", "--connect", "-", "--name", start.name]
        started = StartedProcess([*words, "--log-format", start.log_format], f"slave {start.name}", env)
        self._started[start.name] = started
        started.write_lines([start.connection, start.configuration])

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return the slaves."""
        return [_describe(name, started) for name, started in self._started.items()]

    def end(self, names: Collection[str]) -> None:
        """End slaves."""
        end_processes([self._started.pop(name) for name in names if name in self._started])

    def close(self) -> None:
        """End all slaves."""
        self.end(list(self._started))


def _describe(name: str, started: StartedProcess) -> LaunchedSlave:
    code = started.exit_code
    if code is None:
        return LaunchedSlave(name, LaunchState.RUNNING, _PLACE)
    return ended_slave(name, _PLACE, code, started.log_tail())
