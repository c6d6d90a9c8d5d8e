"""Slaves inside the workers of a real Dask cluster, which has two workers on two addresses of this machine."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from concurrent_nb import Cluster
from tests import dask_cluster, leaks, work
from tests.clusters import BRISK, eventually
from tests.dask_cluster import DaskCluster
from tests.demonstrations import check_demonstrations
from tests.launching import check_not_launched

pytestmark = pytest.mark.skipif(bool(dask_cluster.missing()), reason=dask_cluster.missing())

HOSTS = ("127.0.0.2", "127.0.0.3")


@pytest.fixture(scope="module")
def dask() -> Iterator[DaskCluster]:
    before = leaks.held()
    with dask_cluster.dask_cluster(*HOSTS) as dask:
        yield dask
    assert leaks.left_since(before) == []


@pytest.fixture(scope="module")
def cluster(dask: DaskCluster) -> Iterator[Cluster]:
    with Cluster(on=f"dask://{dask.address}", config=BRISK) as cluster:
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "a slave on each host has joined")
        yield cluster
    for worker in dask.workers.values():  # they go on, and their slaves have ended
        assert worker.poll() is None
        assert psutil.Process(worker.pid).children() == []


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Slaves are replaced in these tests; what the module leaves is looked at when it ends."""


def dask_worker_after(seconds: float) -> int:
    """Give the pid of the worker of Dask in which this runs: worker, fork server, slave, worker of Dask."""
    time.sleep(seconds)
    return psutil.Process().parents()[2].pid


def test_a_job_runs_in_both_workers_of_dask(cluster: Cluster, dask: DaskCluster) -> None:
    pids = set(cluster.application().map(dask_worker_after, [0.05] * 40))
    assert pids == {worker.pid for worker in dask.workers.values()}
    assert cluster.workers == 4  # as many as threads


def test_nothing_secret_is_in_arguments(cluster: Cluster) -> None:
    shown = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    slaves = [each for each in shown if "concurrent_nb slave" in each]
    assert len(slaves) >= 2
    assert not [each for each in slaves if "token" in each or "master_key" in each]


def test_the_demonstrations_run(cluster: Cluster, dask: DaskCluster, tmp_path: Path) -> None:
    dask.add_workers("127.0.0.4")
    try:
        check_demonstrations(f"%concurrent start --on dask://{dask.address} --slaves 1", tmp_path)
    finally:
        dask.remove_worker("127.0.0.4")


def test_a_job_survives_the_death_of_a_worker_of_dask(cluster: Cluster, dask: DaskCluster) -> None:
    app = cluster.application()
    futures = [app.submit(dask_worker_after, 0.2) for _ in range(30)]
    dask.remove_worker(HOSTS[0])
    assert len([future.result(work.PATIENCE_S) for future in futures]) == 30
    eventually(lambda: "Dask: each of its 1 hosts has a slave" in str(cluster.status()), "another slave waits")
    dask.add_workers(HOSTS[0])
    eventually(lambda: len(cluster.status()["slaves"]) == 2, "a slave runs in the new worker")


#: Looks twice at the hosts of Dask: while a worker is frozen, and when it goes on.
LOOK_AT_HOSTS = """
import os, signal, sys, time
from concurrent_nb.nodes.launchers import dask_hosts
from concurrent_nb.nodes.launchers.pilot_messages import ConnectPilot
dask_hosts.FACTS_S = 2.0
hosts = dask_hosts.DaskHosts(ConnectPilot("dask", sys.argv[1], True, 20.0, {}))
print(len(hosts.hosts()), hosts.unfit, flush=True)
os.kill(int(sys.argv[2]), signal.SIGCONT)
while len(hosts.hosts()) < 3:
    time.sleep(0.1)
hosts.close()
"""


def test_a_frozen_worker_of_dask_holds_up_no_other(dask: DaskCluster) -> None:
    dask.add_workers("127.0.0.4")
    frozen = dask.workers["127.0.0.4"]
    try:
        frozen.send_signal(signal.SIGSTOP)
        words = [sys.executable, "-c", LOOK_AT_HOSTS, dask.address, str(frozen.pid)]
        said = subprocess.run(words, capture_output=True, text=True, timeout=work.PATIENCE_S, check=True).stdout
    finally:
        frozen.send_signal(signal.SIGCONT)
        dask.remove_worker("127.0.0.4")
    assert re.match(r"2 Dask worker tcp://127\.0\.0\.4:\d+: it has not reported its versions within 2 s", said)


def test_an_address_without_a_scheduler_is_refused(dask: DaskCluster) -> None:
    check_not_launched("dask://127.0.0.1:{port}", "no Dask scheduler answers at tcp://127.0.0.1:{port}")
