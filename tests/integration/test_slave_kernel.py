"""Slaves as Jupyter kernels: asked for, or from birth, with stock clients, while they run tasks. Real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import AccessRefused, ConfigurationError, KernelUnavailable
from concurrent_nb.nodes.common.kernel_file import KernelFile, open_kernel
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from tests import work
from tests.clusters import BRISK, alive, descendants, eventually, run, running, shared_cluster, slave_pids, status_of
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


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the slave's kernel."""
    path, is_ours = open_kernel(info_of(cluster), slave_of(cluster))
    assert not is_ours
    with attached(path) as client:
        yield client
        client.ask("shutdown_request", {"restart": False})
    eventually(lambda: not path.exists(), "the kernel takes its connection file away")


@pytest.fixture(scope="module")
def other() -> Iterator[Cluster]:
    """A cluster whose kernels may end."""
    with shared_cluster(workers=1) as cluster:
        yield cluster


def info_of(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


def slave_of(cluster: Cluster) -> str:
    (slave,) = cluster.status()["slaves"]
    return str(slave["name"])


# ------------------------------------------------------------------------------------------------------------ on demand


def test_a_slave_that_nobody_looks_into_has_nothing_of_a_kernel(cluster: Cluster) -> None:
    program = """
        import sys
        import concurrent_nb.nodes.slave.process
        heavy = {"IPython", "ipykernel", "asyncio", "tornado", "jupyter_client"}
        heavy.add("concurrent_nb.nodes.slave.kernel_thread")
        print(sorted(heavy & set(sys.modules)))
    """
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())],
        capture_output=True,
        text=True,
        check=True,
        timeout=work.PATIENCE_S,
    )
    assert result.stdout == "[]\n"


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
    assert "slave" in client.run("%who").text.split()
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


def test_a_shutdown_ends_the_kernel_and_not_the_slave(other: Cluster) -> None:
    info, slave = info_of(other), slave_of(other)
    for _ in range(2):
        # Two requests at the same time get one kernel.
        found: list[KernelFile] = []
        askers = [threading.Thread(target=lambda: found.append(open_kernel(info, slave))) for _ in range(2)]  # noqa: B023
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert len(found) == 2 and found[0] == found[1]
        path = found[0].path
        with attached(path) as client:
            assert client.run("'mine' in dir()").value == "False"
            client.run("mine = 1")
            assert client.ask("shutdown_request", {"restart": False})["status"] == "ok"
    eventually(lambda: not path.exists(), "the kernel takes its connection file away")
    (pid,) = slave_pids(other)
    eventually(lambda: psutil.Process(pid).num_threads() <= 4, "the kernel's threads have gone")
    assert other.application().submit(work.square, 3).result(work.PATIENCE_S) == 9


def test_the_debugger_stops_a_cell_and_tasks_run_on() -> None:
    with Cluster(workers=1) as cluster:
        app = cluster.application()
        app.submit(work.square, 1).result(work.PATIENCE_S)
        path, _ = open_kernel(info_of(cluster), slave_of(cluster))
        with attached(path) as client:
            stop_at_a_breakpoint(client, app)
            client.ask("shutdown_request", {"restart": False})
        path, _ = open_kernel(info_of(cluster), slave_of(cluster))
        with attached(path) as client:  # the second kernel of a slave finds the debugger of the first
            Debugger(client).attach()


def stop_at_a_breakpoint(client: Client, app: ApplicationNode) -> None:
    assert "debugger" in client.ask("kernel_info_request", {})["supported_features"]
    debugger = Debugger(client)
    debugger.attach()
    code = "def f(x):\n    y = x + 1\n    return y\nprint(f(41))"
    source = debugger.request("dumpCell", {"code": code})["sourcePath"]
    debugger.request(
        "setBreakpoints", {"source": {"path": source}, "breakpoints": [{"line": 3}], "sourceModified": False}
    )
    debugger.request("configurationDone", {})
    cell = client.start(code)
    thread = debugger.event("stopped")["threadId"]
    assert list(app.map(work.square, range(100))) == [x * x for x in range(100)]
    frame = debugger.request("stackTrace", {"threadId": thread})["stackFrames"][0]
    assert (frame["name"], frame["line"]) == ("f", 3)
    debugger.request("continue", {"threadId": thread})
    assert client.finish(cell).text == "42\n"
    debugger.request("disconnect", {})


