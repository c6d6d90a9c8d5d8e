"""Slaves as Jupyter kernels: asked for, or from birth, with stock clients, while they run tasks. Real processes."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.nodes.kernels import open_kernel
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from tests import work
from tests.clusters import eventually, run, shared_cluster, slave_pids
from tests.kernels import Client, attached

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(workers=1, name="lab") as cluster:
        yield cluster


@pytest.fixture
def info(cluster: Cluster) -> ConnectionFile:
    return info_of(cluster)


@pytest.fixture
def slave(cluster: Cluster) -> str:
    return slave_of(cluster)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the slave's kernel, which ends with the test: the slave is as it was."""
    path, is_ours = open_kernel(info_of(cluster), slave_of(cluster))
    assert not is_ours
    with attached(path) as client:
        yield client
        client.ask("shutdown_request", {"restart": False})
    eventually(lambda: not path.exists(), "the kernel takes its connection file away")


def info_of(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


def slave_of(cluster: Cluster) -> str:
    (slave,) = cluster.status()["slaves"]
    return str(slave["name"])


def modules_of(pid: int) -> str:
    """Give the files that a process has mapped: compiled modules are among them."""
    return "\n".join(entry.path for entry in psutil.Process(pid).memory_maps())


# ------------------------------------------------------------------------------------------------------------ on demand


def test_a_slave_that_nobody_looks_into_has_nothing_of_a_kernel(cluster: Cluster) -> None:
    program = """
        import sys
        import concurrent_nb.nodes.slave
        heavy = {"IPython", "ipykernel", "asyncio", "tornado", "jupyter_client", "concurrent_nb.nodes.kernel_host"}
        print(sorted(heavy & set(sys.modules)))
    """
    told = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())],
        capture_output=True,
        text=True,
        check=True,
        timeout=work.PATIENCE_S,
    )
    assert told.stdout == "[]\n"


