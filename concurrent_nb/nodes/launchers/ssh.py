"""`on="ssh:hostA,user@hostB:8"`: slaves on hosts that the system's `ssh` reaches without a question.

One `ssh` for each slave, whose standard input is the slave's lease: when it ends, in any way, the slave ends. A host
that cannot reach the master gets a tunnel (`-R`) through the same connection.
"""

import logging
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib import import_module, metadata
from typing import Final

from concurrent_nb.components.config import ChoiceItem, FloatItem, IntItem, ListItem, TextItem
from concurrent_nb.components.core import Component, ComponentManager, implements
from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers.launcher import ILauncher, LaunchedSlave, LaunchState, SlaveStart
from concurrent_nb.nodes.launchers.place import SshHost, parse_hosts
from concurrent_nb.nodes.launchers.ssh_balance import SshBalance
from concurrent_nb.nodes.launchers.ssh_probe import HostVersions, remote_command
from concurrent_nb.nodes.launchers.ssh_session import ANSWER_S, SessionState, SshCommand, SshSession
from concurrent_nb.nodes.launchers.started_process import end_processes
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.addresses import is_loopback

log = logging.getLogger(__name__)

#: for every connection: no question is asked, and one that is dead is noticed within 15 s
_OPTIONS: Final = (
    "BatchMode=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=INFO", "RemoteCommand=none",
    "ForwardAgent=no", "ForwardX11=no", "PermitLocalCommand=no", "ControlMaster=no",
)  # fmt: skip
#: seconds for which a host gets no slave after its connection has failed, if there is another one
AVOID_S: Final = 30.0
#: a connection of the check that no slave has got within this time is closed
SPARE_S: Final = 20.0
#: seconds in which a slave that has its lines must join
JOIN_S: Final = 20.0


