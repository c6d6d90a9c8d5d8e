"""Options for single calls: each has its effect, on the next task and not on others; bad ones are refused at once."""

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs, task_functions
from concurrent_nb.errors import ConfigurationError, NotPicklable, TaskTimeout
from tests import fixtures, work
from tests.work import PATIENCE_S

cluster = fixtures.shared_cluster()
leaves_nothing_behind = fixtures.leaves_nothing_behind
app = fixtures.app


@pytest.fixture
def _functions(app: ApplicationNode) -> Iterator[None]:
    task_functions.use(lambda: app)
    yield
    task_functions.use(None)


def last_or_stay(n: int) -> int:
    if n == 1:
        time.sleep(10 * PATIENCE_S)
    return n


def fail_each_once(folder: Path, n: int) -> int:
    return work.fail_until(folder / str(n), 2)


def needs_of_this(n: int) -> str:
    return work.threads_meant()


def test_submit_with_a_timeout(app: ApplicationNode) -> None:
    with pytest.raises(TaskTimeout):
        app.options(timeout_s=0.2).submit(time.sleep, PATIENCE_S).result(PATIENCE_S)
    assert app.options(timeout_s=PATIENCE_S).submit(pow, 2, 10).result(PATIENCE_S) == 1024


def test_submit_with_retries(app: ApplicationNode, tmp_path: Path) -> None:
    assert app.options(retries=2).submit(work.fail_until, tmp_path / "one", 3).result(PATIENCE_S) == 3
    with pytest.raises(ValueError, match="call 1 of 3"):
        app.submit(work.fail_until, tmp_path / "other", 3).result(PATIENCE_S)


def test_submit_with_needs(app: ApplicationNode) -> None:
    assert app.options(needs=Needs(cores=2)).submit(work.threads_meant).result(PATIENCE_S) == "2"
    assert app.submit(work.threads_meant).result(PATIENCE_S) == "1"


def test_submits_with_a_name_or_a_strategy_are_jobs_by_themselves(app: ApplicationNode, tmp_path: Path) -> None:
    named = app.options(name="fits", strategy="stealing")
    futures = [named.submit(work.start_and_wait, tmp_path / f"{n}", tmp_path / "go") for n in range(2)]
    assert futures[0].job_id != futures[1].job_id
    work.wait_for(tmp_path / "0")
    (tmp_path / "go").touch()
    assert all(future.result(PATIENCE_S) for future in futures)
    assert named.submit(lambda x: x, 3).result(PATIENCE_S) == 3
    refused = named.submit(work.square, work.CannotGo())  # type: ignore[arg-type]
    assert isinstance(refused.exception(PATIENCE_S), NotPicklable)


def test_cancelling_all_submits_cancels_those_with_a_name_and_those_of_earlier_cells(
    app: ApplicationNode, tmp_path: Path
) -> None:
    named = app.options(name="fits").submit(work.start_and_wait, tmp_path / "begun", tmp_path / "never")
    earlier = app.submit(work.start_and_wait, tmp_path / "begun too", tmp_path / "never")
    work.wait_for(tmp_path / "begun")
    work.wait_for(tmp_path / "begun too")
    app.renew_submits()  # as the next cell does
    assert app.cancel_submits() == 2
    for future in (named, earlier):
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
    assert app.cancel_submits() == 0


def test_map_with_a_timeout_for_each_item(app: ApplicationNode) -> None:
    found: list[Any] = list(app.options(timeout_s=3).map(last_or_stay, range(4), return_exceptions=True))
    error = found.pop(1)
    assert found == [0, 2, 3]
    assert isinstance(error, TaskTimeout)


def test_map_with_retries_for_each_item(app: ApplicationNode, tmp_path: Path) -> None:
    assert list(app.options(retries=1, name="twice").map(fail_each_once, [tmp_path] * 6, range(6))) == [2] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(n) for n in range(6)]


def test_map_with_needs_and_a_strategy(app: ApplicationNode) -> None:
    with_both = app.options(needs=Needs(cores=2), strategy="push_best")
    assert list(with_both.map(needs_of_this, range(3), buffersize=2)) == ["2"] * 3
    assert list(app.map(needs_of_this, range(3))) == ["1"] * 3


