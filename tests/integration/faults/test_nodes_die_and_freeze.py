"""F8, F10, F14, F30: slaves and masters that die, are stopped or asked to leave, on a cluster that supervises them."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import ClusterStartFailed, MasterLost
from concurrent_nb.transport import connection_file
from tests import work
from tests.clusters import BRISK, eventually, master_pid, running, slave_pids, status_of, workers_of
from tests.work import PATIENCE_S

STOPPED_S = 0.6
QUICK: dict[str, dict[str, Any]] = {**BRISK, "SlaveNode": {"stopped_s": STOPPED_S}}


def answers(app: ApplicationNode) -> bool:
    return bool(app.submit(pow, 2, 10).result(PATIENCE_S) == 1024)


def test_a_master_that_is_killed_is_started_again_and_what_is_known_of_it_holds(tmp_path: Path) -> None:
    brisk = [f"--MasterNode.{item}={value}" for item, value in BRISK["MasterNode"].items()]
    with running("start", "--name", "phoenix", "--workers", "2", *brisk, says="is running") as start:
        before = connection_file.read("phoenix")
        copy = tmp_path / "concurrent_nb-phoenix.json"
        shutil.copy2(connection_file.path_of("phoenix"), copy)
        with concurrent_nb.connect("phoenix") as app:
            assert answers(app)
            slaves = status_of("phoenix")["slaves"]
            futures = [app.submit(work.slow_square, number) for number in range(400)]
            os.kill(before.pid, signal.SIGKILL)
            # Each resolves once: right if the application has found the new master in time, else as lost.
            errors = [future.exception(PATIENCE_S) for future in futures]
            assert {type(error) for error in errors} <= {type(None), MasterLost}
            done = [(number, future.result()[0]) for number, future in enumerate(futures) if not future.exception()]
            assert all(square == number * number for number, square in done)
        eventually(lambda: connection_file.read("phoenix").epoch > before.epoch, "another master has its name")
        after = connection_file.read("phoenix")
        assert after.pid != before.pid
        assert (after.endpoints, after.master_key, after.tokens) == (before.endpoints, before.master_key, before.tokens)
        with concurrent_nb.connect(str(copy)) as app:
            assert answers(app)
        eventually(lambda: status_of("phoenix")["slaves"], "the slave has come back by itself")
        assert [each["pid"] for each in status_of("phoenix")["slaves"]] == [each["pid"] for each in slaves]
        start.terminate()
        out, errors_of_start = start.communicate(timeout=PATIENCE_S)
        assert start.returncode == 0
        assert "cluster phoenix has been stopped" in out
        assert "master of cluster phoenix was killed by SIGKILL; another one is started" in errors_of_start


def test_a_master_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.nodes.cluster.RESTARTS", 1)
    with Cluster(workers=1, restart_master=True) as cluster:
        first = master_pid(cluster)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: master_pid(cluster) != first, "there is another one")
        assert not cluster.wait(0)
        # Also while the slave is dead: it waits for the next master.
        (slave,) = [each.process.pid for each in cluster._slaves]
        with contextlib.suppress(ProcessLookupError):  # it has ended with the first master, and is started again
            os.kill(slave, signal.SIGKILL)
        assert answers(cluster.application())
        os.kill(master_pid(cluster), signal.SIGKILL)
        assert cluster.wait(PATIENCE_S)
        with pytest.raises(ClusterStartFailed, match="has died too often and is not started again: it was killed by"):
            cluster.raise_if_failed()
        with pytest.raises(ClusterStartFailed, match="has died too often"):
            cluster.application()


def test_a_cluster_ends_while_its_master_is_started_again() -> None:
    with Cluster(workers=1, restart_master=True) as cluster:
        pid = master_pid(cluster)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: cluster._master is not None and cluster._master.pid != pid, "another one is started")
    assert cluster._master is not None
    assert cluster._master.poll() is not None


def test_a_slave_and_a_master_that_are_stopped_are_told_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Cluster(workers=1, config=QUICK, restart_master=True) as cluster:
        app = cluster.application()
        assert answers(app)
        (slave,) = slave_pids(cluster)
        workers = workers_of([slave])
        future = app.submit(pow, 3, 2)
        assert future.result(PATIENCE_S) == 9
        os.kill(slave, signal.SIGSTOP)
        assert app.submit(pow, 2, 5).result(PATIENCE_S) == 32, "on another slave"
        assert slave_pids(cluster) != [slave]
        eventually(lambda: not any(map(psutil.pid_exists, workers)), "its workers have ended with it")
        assert f"slave {slave} of cluster {cluster.name} has been stopped, as by SIGSTOP" in caplog.text

        master = master_pid(cluster)
        os.kill(master, signal.SIGSTOP)
        eventually(lambda: master_pid(cluster) != master, "another master is there")
        assert answers(cluster.application())
        assert f"master {master} of cluster {cluster.name} has been stopped" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process is not woken by its parent's death")
def test_a_slave_that_dies_while_what_starts_its_workers_is_stopped_leaves_nothing() -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        assert answers(cluster.application())
        (slave,) = slave_pids(cluster)
        (template,) = [child.pid for child in psutil.Process(slave).children()]
        os.kill(template, signal.SIGSTOP)
        os.kill(slave, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(template), "it goes on, and ends")
        assert answers(cluster.application())


def test_a_master_that_nobody_starts_again_is_told_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Cluster(workers=1, config=QUICK) as cluster:
        master = master_pid(cluster)
        os.kill(master, signal.SIGSTOP)
        eventually(lambda: "nothing comes from it until it goes on" in caplog.text, "it is told")
        os.kill(master, signal.SIGCONT)
        assert answers(cluster.application())
        assert master_pid(cluster) == master


def test_a_worker_that_is_stopped_is_told_to_the_application_and_in_the_status(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Cluster(workers=1, config=QUICK) as cluster, cluster.application() as app:
        future = app.submit(work.start_and_wait, tmp_path / "s", tmp_path / "u")
        started = work.wait_for(tmp_path / "s")
        worker = int(started.read_text())
        started.unlink()
        os.kill(worker, signal.SIGSTOP)
        again = int(work.wait_for(started).read_text())  # it runs again elsewhere
        assert again != worker
        (suspect,) = cluster.status()["suspects"]
        assert "has been stopped, as by SIGSTOP, for" in json.dumps(suspect["deaths"])
        (tmp_path / "u").touch()
        assert future.result(PATIENCE_S) == again
        started.unlink()
        (tmp_path / "u").unlink()
    assert f"worker {worker} has been stopped, as by SIGSTOP, for" in capfd.readouterr().err


def test_a_slave_that_is_terminated_at_work_leaves_and_no_task_counts_a_death() -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        app = cluster.application()
        arguments = ("slave", "--connect", str(cluster.connection_file), "--workers", "1", "--name", "leaves")
        with running(*arguments, says="has joined") as leaving:
            results = app.map(work.slow_square, range(1500), timeout=PATIENCE_S)
            first = [next(results) for _ in range(300)]
            leaving.terminate()
            assert [square for square, _ in [*first, *results]] == [number * number for number in range(1500)]
            assert leaving.wait(PATIENCE_S) == 0
        assert cluster.status()["suspects"] == []
        assert [each["name"] for each in cluster.status()["slaves"]] != ["leaves"]