class Debugger:
    """The debugging side of a client, as JupyterLab's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sequence = 0

    def attach(self) -> None:
        self.request("initialize", {"clientID": "test", "adapterID": "", "pathFormat": "path", "linesStartAt1": True})
        self.request("attach", {})

    def request(self, command: str, arguments: dict[str, Any]) -> Any:
        self._sequence += 1
        content = {"type": "request", "seq": self._sequence, "command": command, "arguments": arguments}
        reply = self._client.ask("debug_request", content)
        assert reply.get("success"), reply.get("message", reply)
        return reply.get("body")

    def event(self, name: str) -> Any:
        while True:
            message = self._client.client.get_iopub_msg(timeout=work.PATIENCE_S)
            if message["msg_type"] == "debug_event" and message["content"]["event"] == name:
                return message["content"]["body"]


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
    with pytest.raises(AccessRefused, match="no admin's token"):
        open_kernel(connection_file.read(path), slave)


def test_an_unknown_slave_lists_those_that_there_are(info: ConnectionFile, slave: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no slave 'nobody'; the slaves are: {slave}"):
        open_kernel(info, "nobody")


def test_the_command_line_says_how_to_attach(cluster: Cluster, client: Client, slave: str) -> None:
    result = run("kernel", "--connect", "lab", slave)
    assert result.returncode == 0, result.stderr
    assert "jupyter console --existing kernel-slave-" in result.stdout
    refused = run("kernel", "--connect", "lab", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the slaves are:" in refused.stderr


def test_a_slave_that_is_lost_while_it_opens_settles_the_call_soon() -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        cluster.application().submit(work.square, 1).result(work.PATIENCE_S)
        slave = slave_of(cluster)
        (pid,) = slave_pids(cluster)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(KernelUnavailable, match=f"slave '{slave}' was lost before it opened its kernel"):
            open_kernel(info_of(cluster), slave)
        os.kill(pid, signal.SIGCONT)
        # It looks for the master again, and opens its kernel again on request.
        eventually(lambda: cluster.status()["slaves"], "the slave is back")
        path, _ = open_kernel(info_of(cluster), slave_of(cluster))
        with attached(path) as client:
            client.start("while True: pass")
            cluster.close()
    assert not path.exists()  # a cell that can be interrupted does not even keep the kernel from tidying up


def test_a_kernel_whose_cell_runs_for_ever_does_not_keep_the_cluster_from_ending() -> None:
    with Cluster(workers=1) as cluster:
        cluster.application().submit(work.square, 1).result(work.PATIENCE_S)
        path, _ = open_kernel(info_of(cluster), slave_of(cluster))
        with attached(path) as client:
            client.start("import time; time.sleep(1000)")  # which no interrupt reaches
            started = time.monotonic()
            cluster.close()
    assert time.monotonic() - started < 5.0
    assert not path.exists()


def test_a_slave_without_ipykernel_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ipykernel.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'ipykernel'\", name='ipykernel')"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with running("start", "--name", "bare", "--workers", "1", says="is running", env=env):
        eventually(lambda: status_of("bare")["slaves"], "the slave has joined")
        slave = status_of("bare")["slaves"][0]["name"]
        with pytest.raises(KernelUnavailable, match=r"named 'ipykernel'.*pip install 'concurrent-nb\[notebook\]'"):
            open_kernel(connection_file.read("bare"), slave)


# ----------------------------------------------------------------------------------------------------------- from birth


@contextlib.contextmanager
def jupyter_kernel(name: str, path: Path, *options: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `jupyter kernel` with a kernelspec of ours."""
    command = [sys.executable, "-c", "from jupyter_client.kernelapp import main; main()", f"--kernel={name}"]
    process = subprocess.Popen(
        [*command, f"--KernelManager.connection_file={path}", *options],
        env={**os.environ, "JUPYTER_PATH": str(ROOT), **env},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=work.PATIENCE_S)
        finally:
            process.kill()
            path.unlink(missing_ok=True)


ENCRYPTED = "--KernelManager.transport_encryption=required"


