"""Hosts on whole clusters: an application that lives in one, and what becomes of them when slaves and owners go."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import concurrent_nb
from concurrent_nb import Cluster, Needs
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.wire.messages import HOSTS_MAX
from tests import work
from tests.clusters import BRISK, alive, eventually, settle, shared_cluster, slave_pids
from tests.work import PATIENCE_S

HOST = Needs(kind="system_host")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give a cluster of one worker."""
    with shared_cluster(workers=1, config=BRISK) as cluster:
        yield cluster


def pids_in(path: Path) -> set[int]:
    return {int(child.name) for child in path.iterdir()}


def test_a_host_waits_for_its_own_tasks_which_run_in_the_only_worker(cluster: Cluster) -> None:
    app = cluster.application()
    job = app.start_job(work.orchestrate, [(str(cluster.connection_file), 50)], needs=HOST)
    ((host, answers),) = job.results(PATIENCE_S)
    assert [value for value, _ in answers] == [n * n for n in range(50)]
    workers = {pid for _, pid in answers}
    assert len(workers) == 1
    assert host not in workers
    eventually(lambda: not alive({host}), "the host has gone")


def test_more_hosts_than_a_slave_takes_wait_with_the_master(cluster: Cluster, tmp_path: Path) -> None:
    app = cluster.application()
    job = app.start_job(work.pid_after, [(tmp_path / "end",)] * (HOSTS_MAX + 3), needs=HOST)
    eventually(lambda: cluster.status()["tasks"]["waiting"] == 3, "three wait")
    assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024
    (tmp_path / "end").touch()
    assert len(set(job.results(PATIENCE_S))) == HOSTS_MAX + 3


def test_a_host_is_cancelled_while_it_runs(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.application().start_job(work.tell_pid_and_stay, [(tmp_path,)], needs=HOST)
    eventually(lambda: pids_in(tmp_path), "it runs")
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert job.futures[0].cancelled()
    eventually(lambda: not alive(pids_in(tmp_path)), "its process has gone")


def test_the_hosts_of_an_application_that_leaves_are_stopped(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.connection_file is not None
    app = concurrent_nb.connect(cluster.connection_file)
    app.start_job(work.tell_pid_and_stay, [(tmp_path,)] * 2, needs=HOST)
    eventually(lambda: len(pids_in(tmp_path)) == 2, "both run")
    app.close()
    eventually(lambda: not alive(pids_in(tmp_path)), "their processes have gone")


def test_a_host_whose_slave_is_killed_runs_again_elsewhere(tmp_path: Path) -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        settle(cluster)
        app = cluster.application()
        job = app.start_job(work.tell_pid_and_stay, [(tmp_path,)], needs=HOST)
        eventually(lambda: pids_in(tmp_path), "it runs")
        before = slave_pids(cluster)
        first = pids_in(tmp_path)
        cluster.scale(2)
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "there are two slaves")
        psutil.Process(before[0]).send_signal(signal.SIGKILL)
        eventually(lambda: pids_in(tmp_path) > first, "it runs again")
        assert not alive(first)
        job.cancel()
        assert job.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "needs",
    [Needs(cores=2, kind="system_host"), Needs(cores=-1), Needs(kind="cloud"), "host"],  # type: ignore[arg-type]
)
def test_needs_that_cannot_be_are_refused_before_anything_is_sent(cluster: Cluster, needs: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs is"):
        cluster.application().start_job(pow, [(2, 2)], needs=needs)
