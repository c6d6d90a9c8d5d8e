"""Starts and ends the processes of a cluster's nodes, as children of this process."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from concurrent_nb.ids import AUTHKEY_VARIABLE, INITIALIZER_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.common.child_processes import end_children, write_line
from concurrent_nb.nodes.common.log_format import LogFormat
from concurrent_nb.nodes.common.sections import OF_LAUNCHERS
from concurrent_nb.nodes.common.start_report import StartReport
from concurrent_nb.nodes.common.wish_reader import WishReader
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.transport.master_identity import MasterIdentity

#: a node that is alive this long after its pipe was closed gets SIGTERM, and after KILL_AFTER_S it is killed
TERMINATE_AFTER_S: Final = 1.0
KILL_AFTER_S: Final = 3.0
#: how often a slave that dies is started again within RESTARTS_S
RESTARTS: Final = 4
RESTARTS_S: Final = 30.0


@dataclass(eq=False, slots=True)
class SlaveProcess:
    """A slave that is a child of this process."""

    workers: int
    process: "subprocess.Popen[str]"
    report: StartReport  #: of the process
    is_leaving: bool = False  #: because fewer workers were requested: it ends when its running tasks have ended
    supervisor: threading.Thread | None = None
    #: a slave that dies more often is not started again
    deaths: RestartLimit = field(default_factory=lambda: RestartLimit(RESTARTS, RESTARTS_S))


class NodeStarter:
    """Starts a master and slaves. Each ends when its standard input does.

    Args:
        config: configuration items of the nodes by section; read at each start.
        log: the file to which they write.
        log_format: of what they write there.
        initializer: pickle of what workers call before their first task; b"" for none.
    """

    def __init__(
        self, config: Mapping[str, Mapping[str, Any]], log: IO[str], log_format: LogFormat, initializer: bytes
    ) -> None:
        self._config = config
        self._log = log
        self._log_format = log_format
        self._initializer: IO[bytes] | None = None  # a file without a name, from which workers read it
        if initializer:
            self._initializer = tempfile.TemporaryFile()  # noqa: SIM115  (closed with this object)
            self._initializer.write(initializer)
            self._initializer.flush()

    def close(self) -> None:
        """Release the initializer: no slave is started any more."""
        if self._initializer is not None:
            self._initializer.close()

    def master(
        self, name: str, *, keeps: bool = False, former: MasterIdentity | None = None
    ) -> "tuple[subprocess.Popen[str], WishReader]":
        """Start the master of a cluster; return it, and what reads from it.

        Args:
            name: of the cluster.
            keeps: the second line that is read from it is to be its identity.
            former: the identity of the last master, which has died.
        """
        more = ("again",) if former is not None else ("keep",) if keeps else ()
        ours, masters = os.pipe()
        wishes = WishReader(ours)
        try:
            process = self._start("master", name, *more, config=self._config, stdout=masters)
            if former is not None:
                write_line(process, former.line())
            return process, wishes
        except BaseException:
            wishes.close()
            raise
        finally:
            os.close(masters)

    def slave(self, workers: int | None) -> "tuple[subprocess.Popen[str], StartReport]":
        """Start a slave with so many workers, or as many as configured; it waits for the path of a connection file."""
        TRACKER.note()
        inherited: tuple[int, ...] = ()
        variables = {
            SYS_PATH_VARIABLE: json.dumps(sys.path),
            AUTHKEY_VARIABLE: bytes(multiprocessing.current_process().authkey).hex(),
        }
        if self._initializer is not None:
            inherited = (self._initializer.fileno(),)
            variables[INITIALIZER_VARIABLE] = str(self._initializer.fileno())
        config = dict(self._config)
        if workers is not None:
            config["SlaveNode"] = {**config.get("SlaveNode", {}), "workers": workers}
        ours, slaves = os.pipe()
        inherited += (slaves,)
        try:
            process = self._start("slave", str(slaves), config=config, variables=variables, inherited=inherited)
            return process, StartReport(ours)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(slaves)

    def _start(
        self,
        role: str,
        *arguments: str,
        config: Mapping[str, Mapping[str, Any]],
        variables: Mapping[str, str] | None = None,
        inherited: tuple[int, ...] = (),
        stdout: int = subprocess.DEVNULL,
    ) -> "subprocess.Popen[str]":
        config = {section: items for section, items in config.items() if section not in OF_LAUNCHERS}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "concurrent_nb.nodes", role, self._log_format, json.dumps(config), *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=self._log,
            text=True,
            env={**os.environ, **(variables or {})},
            pass_fds=inherited,
            start_new_session=True,  # an interrupt of the notebook must not reach the nodes
        )


def end_nodes(nodes: "Sequence[subprocess.Popen[str]]") -> None:
    """End nodes, and wait until they have ended."""
    end_children(nodes, TERMINATE_AFTER_S, KILL_AFTER_S)
