"""Tasks of several cores on a whole cluster: who runs beside them, and what the user is told."""

import os
from itertools import pairwise

import pytest

from concurrent_nb import ApplicationNode, Cluster, Needs, TaskFunction
from concurrent_nb.errors import ConfigurationError, PoisonTask, TaskRefused
from concurrent_nb.task_functions import use
from tests import fixtures, work
from tests.work import PATIENCE_S

ALL = Needs(cores=0)
CORES = len(os.sched_getaffinity(0))


cluster = fixtures.shared_cluster(workers=2)
app = fixtures.app


def test_tasks_of_all_cores_take_turns_while_small_ones_get_theirs(app: ApplicationNode) -> None:
    large = app.start_job(work.interval, [(0.02,)] * 10, needs=ALL)
    small = app.start_job(work.interval, [(0.005,)] * 100)
    alone = sorted(large.results(PATIENCE_S))
    beside = small.results(PATIENCE_S)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(alone))
    assert not [pair for pair in beside for begin, end in alone if begin < pair[1] and pair[0] < end]


def test_a_task_function_says_what_its_tasks_need(app: ApplicationNode) -> None:
    use(lambda: app)
    try:
        threads = TaskFunction(work.threads_meant, Needs(cores=2))
        assert threads.submit().result(PATIENCE_S) == "2"
        squares = TaskFunction(work.square, ALL)
        assert squares.map(range(3)).results(PATIENCE_S) == [0, 1, 4]
        assert squares.map(range(3), needs=Needs(cores=2)).results(PATIENCE_S) == [0, 1, 4]
        assert app.submit(threads).result(PATIENCE_S) == "2"
        assert app.start_job(threads, [()], needs=ALL).results(PATIENCE_S) == [str(CORES)]
        assert app.start_job(threads, [()], needs=Needs()).results(PATIENCE_S) == [str(max(1, CORES // 2))]
    finally:
        use(None)


def test_more_cores_than_there_are_is_an_error_that_says_how_many_there_are(app: ApplicationNode) -> None:
    job = app.start_job(work.square, [(1,), (2,)], needs=Needs(cores=3))
    with pytest.raises(TaskRefused, match="needs 3 cores of one slave, and the largest slave has 2"):
        job.results(PATIENCE_S)
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_a_task_in_a_thread_has_one_core(app: ApplicationNode) -> None:
    with pytest.raises(ConfigurationError, match="a thread takes no more than one core"):
        app.start_job(work.square, [(1,)], needs=Needs(cores=2, kind="thread"))


def test_a_worker_that_dies_while_it_has_all_cores_gives_them_up() -> None:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        with pytest.raises(PoisonTask, match="3 times the worker or the slave of task"):
            app.start_job(os.abort, [()], needs=ALL).results(PATIENCE_S)
        assert app.start_job(work.square, [(3,)], needs=ALL).results(PATIENCE_S) == [9]
        assert list(app.map(work.square, range(20))) == [n * n for n in range(20)]