@pytest.mark.usefixtures("_functions")
def test_options_of_a_task_function(tmp_path: Path) -> None:
    function = concurrent_nb.task(work.fail_until)
    twice = function.options(retries=1, name="again")
    assert twice.submit(tmp_path / "a", 2).result(PATIENCE_S) == 2
    job = twice.map([tmp_path / "b", tmp_path / "c"], [2, 2])
    assert (job.name, job.results(PATIENCE_S)) == ("again", [2, 2])
    assert function.map([tmp_path / "d"], [1]).name == "fail_until"
    with pytest.raises(ValueError, match="call 1 of 2"):
        function.submit(tmp_path / "e", 2).result(PATIENCE_S)
    with pytest.raises(ValueError, match="call 1 of 2"):
        twice.map([tmp_path / "f"], [2], retries=0).results(PATIENCE_S)
    with pytest.raises(ValueError, match="call 1 of 2"):
        twice(tmp_path / "g", 2)  # here it is the function as it is
    threads = concurrent_nb.task(work.threads_meant).options(needs=Needs(cores=2))
    assert threads.submit().result(PATIENCE_S) == "2"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, it must be a number of seconds above 0, or None"),
        ({"timeout_s": "10"}, "timeout_s is '10'"),
        ({"retries": -1}, "retries is -1, it must be a whole number from 0"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"strategy": "best"}, "strategy is 'best', it must be one of"),
        ({"needs": "gpu"}, "needs is 'gpu', it must be a concurrent_nb.Needs, as Needs"),
        ({"needs": 3}, "needs is 3, it must be a concurrent_nb.Needs, as Needs"),
        ({"needs": Needs(cores="all")}, "cores must be a whole number from 0 .all of one slave. to"),  # type: ignore[arg-type]
        ({"needs": Needs(cores=2, kind="thread")}, "a thread takes no more than one core"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(app: ApplicationNode, options: dict[str, Any], why: str) -> None:
    for refusing in (app.options, concurrent_nb.task(work.square).options):
        with pytest.raises(ConfigurationError, match=why):
            refusing(**options)


def test_what_cannot_be_called_is_refused_at_once(app: ApplicationNode) -> None:
    wrong: Any = "pow"
    for call in (
        lambda: app.submit(wrong, 2),
        lambda: app.options(retries=1).submit(wrong, 2),
        lambda: app.map(wrong, [2]),
        lambda: app.start_job(wrong, [(2,)]),
        lambda: app.start_job(wrong, [(2,)], batch=10),
        lambda: app.run_everywhere(wrong),
    ):
        with pytest.raises(TypeError, match="'pow' is not a function: give a function and its arguments"):
            call()


@pytest.mark.parametrize(("calls", "shown"), [(3, "calls is 3"), ("ab", "calls is 'ab'"), ([(1, 2), 3], "calls has 3")])
@pytest.mark.parametrize("batch", [None, 10])
def test_calls_without_tuples_are_refused_at_once(app: ApplicationNode, calls: Any, shown: str, batch: Any) -> None:
    with pytest.raises(TypeError, match=f"{shown}, it must be a list with a tuple of arguments for each task"):
        app.start_job(pow, calls, batch=batch)
    assert app.start_job(pow, iter([(2, 3)]), batch=batch).results(PATIENCE_S) == [8]  # type: ignore[arg-type]


def test_a_chunk_has_no_timeout_or_retries_of_an_item(app: ApplicationNode) -> None:
    for options in (app.options(timeout_s=3), app.options(retries=1)):
        with pytest.raises(ConfigurationError, match="chunksize is 4: leave it out"):
            options.map(work.square, range(3), chunksize=4)
        assert list(options.map(work.square, range(3), chunksize=1)) == [0, 1, 4]


def test_what_one_sees_of_them(cluster: Cluster, app: ApplicationNode) -> None:
    assert repr(app) in repr(app.options(retries=2))
    assert "retries=2" in repr(app.options(retries=2)) and "timeout_s" not in repr(app.options(retries=2))
    assert repr(app).startswith("<ApplicationNode application-") and "of cluster embedded-" in repr(app)
    assert cluster.connection_file is not None
    other = concurrent_nb.connect(cluster.connection_file)
    other.shutdown()
    assert "(shut down)" in repr(other)
