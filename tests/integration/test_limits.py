"""Small limits, large jobs: users are slowed down, everything is answered, and what never fits is refused in words."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import TooLarge
from tests import clusters
from tests.work import PATIENCE_S

LIMITS = {"MasterNode": {"tasks_per_client": 50, "bytes_per_client": 1024 * 1024}}
#: as if all nodes were on hosts of their own
FAR: dict[str, Any] = {"MasterNode": {**LIMITS["MasterNode"], "share_memory": False}}


@pytest.fixture(scope="module", params=[LIMITS, FAR], ids=["one host", "many hosts"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with clusters.shared_cluster(config=request.param) as cluster:
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> Iterator[ApplicationNode]:
    """Give the application, and see that nothing of it is left at the master, and that it still works."""
    app = cluster.application()
    yield app
    assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024
    clusters.eventually(lambda: cluster.status()["tasks"]["waiting"] == 0, "nothing waits")


@pytest.fixture(params=[LIMITS, FAR], ids=["one host", "many hosts"])
def own_app(request: pytest.FixtureRequest) -> Iterator[ApplicationNode]:
    """Give the application of a cluster of the test's own: a worker whose task is stopped may be replaced."""
    with clusters.shared_cluster(config=request.param) as cluster:
        yield cluster.application()


def hit_late(number: int) -> Any:
    return concurrent_nb.Hit(number) if number == 100 else None


def total(array: Any) -> float:
    return float(array.sum())


def captures(data: Any) -> Callable[[int], float]:
    return lambda index: float(data[0]) + index


def test_thousands_of_tasks_with_cancellations_are_all_answered(app: ApplicationNode) -> None:
    chance = random.Random(1)
    futures = [app.submit(pow, index, 2) for index in range(5_000)]
    small = app.start_job(pow, [(7, 2)])
    cancelled = {future for future in chance.sample(futures, 500) if future.cancel()}
    assert small.results() == [49]
    assert not all(future.done() for future in futures)  # the small job has not waited for the large one
    assert [future.result(PATIENCE_S) for future in futures if future not in cancelled] == [
        index**2 for index, future in enumerate(futures) if future not in cancelled
    ]
    assert cancelled
    assert all(future.cancelled() for future in cancelled)


@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_a_map_does_not_run_ahead_of_the_master(app: ApplicationNode, chunksize: int | None) -> None:
    assert sum(app.map(pow, range(5_000), [1] * 5_000, chunksize=chunksize)) == sum(range(5_000))


@pytest.mark.parametrize("batch", [None, 10, "auto"])
def test_jobs_of_all_kinds_end(app: ApplicationNode, batch: Any) -> None:
    job = app.start_job(pow, [(index, 2) for index in range(3_000)], batch=batch)
    assert job.results() == [index**2 for index in range(3_000)]


def test_a_hit_ends_what_waits_too(own_app: ApplicationNode) -> None:
    job = own_app.start_job(hit_late, [(index,) for index in range(5_000)], until=True)
    assert job.wait(PATIENCE_S)
    assert all(future.done() for future in job.futures)
    assert job.futures[-1].cancelled()


def test_a_job_is_cancelled_with_what_waits(own_app: ApplicationNode) -> None:
    job = own_app.start_job(pow, [(index, 2) for index in range(20_000)])
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert all(future.done() for future in job.futures)


def test_arrays_that_together_are_larger_than_the_limit(app: ApplicationNode) -> None:
    arrays = [np.full(30_000, index, dtype=np.float64) for index in range(60)]  # 240 KB each
    assert list(app.map(total, arrays, chunksize=1)) == [index * 30_000.0 for index in range(60)]


def test_functions_that_together_are_larger_than_the_limit(app: ApplicationNode) -> None:
    futures = [app.submit(captures(bytes([index]) * 300_000), 1) for index in range(20)]
    assert [future.result(PATIENCE_S) for future in futures] == [index + 1.0 for index in range(20)]


def test_what_never_fits_is_refused_in_words_and_the_rest_goes_on(app: ApplicationNode) -> None:
    futures = [app.submit(len, b"x" * size) for size in (10, 2_000_000, 20)]
    assert futures[0].result(PATIENCE_S) == 10
    assert futures[2].result(PATIENCE_S) == 20
    if app._client_thread.member.shares_memory:
        assert futures[1].result(PATIENCE_S) == 2_000_000  # it did not travel
        return
    with pytest.raises(TooLarge, match=r"2,\d{3},\d+ bytes .* 1,048,576 .*MasterNode.bytes_per_client"):
        futures[1].result(PATIENCE_S)


def test_two_notebooks_of_a_user_may_each_have_as_much(cluster: Cluster, app: ApplicationNode) -> None:
    with (
        concurrent_nb.connect(str(cluster.connection_file)) as second,
        concurrent_nb.connect(str(cluster.connection_file)) as third,
    ):
        jobs = [one.start_job(pow, [(index, 2) for index in range(2_000)]) for one in (second, third)]
        assert [sum(job.results()) for job in jobs] == [sum(index**2 for index in range(2_000))] * 2
