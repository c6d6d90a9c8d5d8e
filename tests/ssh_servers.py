"""Hosts that SSH reaches: network namespaces with a real sshd each, and a configuration of `ssh` that knows them.

Needs root on Linux, iproute2 and OpenSSH's server. Where they are missing tests are skipped, but not in CI.
Nothing outside of a temporary folder and of the namespaces is changed, but for the near ends of their cables.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[1]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "sshd"


@dataclass(frozen=True)
class SshdHost:
    """A host."""

    name: str  #: for `ssh`
    namespace: str
    address: str
    home: Path  #: of the user there

    def pids(self) -> set[int]:
        """Give its processes, but not those of its sshd that listens."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        pids = {int(word) for word in found.stdout.split()}
        return {pid for pid in pids if not _is_listener(pid)}


@dataclass(frozen=True)
class SshHosts:
    """Some hosts, and the configuration with which `ssh` reaches them without a question."""

    hosts: tuple[SshdHost, ...]
    config: Path

    @property
    def on(self) -> str:
        """All of them, for `on=`."""
        return "ssh:" + ",".join(host.name for host in self.hosts)

    def pids(self) -> set[int]:
        """Give the processes of all hosts."""
        return {pid for host in self.hosts for pid in host.pids()}


@contextlib.contextmanager
def ssh_hosts(folder: Path, count: int = 2) -> Iterator[SshHosts]:
    """Run hosts named hostA, hostB, ...; skip the test where that cannot be done, but fail in CI."""
    before = leaks.processes()
    with contextlib.ExitStack() as undo:
        try:
            found = _start(folder, count, undo)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = f"no hosts with SSH here: {getattr(error, 'stderr', '') or error}"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}. CI has to be root, with iproute2 and openssh-server")
            pytest.skip(f"{reason}. Run as root with iproute2 and openssh-server")
        yield found
    assert leaks.processes().keys() <= before.keys()


def _start(folder: Path, count: int, undo: contextlib.ExitStack) -> SshHosts:
    folder.chmod(0o700)
    for key in ("client", "stranger", "host"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    (folder / "authorized_keys").write_text((folder / "client.pub").read_text())
    config, known, hosts = [], [], []
    for number in range(count):
        name = f"host{chr(ord('A') + number)}"
        namespace = f"cnbssh{os.getpid()}{number}"
        # A network of two addresses for each host, in a range that belongs to nobody, different for each process.
        first = os.getpid() % (1 << 14) * 64 + 4 * number
        here, there = (f"100.{64 + (first + end >> 16)}.{first + end >> 8 & 255}.{first + end & 255}" for end in (1, 2))
        _run("ip", "netns", "add", namespace)
        undo.callback(_run, "ip", "netns", "del", namespace)
        near = f"cnb{os.getpid()}s{number}"
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        undo.callback(subprocess.run, ["ip", "link", "del", near], capture_output=True)  # goes with the namespace
        _run("ip", "addr", "add", f"{here}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        for words in (
            ("addr", "add", f"{there}/30", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
        ):
            _run("ip", "-n", namespace, *words)
        host = SshdHost(name, namespace, there, folder / name)
        _serve(host, folder, undo)
        known.append(f"{there} {(folder / 'host.pub').read_text()}")
        config.append(f"Host {name}\n  HostName {there}\n  IdentityFile {folder}/client\n")
        hosts.append(host)
    first_host = hosts[0].address
    config += [
        f"Host stranger\n  HostName {first_host}\n  IdentityFile {folder}/stranger\n",
        f"Host unknown-key\n  HostName {first_host}\n  UserKnownHostsFile {folder}/nothing\n",
        f"Host closed\n  HostName {first_host}\n  Port 9\n",
        "Host silent\n  HostName 192.0.2.1\n  ProxyCommand sleep 60\n",
        f"Host *\n  User root\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n  UserKnownHostsFile {folder}/known\n"
        "  GlobalKnownHostsFile none\n",
    ]
    (folder / "known").write_text("".join(known))
    (folder / "config").write_text("".join(config))
    return SshHosts(tuple(hosts), folder / "config")


def _serve(host: SshdHost, folder: Path, undo: contextlib.ExitStack) -> None:
    """Start the sshd of a host, and wait until it listens."""
    for name in ("tmp", "runtime", "data", "config"):
        (host.home / name).mkdir(parents=True, mode=0o700)
    environment = {
        "HOME": host.home,
        "TMPDIR": host.home / "tmp",
        "JUPYTER_RUNTIME_DIR": host.home / "runtime",
        "JUPYTER_DATA_DIR": host.home / "data",
        "JUPYTER_CONFIG_DIR": host.home / "config",
        "PYTHONPATH": ROOT,
        leaks.MARK: os.environ[leaks.MARK],
    }
    settings = folder / f"sshd_config-{host.name}"
    settings.write_text(
        f"ListenAddress {host.address}\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPermitRootLogin yes\nAllowTcpForwarding yes\n"
        "SetEnv " + " ".join(f'{name}="{value}"' for name, value in environment.items()) + "\n"
    )
    # A /run of its own: sshd needs a folder there, which is missing where the system has no sshd that runs.
    script = f"mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec {shlex.quote(SSHD)} -D -e -f {settings}"
    words = ["ip", "netns", "exec", host.namespace, "sh", "-c", script]
    path = folder / f"sshd-{host.name}.log"
    with open(path, "w") as log:
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    undo.callback(server.wait)
    undo.callback(server.terminate)
    deadline = time.monotonic() + PATIENCE_S
    while "Server listening" not in path.read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"sshd has ended with {server.poll()}: {path.read_text()}")
        time.sleep(0.01)


def _is_listener(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        words = psutil.Process(pid).cmdline()
        return "[listener]" in " ".join(words) or SSHD in words
    return True


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)


def bare_python(folder: Path, changes: str) -> Path:
    """Make a Python whose facts are changed before it runs what the launcher sends: `sys.version_info = (3, 9, 1)`."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\n{changes}\nexec(sys.argv[2])\n")
    path.chmod(0o700)
    return path
