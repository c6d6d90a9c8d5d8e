"""Fresh worker processes: nothing that runs or waits is lost or fails, whosever it is."""

import os
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

import concurrent_nb
from concurrent_nb import Cluster, Needs
from concurrent_nb.errors import AccessRefused
from concurrent_nb.nodes.common.restarts import restart_workers
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.transport import connection_file
from tests import clusters
from tests.work import PATIENCE_S


def pid(_: object = None) -> int:
    return os.getpid()


def run_until(path: str) -> tuple[int, int]:
    """Note that this has begun, and wait until a file is there; give the pid, and how often it has begun."""
    with open(f"{path}.begun", "a") as file:
        file.write("x")
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid(), os.path.getsize(f"{path}.begun")


def leave_a_mark() -> int:
    sys.modules["mark"] = threading  # what a task may leave behind
    return os.getpid()


def is_marked(_: object = None) -> bool:
    return "mark" in sys.modules


def test_workers_are_fresh_and_nothing_is_lost(tmp_path: Path) -> None:
    with Cluster(workers=2, name="restarted") as cluster:
        clusters.settle(cluster)
        app = cluster.application()
        before = set(app.map(pid, range(100), chunksize=1))
        app.submit(leave_a_mark).result(PATIENCE_S)
        assert cluster.restart_workers() == 2
        assert not set(app.map(pid, range(100), chunksize=1)) & before
        assert not any(app.map(is_marked, range(50), chunksize=1))

        # With much to do meanwhile, from two applications, and again and again.
        other = concurrent_nb.connect("restarted")
        futures = [one.submit(abs, -index) for index in range(2000) for one in (app, other)]
        slow = [app.submit(time.sleep, 0.1) for _ in range(6)]
        for now in (False, True, False, True):
            assert cluster.restart_workers(now=now) == 2
        assert [future.result(PATIENCE_S) for future in futures[::2]] == list(range(2000))
        assert [future.result(PATIENCE_S) for future in futures[1::2]] == list(range(2000))
        assert all(future.result(PATIENCE_S) is None for future in slow)
        other.close()

        # What runs ends first, and those that wait need not wait for that.
        go = tmp_path / "go"
        running = app.submit(run_until, str(go))
        clusters.eventually(running.running, "it runs")
        restart = threading.Thread(target=cluster.restart_workers)
        restart.start()
        old = set(app.map(pid, range(20), chunksize=1))
        assert len(cluster.status()["slaves"]) == 1
        clusters.eventually(lambda: cluster.status()["slaves"][0]["outdated"] == 1, "only that one is left")
        assert restart.is_alive()
        go.touch()
        worker, begun = running.result(PATIENCE_S)
        restart.join(PATIENCE_S)
        assert begun == 1
        assert worker not in old | set(app.map(pid, range(50), chunksize=1))

        # ... or is stopped, and runs again, whatever it needs; however often, nobody is blamed.
        for needs in (None, Needs(kind="thread"), Needs(0)):
            go = tmp_path / f"go-{needs}"
            running = app.options(needs=needs).submit(run_until, str(go))
            for times in range(1, 5):
                clusters.eventually(
                    lambda go=go, times=times: (
                        Path(f"{go}.begun").exists()  # type: ignore[misc]
                        and Path(f"{go}.begun").stat().st_size == times
                    ),
                    f"it runs for the {times}. time",
                )
                if times < 4:
                    assert cluster.restart_workers(now=True) == 2
            go.touch()
            assert running.result(PATIENCE_S)[1] == 4


def test_it_can_be_had_from_a_shell_and_a_notebook(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    session = CurrentCluster()
    assert session.restart() == "there is no cluster to restart: the next task starts one"
    with Cluster(workers=1, name="shared") as cluster:
        clusters.settle(cluster)
        app = cluster.application()
        pids = [app.submit(pid).result(PATIENCE_S)]
        answer = clusters.run("restart", "shared")
        assert answer.stdout.splitlines()[-1].startswith("1 worker replaced in ")
        pids.append(app.submit(pid).result(PATIENCE_S))
        session.connect("shared")
        assert session.restart(now=True).startswith("1 worker replaced in ")
        pids.append(app.submit(pid).result(PATIENCE_S))
        assert len(set(pids)) == 3

        go = tmp_path / "go"
        running = app.submit(run_until, str(go))
        clusters.eventually(running.running, "it runs")
        finish = threading.Timer(1.5, go.touch)
        finish.start()
        assert session.restart().startswith("1 worker replaced in ")
        assert "1 of 1 worker still to be replaced, when their tasks have ended" in capsys.readouterr().out
        assert running.result(PATIENCE_S)[1] == 1
        session.stop()
        assert "nowhere" in clusters.run("restart", "nowhere").stderr

        # Only admins may.
        assert cluster.connection_file is not None
        info = connection_file.read(cluster.connection_file)
        with pytest.raises(AccessRefused):
            restart_workers(msgspec.structs.replace(info, tokens={"client": info.tokens["client"]}))