def test_a_slave_from_birth_and_an_ordinary_one_are_looked_into_while_they_run_tasks(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    born_path = tmp_path / "born.json"
    with jupyter_kernel("concurrent_slave", born_path, ENCRYPTED, CONCURRENT_NB_CONNECTION="lab"):
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "both slaves are there")
        slots = sum(slave["slots"] for slave in cluster.status()["slaves"])
        app = cluster.application()
        tasks = [app.submit(work.start_and_wait, tmp_path / f"started-{n}", tmp_path / "go") for n in range(slots)]
        for n in range(slots):
            work.wait_for(tmp_path / f"started-{n}")
        with attached(born_path) as born:
            for stock in (born, client):
                assert stock.run("6 * 7").value == "42"
                assert int(stock.run("slave.unfinished").value or 0) >= 1
                assert "slave" in stock.run("%who").text.split()
                assert "active" in stock.run("%concurrent status").text
            assert "debugger" in born.ask("kernel_info_request", {})["supported_features"]
            assert born.run("import os; os.getpid()").value != client.run("import os; os.getpid()").value
            interrupted = born.start("print('begun', flush=True)\nwhile True: pass")
            while born.client.get_iopub_msg(timeout=work.PATIENCE_S)["msg_type"] != "stream":
                pass
            born.ask("interrupt_request", {})
            assert born.finish(interrupted).error == "KeyboardInterrupt"
            assert not any(task.done() for task in tasks)  # the interrupt was for the cell
            assert json.loads(born_path.read_text())["curve_publickey"]
            path, is_ours = open_kernel(info_of(cluster), (born.run("slave.name").value or "").strip("'"))
            assert is_ours  # a copy: the kernel has a file of Jupyter's own
            with attached(path) as same:
                assert same.run("os.getpid()").value == born.run("os.getpid()").value
            path.unlink()
        (tmp_path / "go").touch()
        assert len({task.result(work.PATIENCE_S) for task in tasks}) == slots
        with attached(born_path) as born:
            born.ask("shutdown_request", {"restart": False})
        eventually(lambda: len(cluster.status()["slaves"]) == 1, "the slave has left with its kernel")


def test_the_end_of_the_cluster_ends_a_slave_from_birth(tmp_path: Path) -> None:
    with Cluster(workers=1) as cluster:
        where = str(cluster.connection_file)
        born_path = tmp_path / "born.json"
        with jupyter_kernel("concurrent_slave", born_path, CONCURRENT_NB_CONNECTION=where) as jupyter:
            eventually(lambda: len(cluster.status()["slaves"]) == 2, "the slave has joined")
            with attached(born_path) as born:
                born.start("while True: pass")  # not even that keeps it
                children = descendants(jupyter.pid)
                cluster.close()
                eventually(lambda: not alive(children), "the kernel has gone, and its workers")


@pytest.mark.parametrize(
    ("where", "message"),
    [("", "set CONCURRENT_NB_CONNECTION to its name"), ("nobody", "no cluster 'nobody'")],
)
def test_a_kernel_process_without_a_cluster_reports_it(where: str, message: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "concurrent_nb.nodes.slave.kernel_process", "-f", str(tmp_path / "none.json")],
        env={**os.environ, "CONCURRENT_NB_CONNECTION": where},
        capture_output=True,
        text=True,
        timeout=work.PATIENCE_S,
    )
    assert (result.returncode, message in result.stderr, "Traceback" in result.stderr) == (1, True, False), (
        result.stderr
    )


def test_a_slave_from_birth_is_never_plain_beyond_loopback(cluster: Cluster, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "concurrent_nb.nodes.slave.kernel_process",
            "-f",
            str(tmp_path / "none.json"),
            "--ip=0.0.0.0",
        ],
        env={**os.environ, "CONCURRENT_NB_CONNECTION": "lab"},
        capture_output=True,
        text=True,
        timeout=work.PATIENCE_S,
    )
    assert result.returncode == 1
    assert "without encryption" in result.stderr and "transport_encryption=required" in result.stderr


# ------------------------------------------------------------------------------------------- the notebook's own kernel


def test_the_notebook_kernel_comes_up_with_a_cluster_and_does_not_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "notebook.json"
    with jupyter_kernel("concurrent", path, ENCRYPTED):
        eventually(lambda: path.exists() and path.read_text().rstrip().endswith("}"), "its connection file is there")
        with attached(path) as notebook:
            assert notebook.run("1 + 1").value == "2"
            assert "an embedded cluster" in notebook.run("%concurrent status").text
            assert notebook.run("%%concurrent_task\nsum(range(10))").value == "45"
            notebook.ask("shutdown_request", {"restart": False})


def test_the_notebook_kernel_takes_the_cluster_that_its_environment_names(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "notebook.json"
    with jupyter_kernel("concurrent", path, ENCRYPTED, CONCURRENT_NB_CONNECTION="lab"):
        eventually(lambda: path.exists() and path.read_text().rstrip().endswith("}"), "its connection file is there")
        with attached(path) as notebook:
            assert "cluster lab" in notebook.run("%concurrent status").text
            slave = slave_of(cluster)
            result = notebook.run(f"%concurrent kernel {slave}").text
            assert (
                f"opened a kernel in slave {slave}" in result and "jupyter console --existing kernel-slave-" in result
            )
            refused = notebook.run("%concurrent kernel nobody")
            assert refused.error == "ConfigurationError" and slave in refused.message
            notebook.ask("shutdown_request", {"restart": False})
