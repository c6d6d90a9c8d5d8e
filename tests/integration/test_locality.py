"""Slaves that share no memory: how many bytes of large arrays travel to them is what the strategy decides."""

import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from concurrent_nb import Cluster
from tests.clusters import eventually, settle, shared_cluster
from tests.work import PATIENCE_S

ARRAYS, ARRAY_BYTES = 5, 2_000_000
TASKS_PER_ARRAY = 20
#: so a task may queue for 0.4 s behind others rather than have its array sent once more
BYTES_PER_S = 5e6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A master that opens nobody's memory, as if everybody were on a host of his own, and two slaves."""
    config = {"MasterNode": {"share_memory": False}, "Locality": {"bytes_per_s": BYTES_PER_S}}
    with shared_cluster(1, config=config) as cluster:
        cluster.scale(2)
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "the second slave has joined")
        settle(cluster)
        yield cluster


def fetched_bytes(cluster: Cluster) -> int:
    return sum(slave["fetched_bytes"] for slave in cluster.status()["slaves"])


def use(array: Any) -> float:
    time.sleep(0.002)
    return float(array[-1])


def fetched_by(cluster: Cluster, strategy: str) -> int:
    """Run many tasks of a few new arrays, in an order by chance; give how many bytes have travelled to slaves."""
    app = cluster.application()
    arrays = [app.put(np.full(ARRAY_BYTES // 8, float(number))) for number in range(ARRAYS)]
    order = list(range(ARRAYS)) * TASKS_PER_ARRAY
    random.Random(1).shuffle(order)
    before = fetched_bytes(cluster)
    job = app.start_job(use, [(arrays[number],) for number in order], strategy=strategy)
    assert job.results(PATIENCE_S) == order
    return fetched_bytes(cluster) - before


def test_fewer_bytes_travel_where_tasks_go_to_their_arrays(cluster: Cluster) -> None:
    pulled, near = (fetched_by(cluster, strategy) for strategy in ("pull_round_robin", "locality"))
    # Each array travels to one slave at least, and never twice to the same.
    assert ARRAYS * ARRAY_BYTES <= near < pulled < 2 * ARRAYS * (ARRAY_BYTES + 100_000)


def test_slaves_that_share_memory_fetch_nothing() -> None:
    with shared_cluster(1) as cluster:
        cluster.scale(2)
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "the second slave has joined")
        assert fetched_by(cluster, "locality") == 0
