"""Objects of multiprocessing that need their owner's authkey, as arguments and as captured names."""

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import pytest

from concurrent_nb.errors import FunctionNotLoadable, NotPicklable
from concurrent_nb.nodes.cluster import Cluster
from tests.work import PATIENCE_S


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2) as cluster:
        list(cluster.application().map(abs, range(10)))  # so that what lives as long as the cluster is there
        yield cluster


def fill(queue: Any, table: Any, n: int) -> Any:
    queue.put(n * n)
    table[n] = os.getpid()
    return table


def count(lock: Any, value: Any) -> None:
    with lock:
        value.value += 1


def test_they_work_as_with_a_process_pool(cluster: Cluster) -> None:
    app = cluster.application()
    with multiprocessing.Manager() as manager:
        queue, table, lock, value = manager.Queue(), manager.dict(), manager.Lock(), manager.Value("i", 0)
        futures = [app.submit(fill, queue, table, n) for n in range(4)]
        back = [future.result(PATIENCE_S) for future in futures]
        assert sorted(queue.get(timeout=PATIENCE_S) for _ in range(4)) == [0, 1, 4, 9]
        assert sorted(table.keys()) == [0, 1, 2, 3]
        assert back[0].copy() == table.copy()
        list(app.map(count, [lock] * 20, [value] * 20))
        assert value.value == 20
        captured = manager.list()

        def append(n: int) -> None:
            captured.append(n)

        list(app.map(append, range(3)))
        assert sorted(captured) == [0, 1, 2]


def test_a_worker_s_programs_do_not_find_the_key(cluster: Cluster) -> None:
    assert cluster.application().submit(lambda: [n for n in os.environ if "AUTHKEY" in n]).result(PATIENCE_S) == []


def test_what_is_only_for_children_is_refused(cluster: Cluster) -> None:
    context = multiprocessing.get_context("fork")
    things: list[Any] = [context.Lock(), context.Semaphore(1)]
    for thing in things:
        error = cluster.application().submit(len, thing).exception(PATIENCE_S)
        assert isinstance(error, NotPicklable)
        assert "of multiprocessing: it belongs to this process" in str(error)


def test_workers_that_do_not_belong_to_the_owner_say_why_they_cannot(cluster: Cluster) -> None:
    key = multiprocessing.current_process().authkey
    multiprocessing.current_process().authkey = b"another"
    try:
        with multiprocessing.Manager() as manager:
            table = manager.dict()
            error = cluster.application().submit(len, table).exception(PATIENCE_S)
            assert isinstance(error, FunctionNotLoadable)
            assert "only workers of a cluster that is embedded" in str(error)
    finally:
        multiprocessing.current_process().authkey = bytes(key)
