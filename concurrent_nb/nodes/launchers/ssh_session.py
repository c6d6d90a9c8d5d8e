"""A connection of `ssh` to a host: finds a Python there, then becomes a slave. Never waits; see `look`."""

import json
import os
import re
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from concurrent_nb.nodes.common.launch_lines import read_configuration, write_configuration
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart, ended_slave
from concurrent_nb.nodes.launchers.place import SshHost
from concurrent_nb.nodes.launchers.ssh_probe import (
    NO_PYTHON,
    SSH_FAILED,
    UNREACHABLE,
    HostVersions,
    fault_of_answer,
    fault_of_pythons,
    fault_of_ssh,
    read_answers,
)
from concurrent_nb.nodes.launchers.started_process import StartedProcess
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.addresses import is_loopback

#: the line in which `ssh` reports the port of a tunnel
_ALLOCATED: Final = re.compile(r"Allocated port (\d+) for remote forward to (\S+):(\d+)")
_READ_BYTES: Final = 65536
#: seconds that a host may take from the connection to its answer
ANSWER_S: Final = 15.0


class SessionState(Enum):
    """How far a connection is."""

    PROBING = "probing"  #: connecting, or looking for a Python
    READY = "ready"  #: a Python waits for a slave's lines
    BEGUN = "begun"  #: the slave has its lines
    UNREACHABLE = "unreachable"  #: the host cannot reach the master
    FAILED = "failed"  #: no slave can run there; `fault` has the reason
    ENDED = "ended"  #: the slave has ended


@dataclass(frozen=True, slots=True)
class SshCommand:
    """How hosts are reached."""

    words: tuple[str, ...]  #: `ssh` with its options
    remote: str  #: the command for the host
    pythons: tuple[str, ...]  #: those that `remote` tries
    connect_s: float  #: in which a connection must come
    ours: HostVersions


