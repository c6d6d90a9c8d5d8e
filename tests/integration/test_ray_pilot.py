"""A slave on the node of a real Ray on this machine."""

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import LaunchFailed, TaskTimeout
from tests import leaks, ray_cluster, slurm_cluster, work
from tests.clusters import BRISK, eventually
from tests.demonstrations import check_demonstrations
from tests.launching import check_not_launched

pytestmark = [
    pytest.mark.skipif(bool(ray_cluster.missing()), reason=ray_cluster.missing()),
    pytest.mark.timeout(240),  # Ray itself takes most of a minute to start on a busy machine
]


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    before = leaks.held()
    with ray_cluster.ray_cluster() as address:
        yield address
    assert leaks.left_since(before, patience_s=10.0) == []


@pytest.fixture(scope="module")
def cluster(ray: str) -> Iterator[Cluster]:
    with Cluster(on=f"ray:{ray}", cores=ray_cluster.CORES - 1, config=BRISK) as cluster:
        assert cluster.wait_for_slave(work.PATIENCE_S)
        yield cluster
        pids = {slave["pid"] for slave in cluster.status()["slaves"]}
    assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Ray keeps processes for later; what the module leaves is looked at when it ends."""


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def loop_for_ever() -> None:
    while True:
        time.sleep(0.01)


def test_a_slave_has_as_many_workers_as_it_asks_ray_for(cluster: Cluster) -> None:
    assert len(set(cluster.application().map(pid_after, [0.05] * 20))) == cluster.workers == ray_cluster.CORES - 1


def test_a_task_is_interrupted_and_its_worker_goes_on(cluster: Cluster) -> None:
    """Ray's workers block SIGINT, and so would their children."""
    app = cluster.application()
    pids = set(app.map(pid_after, [0.05] * 20))
    with pytest.raises(TaskTimeout):
        app.options(timeout_s=0.2).submit(loop_for_ever).result(work.PATIENCE_S)
    assert set(app.map(pid_after, [0.05] * 20)) == pids


def test_a_job_survives_the_death_of_its_actor(cluster: Cluster) -> None:
    app = cluster.application()
    futures = [app.submit(pid_after, 0.1) for _ in range(20)]
    (slave,) = cluster.status()["slaves"]
    actor = psutil.Process(slave["pid"]).parent()
    assert actor is not None and "ray::RaySlave" in " ".join(actor.cmdline())
    actor.kill()
    assert len([future.result(work.PATIENCE_S) for future in futures]) == 20
    eventually(lambda: not psutil.pid_exists(slave["pid"]), "the slave has ended with its actor")


def test_the_demonstrations_run(cluster: Cluster, ray: str, tmp_path: Path) -> None:
    check_demonstrations(f"%concurrent start --on ray:{ray} --cores 1", tmp_path)


def test_a_client_server_that_does_not_answer_is_refused() -> None:
    (port,) = slurm_cluster.free_ports(1)
    words = f"no Ray cluster answers at ray://127.0.0.1:{port}"
    if importlib.util.find_spec("grpc") is None:
        words = r"pip install 'ray\[client\]'"
    with pytest.raises(LaunchFailed, match=words), Cluster(on=f"ray://127.0.0.1:{port}"):
        pass


def test_an_address_without_ray_is_refused(ray: str) -> None:
    check_not_launched("ray:127.0.0.1:{port}", "no Ray cluster answers at 127.0.0.1:{port}")
