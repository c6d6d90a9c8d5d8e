"""Slaves on hosts that SSH reaches: real servers in network namespaces, what can be wrong with them, tunnels."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers import ssh_balance
from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from concurrent_nb.nodes.launchers.ssh_probe import (
    NO_PYTHON,
    HostVersions,
    fault_of_answer,
    read_answers,
    remote_command,
)
from concurrent_nb.transport import connection_file
from tests.clusters import BRISK, eventually, running, status_of
from tests.clusters import run as run_command
from tests.demonstrations import check_demonstrations
from tests.launcher_contract import check_launcher, slaves_of
from tests.ssh_servers import SshHosts, bare_python, ssh_hosts
from tests.work import PATIENCE_S

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHosts]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture(autouse=True)
def leaves_nothing_on_the_hosts(hosts: SshHosts) -> Iterator[None]:
    """No process, and no file but compiled cells, which each machine keeps."""
    yield
    eventually(lambda: not hosts.pids(), "no process is left on a host")
    files = [path for host in hosts.hosts for path in host.home.rglob("*") if path.is_file()]
    assert not [path for path in files if "concurrent_nb/cython" not in str(path)]


def test_the_contract_of_launchers(hosts: SshHosts) -> None:
    check_launcher(hosts.on, "SSH host host", ssh_config=str(hosts.config))


def test_slaves_go_back_to_a_host_that_was_away(hosts: SshHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_balance, "TRY_S", 0.5)
    with Cluster(on=hosts.on, slaves=2, workers=1, config=BRISK, ssh_config=str(hosts.config)) as cluster:

        def one_on_each(but: Set[str] = frozenset()) -> bool:
            """Return whether there is one on each host, and none of these."""
            slaves = slaves_of(cluster)
            places = sorted(slave["place"] for slave in slaves.values())
            return places == ["SSH host hostA", "SSH host hostB"] and not slaves.keys() & but

        eventually(one_on_each, "there is one on each")
        first = slaves_of(cluster).keys()
        for pid in hosts.hosts[1].pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Another one is started on host A, perhaps too briefly to be seen; for the one on host B, the older one leaves.
        eventually(lambda: one_on_each(first), "there is one on each again")
        eventually(lambda: not cluster.status()["launched"], "the one too many has left")
        assert cluster.application().submit(pow, 2, 10).result(PATIENCE_S) == 1024


def test_through_a_tunnel(hosts: SshHosts) -> None:
    """The master listens on loopback alone, which the hosts do not reach."""
    config = {"MasterNode": {"addresses": ["127.0.0.1"]}}
    with Cluster(on=f"ssh:{hosts.hosts[0].name}:2", config=config, ssh_config=str(hosts.config)) as cluster:
        assert cluster.application().submit(pow, 2, 10).result() == 1024
        eventually(lambda: slaves_of(cluster), "it is shown")
        (slave,) = slaves_of(cluster).values()
        assert (slave["slots"], slave["place"]) == (2, "SSH host hostA (tunnel)")


def test_a_tunnel_from_the_beginning_and_none_at_all(hosts: SshHosts) -> None:
    options: dict[str, Any] = {"ssh_config": str(hosts.config), "workers": 1}
    with Cluster(on="ssh:hostA", tunnel="always", **options) as cluster:
        assert cluster.application().submit(pow, 2, 10).result() == 1024
    config = {"MasterNode": {"addresses": ["127.0.0.1"]}}
    message = r"cannot reach the master, and --tunnel never forbids .*refused"
    with (
        Cluster(on="ssh:hostA", tunnel="never", config=config, **options) as cluster,
        pytest.raises(LaunchFailed, match=message),
    ):
        cluster.wait_for_slave(PATIENCE_S)


def test_hosts_that_cannot_be_reached(hosts: SshHosts) -> None:
    """Each is named with what is wrong, and what to do."""
    faults = {
        "nowhere.invalid": "there is no host of that name",
        "closed": "no SSH server listens there",
        "silent": "does not answer",
        "stranger": "asks for a password, or does not know your key: run `ssh-copy-id stranger`",
        "unknown-key": "its key is not known here: run `ssh unknown-key` once",
    }
    cluster = Cluster(on=f"ssh:hostA,{','.join(faults)}", ssh_config=str(hosts.config), connect_timeout_s=1.0)
    with pytest.raises(LaunchFailed, match="5 of 6 hosts cannot run slaves:") as raised:
        cluster.start()
    for host, fault in faults.items():
        assert re.search(f"^{host}: .*{re.escape(fault)}", str(raised.value), re.MULTILINE), raised.value
    assert "\nhostA:" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("sys.exit(127)", "it has no Python: none of .*/python runs there"),
        ("sys.version_info = (2, 9, 1)", r"it has no Python 3\.\d+, which this machine has .*/bin/python.* is 2\.9"),
        (
            "sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix) and 'site-' not in path]",
            "concurrent_nb is not installed there for .*pip install",
        ),
        (
            "import concurrent_nb; concurrent_nb.__version__ = '0.0.1'",
            ".*/bin/python.* has concurrent_nb 0.0.1 there, this machine has .*pip install concurrent-nb==",
        ),
        ("import os; os.statvfs = lambda path: 1 / 0", "its Python has ended with exit code 1(.|\n)*ZeroDivisionError"),
    ],
)
def test_pythons_that_will_not_do(hosts: SshHosts, tmp_path: Path, changes: str, message: str) -> None:
    python = bare_python(tmp_path, changes)
    launcher = make_launcher(choose_launcher("ssh:hostA"), {"ssh_config": str(hosts.config), "python": str(python)})
    try:
        with pytest.raises(LaunchFailed, match=f"the host cannot run slaves:\nhostA: {message}"):
            launcher.check()
    finally:
        launcher.close()


def test_the_demonstrations(hosts: SshHosts, tmp_path: Path) -> None:
    check_demonstrations(f"%concurrent start --on {hosts.on} --workers 1 --ssh-config {hosts.config}", tmp_path)


def test_the_command_line(hosts: SshHosts) -> None:
    """Start with short options, status with places, scale from outside, and an owner that is killed."""
    arguments = ("start", "--name", "lab", "--on", "ssh:hostA,hostB:2", "--workers", "1", "--ssh-config")
    with running(*arguments, str(hosts.config), says="is running") as started:
        eventually(lambda: len(status_of("lab")["slaves"]) == 2, "both have joined")
        slaves = {each["place"]: each["slots"] for each in status_of("lab")["slaves"]}
        assert slaves == {"SSH host hostA": 1, "SSH host hostB": 2}
        assert "(SSH host hostB)" in run_command("status", "lab").stdout
        assert run_command("scale", "lab", "--slaves", "1").stdout == (
            "1 slave from now on, after 2: 1 leave when their running tasks have ended\n"
        )
        eventually(lambda: len(status_of("lab")["slaves"]) == 1, "one has left")
        assert run_command("scale", "lab", "--adapt", "1:2").stdout.startswith("from 1 to 2 slaves")
        started.kill()  # its slaves notice it, without a word of it
        eventually(lambda: not hosts.pids(), "nothing runs on the hosts any more")
        eventually(lambda: "lab" not in connection_file.names(), "and the master has ended")


# ------------------------------------------------------------------------------------- what runs before a slave does


def run(words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, shell=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **options
    )


def test_the_command_finds_the_first_python_that_will_do(tmp_path: Path) -> None:
    """Any POSIX shell runs it; a Python that does not exist, or fails, is passed over."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    ran = run(remote_command(["/no/such python", "false's", sys.executable], python), cwd=tmp_path)
    (answer,) = read_answers(ran.stdout)
    assert (answer["python"], answer["path"], ran.returncode) == (python, sys.executable, 0), ran
    assert fault_of_answer(answer, HostVersions(python, answer["version"], answer["cloudpickle"]), answer["time"]) == ""


def test_the_command_says_that_no_python_will_do(tmp_path: Path) -> None:
    ran = run(remote_command(["/no/such/python"], "3.11"), cwd=tmp_path)
    assert (ran.returncode, read_answers(ran.stdout)) == (NO_PYTHON, [])
    ran = run(remote_command([sys.executable], "2.7"), cwd=tmp_path)
    (answer,) = read_answers(ran.stdout)
    assert (ran.returncode, answer["path"]) == (NO_PYTHON, sys.executable)


def test_files_in_the_home_folder_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken for the module json')")
    ran = run(remote_command([sys.executable], f"{sys.version_info[0]}.{sys.version_info[1]}"), cwd=tmp_path)
    assert len(read_answers(ran.stdout)) == 1, ran