def test_a_stock_client_evaluates_while_the_slave_runs_tasks(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    app = cluster.application()
    running = app.submit(work.start_and_wait, tmp_path / "started", tmp_path / "go")
    work.wait_for(tmp_path / "started")
    assert client.run("6 * 7").value == "42"
    assert client.run("slave.unfinished").value == "1"
    (tmp_path / "go").touch()
    assert running.result(work.PATIENCE_S) > 0
    assert client.run("slave.unfinished").value == "0"


def test_tasks_run_while_a_cell_blocks_and_spins(cluster: Cluster, client: Client) -> None:
    app = cluster.application()
    for source in (
        "import time; time.sleep(1.0)",
        "import time; end = time.time() + 1.0\nwhile time.time() < end: pass",
    ):
        cell = client.start(source)
        assert list(app.map(work.square, range(200))) == [x * x for x in range(200)]
        assert client.finish(cell).error is None


def test_what_one_types_in_a_slave_kernel(cluster: Cluster, client: Client, slave: str) -> None:
    assert client.run("%who").text.split() == ["slave"]
    assert f"slave {slave}: 1 worker, active" in client.run("%concurrent status").text
    assert client.run("slave").value == f"<slave {slave}: 1 workers, 0 tasks unfinished>"
    assert client.run("slave.name = 'mine'").error == "AttributeError"
    assert client.run("import os; os.getpid()").value == str(slave_pids(cluster)[0])
    assert client.run("1 / 0").error == "ZeroDivisionError"
    assert client.run("import asyncio; await asyncio.sleep(0.01, 'slept')").value == "'slept'"
    assert client.run("print('seen')").text == "seen\n"


def test_asking_twice_gives_the_same_kernel(cluster: Cluster, client: Client, info: ConnectionFile, slave: str) -> None:
    client.run("mine = 'still here'")
    path, is_ours = open_kernel(info, slave)
    assert not is_ours
    with attached(path) as other:
        assert other.run("mine").value == "'still here'"


def test_two_ask_at_once_and_get_one_kernel(cluster: Cluster, info: ConnectionFile, slave: str) -> None:
    found: list[Any] = []
    askers = [threading.Thread(target=lambda: found.append(open_kernel(info, slave))) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(found) == 2 and found[0] == found[1]
    with attached(found[0].path) as client:
        client.ask("shutdown_request", {"restart": False})
    eventually(lambda: not found[0].path.exists(), "the kernel takes its connection file away")


def test_the_file_and_the_keys(cluster: Cluster, client: Client, info: ConnectionFile, slave: str) -> None:
    path, _ = open_kernel(info, slave)
    assert path.stat().st_mode & 0o777 == 0o600
    known = json.loads(path.read_text())
    assert known["ip"] == "127.0.0.1"
    assert len(known["curve_publickey"]) == len(known["curve_secretkey"]) == 40
    client.run("import logging; logging.getLogger().setLevel('DEBUG')")
    client.run("'something said at debug level'")
    client.run("logging.getLogger().setLevel('WARNING')")
    for secret in (known["key"], known["curve_secretkey"]):
        assert secret not in cluster.log_tail(100_000)


@pytest.mark.parametrize("source", ["while True: pass", "import asyncio; await asyncio.sleep(1000)"])
def test_an_interrupt_ends_the_cell_and_nothing_else(cluster: Cluster, client: Client, slave: str, source: str) -> None:
    cell = client.start(f"print('begun', flush=True)\n{source}")
    while client.client.get_iopub_msg(timeout=work.PATIENCE_S)["msg_type"] != "stream":
        pass
    assert client.ask("interrupt_request", {})["status"] == "ok"
    assert client.finish(cell).error in ("KeyboardInterrupt", "CancelledError")
    assert client.run("'alive'").value == "'alive'"
    client.ask("interrupt_request", {})  # with nothing to interrupt
    assert client.run("'alive'").value == "'alive'"
    assert slave_of(cluster) == slave
    assert cluster.application().submit(work.square, 3).result(work.PATIENCE_S) == 9


def test_a_shutdown_ends_the_kernel_and_not_the_slave(cluster: Cluster, info: ConnectionFile, slave: str) -> None:
    for _ in range(2):
        path, _ = open_kernel(info, slave)
        with attached(path) as client:
            assert client.run("'mine' in dir()").value == "False"
            client.run("mine = 1")
            assert client.ask("shutdown_request", {"restart": False})["status"] == "ok"
        eventually(lambda gone=path: not gone.exists(), "the kernel takes its connection file away")  # type: ignore[misc]
    (pid,) = slave_pids(cluster)
    eventually(lambda: psutil.Process(pid).num_threads() <= 4, "the kernel's threads have gone")
    assert cluster.application().submit(work.square, 3).result(work.PATIENCE_S) == 9


# ----------------------------------------------------------------------------------------------------- who may, who not


def test_only_an_admin_opens_a_kernel(info: ConnectionFile, slave: str) -> None:
    for role in ("client", "slave"):
        with (
            ControlClient(info.endpoints, info.tokens[role]) as control,
            pytest.raises(AccessRefused, match=f"open_kernel needs a token of role admin; this one is of role {role}"),
        ):
            control.call("open_kernel", slave=slave)


def test_a_file_without_an_admins_token_says_so(info: ConnectionFile, slave: str, tmp_path: Path) -> None:
    tokens = {"client": info.tokens["client"]}
    path = connection_file.write(
        ConnectionFile(name="lab", endpoints=info.endpoints, master_key=info.master_key, tokens=tokens),
        tmp_path / "for-clients.json",
    )
    with pytest.raises(AccessRefused, match="no token for an admin"):
        open_kernel(connection_file.read(path), slave)


def test_an_unknown_slave_lists_those_that_there_are(info: ConnectionFile, slave: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no slave 'nobody'; the slaves are: {slave}"):
        open_kernel(info, "nobody")


def test_the_command_line_says_how_to_attach(cluster: Cluster, client: Client, slave: str) -> None:
    told = run("kernel", "--connect", "lab", slave)
    assert told.returncode == 0, told.stderr
    assert "jupyter console --existing kernel-slave-" in told.stdout
    refused = run("kernel", "--connect", "lab", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the slaves are:" in refused.stderr