@implements(ILauncher)
class Ssh(Component):
    """Starts slaves on hosts that SSH reaches."""

    short_name = "ssh"
    place = ""
    start_bound_s = JOIN_S

    python = TextItem("", help="Path of the Python on the hosts; empty: the path of this one, or python3 there.")
    ssh_port = IntItem(0, min=0, max=65535, help="Port of the SSH servers; 0: as in ~/.ssh/config, or 22.")
    identity = TextItem("", help="File with the private key; empty: as in ~/.ssh/config, or the agent's.")
    ssh_options: ListItem[str] = ListItem(
        [], help="More options for ssh, as after -o: StrictHostKeyChecking=accept-new, for example."
    )
    ssh_config = TextItem("", help="Configuration file of ssh, as after -F; empty: ~/.ssh/config.")
    connect_timeout_s = FloatItem(10.0, min=1.0, help="Seconds in which a host must answer.")
    tunnel = ChoiceItem(
        "auto",
        ("auto", "always", "never"),
        help="Whether slaves reach the master through the connection of SSH: auto, if they cannot otherwise.",
    )

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self._hosts: list[SshHost] | None = None
        self._command: SshCommand | None = None
        self._spare: dict[SshHost, SshSession] = {}  # of the check
        self._sessions: dict[str, SshSession] = {}  # by slave
        self._starts: dict[str, SlaveStart] = {}  # of slaves whose lines have not been sent, or that may need a tunnel
        self._needs_tunnel: set[SshHost] = set()
        self._avoided_until_s: dict[SshHost, float] = {}
        self._balance = SshBalance()

    @property
    def slaves_default(self) -> int:
        """One slave on each host."""
        return len(self._all_hosts())

    def addresses(self) -> Sequence[str]:
        """Return the addresses of the interfaces by which packets to the hosts leave, and loopback for tunnels."""
        self._ssh()
        found: dict[str, None] = {}
        for host in self._all_hosts():
            address = "" if self.tunnel == "always" else self._address_towards(host)
            if address:
                found[address] = None
            elif self.tunnel != "never":
                self._needs_tunnel.add(host)
        others = [address for address in found if not is_loopback(address)]
        return [*others, "127.0.0.1"] if others else ()

    def check(self) -> None:
        """Connect to all hosts, and look for a Python there. Raises LaunchFailed with what is wrong with each."""
        command = self._make_command()
        for host in self._all_hosts():
            self._spare[host] = SshSession(host, command)
        until_s = time.monotonic() + self.connect_timeout_s + ANSWER_S
        faults = []
        for host, session in self._spare.items():
            while session.look() is SessionState.PROBING and time.monotonic() < until_s + 1.0:
                session.wait(0.1 if session.started.exit_code is None else 0.0)
            if session.state is not SessionState.READY:
                faults.append(f"{host.destination}: {session.fault or 'it does not answer'}")
        if faults:
            some = "the host" if len(self._spare) == 1 else f"{len(faults)} of {len(self._spare)} hosts"
            raise LaunchFailed(f"{some} cannot run slaves:\n" + "\n".join(faults))

    def launch(self, start: SlaveStart) -> None:
        """Start a slave on the host with the fewest."""
        host = self._best_host()
        self._balance.launched()
        session = self._spare.pop(host, None)
        if session is not None and (host in self._needs_tunnel or session.look() is not SessionState.READY):
            end_processes([session.started])
            session = None
        if session is None:
            session = SshSession(host, self._make_command(), self._tunnels_of(host, start))
        self._sessions[start.name], self._starts[start.name] = session, start
        self._advance(start.name)

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return the slaves; go on with those that start."""
        now = time.monotonic()
        for host in [host for host, session in self._spare.items() if now - session.made_at > SPARE_S]:
            end_processes([self._spare.pop(host).started])
        for name in list(self._starts):
            self._advance(name)
        described = [session.describe(name) for name, session in self._sessions.items()]
        for slave in described:
            if slave.state is LaunchState.ENDED and not slave.drained:
                self._avoided_until_s[self._sessions[slave.name].host] = now + AVOID_S
        self._try_hosts(now)
        misplaced = self._balance.misplaced(self._running())
        return [replace(slave, is_misplaced=slave.name in misplaced) for slave in described]

    def end(self, names: Collection[str]) -> None:
        """End slaves."""
        sessions = [self._sessions.pop(name) for name in names if name in self._sessions]
        for name in names:
            self._starts.pop(name, None)
        end_processes([session.started for session in sessions])

    def close(self) -> None:
        """End all slaves, and the connections."""
        sessions = [*self._sessions.values(), *self._spare.values()]
        self._sessions.clear()
        self._spare.clear()
        self._starts.clear()
        end_processes([session.started for session in sessions])

    # -------------------------------------------------------------------------------------------------------- starting

    def _advance(self, name: str) -> None:
        """Send a slave its lines when a Python waits for them; start it anew with a tunnel if it needs one."""
        session, start = self._sessions[name], self._starts[name]
        state = session.look()
        if state is SessionState.READY:
            session.begin(start)
        elif state is SessionState.UNREACHABLE:
            if self.tunnel == "never" or session.host in self._needs_tunnel:
                tunnel = "--tunnel never forbids a tunnel" if self.tunnel == "never" else "there is a tunnel"
                session.fail(f"it cannot reach the master, and {tunnel}: {session.unreached}", would_fail_again=True)
                del self._starts[name]
                return
            end_processes([session.started])
            self._needs_tunnel.add(session.host)
            tunnels = self._tunnels_of(session.host, start)
            try:
                self._sessions[name] = SshSession(session.host, self._make_command(), tunnels)
            except LaunchFailed as error:
                session.fail(str(error), would_fail_again=False)
                del self._starts[name]
        elif state in (SessionState.FAILED, SessionState.ENDED) or session.has_reached:
            del self._starts[name]

    def _running(self) -> dict[str, SshHost]:
        """Return the hosts of the slaves that run or start, by name."""
        return {
            name: session.host
            for name, session in self._sessions.items()
            if session.state not in (SessionState.FAILED, SessionState.ENDED)
        }

    def _try_hosts(self, now: float) -> None:
        """Connect to hosts that should have more slaves, and look whether those that were tried are back."""
        for host in self._balance.hosts_to_try(self._all_hosts(), self._running(), now):
            if host not in self._spare:
                try:
                    self._spare[host] = SshSession(host, self._make_command())
                except LaunchFailed as error:
                    log.info("host %s is not tried: %s", host.name, error)
        for host, session in list(self._spare.items()):
            state = session.look()
            if state is SessionState.READY:
                self._avoided_until_s.pop(host, None)
                self._balance.is_back(host, self._running())
            elif state is not SessionState.PROBING:
                end_processes([self._spare.pop(host).started])

    def _best_host(self) -> SshHost:
        now = time.monotonic()
        counts = Counter(self._running().values())
        return min(self._all_hosts(), key=lambda host: (self._avoided_until_s.get(host, 0.0) > now, counts[host]))

    def _tunnels_of(self, host: SshHost, start: SlaveStart) -> Sequence[str]:
        if host not in self._needs_tunnel:
            return ()
        info = connection_file.parse(start.connection.encode(), "the connection")
        places = [url.partition("://")[2] for url in info.endpoints]
        local = [place for place in places if is_loopback(place.rpartition(":")[0].strip("[]"))]
        return (local or places)[0], start.compute

    # ------------------------------------------------------------------------------------------------------- the hosts

    def _all_hosts(self) -> list[SshHost]:
        if self._hosts is None:
            self._hosts = parse_hosts(self.place)
        return self._hosts

    def _ssh(self) -> str:
        found = shutil.which("ssh")
        if found is None:
            raise LaunchFailed("on=ssh: this machine has no command ssh: install OpenSSH's client")
        return found

    def _words(self) -> list[str]:
        words = [self._ssh()]
        if self.ssh_config:
            words += ["-F", self.ssh_config]
        if self.ssh_port:
            words += ["-p", str(self.ssh_port)]
        if self.identity:
            words += ["-i", self.identity]
        timeout = f"ConnectTimeout={max(1, round(self.connect_timeout_s))}"
        for option in (*self.ssh_options, timeout, *_OPTIONS):
            words += ["-o", option]
        return words

    def _make_command(self) -> SshCommand:
        if self._command is None:
            python = ".".join(platform.python_version_tuple()[:2])
            pythons = (self.python,) if self.python else (sys.executable, f"python{python}", "python3")
            ours = HostVersions(python, import_module("concurrent_nb").__version__, metadata.version("cloudpickle"))
            words = (*self._words(), "-T")
            remote = remote_command(pythons, python)
            self._command = SshCommand(words, remote, pythons, self.connect_timeout_s, ours)
        return self._command

    def _address_towards(self, host: SshHost) -> str:
        """Return the address of this machine that a host sees; "" if it is reached through others, or not known."""
        asked = subprocess.run(
            [*self._words(), "-G", "--", host.destination], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        settings = dict(line.partition(" ")[::2] for line in asked.stdout.split("\n"))
        if any(settings.get(hop, "none") != "none" for hop in ("proxyjump", "proxycommand")):
            return ""
        try:
            found = socket.getaddrinfo(settings.get("hostname", host.name), 22, type=socket.SOCK_DGRAM)
        except OSError:
            return ""  # `check` has a better message
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                try:
                    probe.connect(address)  # sends nothing
                except OSError:
                    continue
                own = str(probe.getsockname()[0])
                return "" if "%" in own else own
        return ""