class SshSession:
    """A connection.

    Args:
        host: where to.
        command: how.
        tunnels: HOST:PORT of the control and the compute channel, for a host that does not reach them; () for none.

    Raises LaunchFailed if `ssh` cannot be started.
    """

    def __init__(self, host: SshHost, command: SshCommand, tunnels: Sequence[str] = ()) -> None:
        self.host = host
        self.state = SessionState.PROBING
        self.fault = ""  #: why no slave can run there
        self.would_fail_again = False  #: the fault is not one of the network
        self.has_reached = False  #: the host has reached the master
        self.unreached = ""  #: addresses of the master that it could not reach, and why
        self._command = command
        self._tunnels = tuple(tunnels)
        self._received = b""
        self._until_s = time.monotonic() + command.connect_s + ANSWER_S
        self.made_at = time.monotonic()  #: by the monotonic clock
        forwards = [word for to in self._tunnels for word in ("-R", f"127.0.0.1:0:{to}")]
        if forwards:  # a connection that is shared would keep them when this one has ended
            forwards += ["-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none"]
        words = [*command.words, *forwards, "--", host.destination, command.remote]
        self.started = StartedProcess(words, f"ssh to {host.destination}", keeps_output=False)
        assert self.started.process.stdout is not None
        self._stdout = self.started.process.stdout.fileno()
        os.set_blocking(self._stdout, False)

    def look(self) -> SessionState:
        """Read what has come, and return the state."""
        if self.state in (SessionState.FAILED, SessionState.ENDED, SessionState.UNREACHABLE):
            return self.state
        code = self.started.exit_code  # before what it has written is read
        self._read()
        answers = read_answers(self._received.decode(errors="replace"))
        if self.state is SessionState.PROBING and any("version" in answer for answer in answers):
            answer = next(answer for answer in answers if "version" in answer)
            self.state = SessionState.READY
            if fault := fault_of_answer(answer, self._command.ours, time.time()):
                self.fail(fault, would_fail_again=True)
                return self.state
        self.has_reached = self.has_reached or any("reached" in answer for answer in answers)
        if any("unreachable" in answer for answer in answers):
            self.state = SessionState.UNREACHABLE
            self.unreached = next(str(answer["unreachable"]) for answer in answers if "unreachable" in answer)
        elif code is not None:
            self._judge_end(code, answers)
        elif self.state is SessionState.PROBING and time.monotonic() > self._until_s:
            self.fail(f"it has not answered within {self._command.connect_s + ANSWER_S:.0f} s")
        return self.state

    def wait(self, timeout_s: float) -> None:
        """Wait until something has come, or the connection has ended."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        poll.poll(max(0.0, timeout_s) * 1000)

    def begin(self, start: SlaveStart) -> None:
        """Give a connection that is READY the lines of a slave."""
        info = connection_file.parse(start.connection.encode(), "the connection")
        if self._tunnels:
            ports = self._tunnel_ports()
            if len(ports) < len(self._tunnels):
                self.fail(self._with_log("its SSH server has not reported which ports lead to the master"))
                return
            control, compute = ports
            scheme = info.endpoints[0].partition("://")[0]
            info = msgspec.structs.replace(
                info, endpoints=[f"{scheme}://127.0.0.1:{control}"], compute_endpoint=f"127.0.0.1:{compute}"
            )
        else:
            there = [url for url in info.endpoints if not is_loopback(_host_and_port(url)[0])]
            info = msgspec.structs.replace(info, endpoints=there or info.endpoints)
        arguments = ["slave", "--connect", "-", "--name", start.name, "--log-format", start.log_format]
        line = {"arguments": arguments, "endpoints": [_host_and_port(url) for url in info.endpoints]}
        configuration = start.configuration
        if self.host.slots is not None:
            sections, initializer = read_configuration(configuration.encode(), "the configuration")
            sections = {**sections, "SlaveNode": {**sections.get("SlaveNode", {}), "workers": self.host.slots}}
            configuration = write_configuration(sections, initializer)
        self.started.write_lines([json.dumps(line), connection_file.in_one_line(info), configuration])
        self.state = SessionState.BEGUN

    def describe(self, name: str) -> LaunchedSlave:
        """Return what is known of the slave that this connection is for."""
        state = self.look()
        place = f"SSH host {self.host.name}" + (" (tunnel)" if self._tunnels else "")
        if state is SessionState.FAILED:
            return LaunchedSlave(name, LaunchState.ENDED, place, self.fault, refused=self.would_fail_again)
        if state is SessionState.ENDED:
            code = self.started.exit_code
            if code == SSH_FAILED:
                fault = fault_of_ssh(self.host.destination, self.started.log_tail(), self._command.connect_s)
                return LaunchedSlave(name, LaunchState.ENDED, place, self._with_log(fault))
            return ended_slave(name, place, 0 if code is None else code, self.started.log_tail())
        return LaunchedSlave(name, LaunchState.RUNNING if state is SessionState.BEGUN else LaunchState.STARTING, place)

    # --------------------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        while True:
            try:
                received = os.read(self._stdout, _READ_BYTES)
            except BlockingIOError:
                return
            if not received:
                return
            self._received += received

    def _judge_end(self, code: int, answers: Sequence[dict[str, Any]]) -> None:
        if self.state is SessionState.BEGUN:
            self.state = SessionState.UNREACHABLE if code == UNREACHABLE else SessionState.ENDED
        elif code == SSH_FAILED:
            fault = fault_of_ssh(self.host.destination, self.started.log_tail(), self._command.connect_s)
            self.fail(self._with_log(fault))
        elif code == NO_PYTHON:
            fault = fault_of_pythons(answers, self._command.ours, self._command.pythons)
            self.fail(fault if answers else self._with_log(fault), would_fail_again=True)
        else:
            self.fail(self._with_log(f"its Python has ended with exit code {code}"))

    def fail(self, fault: str, *, would_fail_again: bool = False) -> None:
        """Count as failed."""
        self.state = SessionState.FAILED
        self.fault = fault
        self.would_fail_again = would_fail_again

    def _with_log(self, fault: str) -> str:
        log = self.started.log_tail().strip()
        return f"{fault}\n{log}" if log else fault

    def _tunnel_ports(self) -> list[int]:
        """Return the ports on the host that lead to the control and the compute channel."""
        found = _ALLOCATED.findall(self.started.log_head())
        ports = {f"{host}:{port}": int(allocated) for allocated, host, port in found}
        wanted = [to.replace("[", "").replace("]", "") for to in self._tunnels]
        return [ports[to] for to in wanted if to in ports]


def _host_and_port(url: str) -> tuple[str, int]:
    place = url.partition("://")[2]
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)
