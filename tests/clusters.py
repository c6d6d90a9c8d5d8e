"""Clusters to test against: started once for a module, watched for leaks, their processes found by descent."""

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests import leaks, work
from tests.work import PATIENCE_S

#: nodes find out about each other ten times as fast as by default
BRISK: dict[str, dict[str, Any]] = {"MasterNode": {"interval_s": 0.1, "suspect_after_s": 0.5, "lost_after_s": 1.0}}


@contextlib.contextmanager
def shared_cluster(workers: int = 2, **options: Any) -> Iterator[Cluster]:
    """Run a cluster for all tests of a module, with all of its processes up; see that it leaves nothing behind."""
    before = leaks.held()
    with Cluster(workers=workers, **options) as cluster:
        settle(cluster)
        yield cluster
    assert leaks.left_since(before) == []


@contextlib.contextmanager
def nothing_left_but_workers(cluster: Cluster) -> Iterator[None]:
    """Check for leaks as for every test, but allow that the cluster has replaced workers that died."""
    folders = [Path(os.environ["JUPYTER_RUNTIME_DIR"]), Path(os.environ["TMPDIR"])]
    before = leaks.held(folders)
    yield
    settle(cluster)
    workers = workers_of(slave_pids(cluster))
    replaced = {key: words for key, words in leaks.processes().items() if key[1] in workers}
    left = leaks.left_since({**before, **replaced}, folders)
    assert not left, "the test left behind:\n  " + "\n  ".join(left)


def settle(cluster: Cluster) -> None:
    """Return when every worker of an embedded cluster is up and has answered something."""
    app = cluster.application()
    eventually(lambda: all_at_work(cluster, app), "all workers answer")


def all_at_work(cluster: Cluster, app: ApplicationNode) -> bool:
    """Tell whether every worker that should be there answers."""
    slots = sum(slave["slots"] for slave in cluster.status()["slaves"])
    pids = {pid for _, pid in app.map(work.slow_square, range(50 * max(1, slots)))}
    return slots > 0 and len(pids) == slots and pids == workers_of(slave_pids(cluster))


def eventually(holds: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"after {within_s:.0f} s it still is not so that {what}"
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------- processes


def slave_pids(cluster: Cluster) -> list[int]:
    """Give the pids of the slaves that the master knows, which are in their names."""
    return [int(slave["name"].rpartition("-")[2]) for slave in cluster.status()["slaves"]]


def master_pid(cluster: Cluster) -> int:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file).pid


def workers_of(slaves: list[int]) -> set[int]:
    """Give the pids of the workers of slaves: the children of their children, the templates."""
    found = set()
    for slave in slaves:
        with contextlib.suppress(psutil.NoSuchProcess):
            for template in psutil.Process(slave).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= {child.pid for child in template.children()}
    return found


def alive(pids: set[int]) -> set[int]:
    """Give those that are processes and no zombies."""
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
    return found


def descendants(pid: int) -> set[int]:
    """Give the pids of all processes below one."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def check_script(text: str, folder: Path, cluster: Cluster) -> None:
    """Run a script beside a cluster, with its connection file as the argument: it says that it is fine, or why not."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    command = [sys.executable, str(script), str(cluster.connection_file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.stdout.strip(), ended.returncode) == ("fine", 0), ended.stderr


# ------------------------------------------------------------------------------------------------------- command line


def command(*arguments: str) -> list[str]:
    """Give the words of a `concurrent-nb` command."""
    return [sys.executable, "-m", "concurrent_nb.cli.main", *arguments]


def run(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a `concurrent-nb` command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, env=env, stdin=subprocess.DEVNULL
    )


@contextlib.contextmanager
def running(
    *arguments: str, says: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a `concurrent-nb` command beside the test: from when it has printed `says`; ends it if it has not ended."""
    process = subprocess.Popen(
        [*prefix, *command(*arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # it says something, or ends
        while line and says not in line:
            line = process.stdout.readline()
        if not line:
            _, errors = process.communicate(timeout=PATIENCE_S)
            raise AssertionError(f"{' '.join(arguments)} ended with {process.returncode}: {errors}")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def status_of(name: str) -> dict[str, Any]:
    """Ask the master of a cluster what there is."""
    info = connection_file.read(name)
    with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem) as control:
        told = control.call("status")
    assert isinstance(told, dict)
    return told
