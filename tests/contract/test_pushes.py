"""Tasks that are objects: pushed alone or many, their `finished`, and the callbacks of an application."""

import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, ITaskSystem, Task, as_completed
from concurrent_nb.errors import ConfigurationError, NotPicklable
from concurrent_nb.nodes.application.pushed_tasks import READ_AHEAD
from tests import fixtures, systems, work
from tests.clusters import check_script
from tests.work import PATIENCE_S

cluster = fixtures.shared_cluster()


@pytest.fixture
def app(cluster: Cluster) -> Iterator[ApplicationNode]:
    assert cluster.connection_file is not None
    with concurrent_nb.connect(cluster.connection_file) as app:
        yield app


class Square(Task):
    """Keeps the calls of `finished`, and their threads."""

    def __init__(self, number: int) -> None:
        super().__init__(f"square of {number}")
        self.number = number
        self.ends: list[Any] = []

    def __call__(self) -> int:
        if self.number < 0:
            raise ValueError(self.number)
        return self.number**2

    def finished(self, result: Any, error: BaseException | None) -> None:
        self.ends.append((result, error, threading.current_thread()))


class Tidy(Task):
    """Leaves a file, and takes it away."""

    def __init__(self, path: Path, fails: bool) -> None:
        super().__init__()
        self.path, self.fails = path, fails

    def __call__(self) -> str:
        self.path.touch()
        if self.fails:
            raise ValueError("mine")
        return "done"

    def clean_up(self) -> None:
        self.path.unlink()


def test_a_pushed_task_runs_there_and_is_told_here(app: ApplicationNode, cluster: Cluster) -> None:
    task = Square(7)
    future = app.push_task(task)
    assert future.result(PATIENCE_S) == 49
    app.shutdown()  # and with it all calls of `finished`
    ((result, error, thread),) = task.ends
    assert (result, error) == (49, None)
    assert thread is not threading.current_thread()
    assert (task.task_id, task.client_id, task.slave_id) == (future.task, app.name, future.slave)


def test_a_task_that_fails_is_told_its_error(app: ApplicationNode) -> None:
    task = Square(-1)
    with pytest.raises(ValueError, match="-1") as caught:
        app.push_task(task).result(PATIENCE_S)
    assert "in __call__" in str(caught.value.__cause__)
    assert "task_objects.py" not in str(caught.value.__cause__)
    app.shutdown()
    assert [(result, error) for result, error, _ in task.ends] == [(None, caught.value)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_has_tidied_up_before_its_result_is_here(app: ApplicationNode, tmp_path: Path, fails: bool) -> None:
    future = app.push_task(Tidy(tmp_path / "litter", fails))
    assert isinstance(future.exception(PATIENCE_S), ValueError if fails else type(None))
    assert not (tmp_path / "litter").exists()


@pytest.mark.parametrize("kind", [list, iter])
def test_many_tasks_are_a_job(app: ApplicationNode, kind: Any) -> None:
    tasks = [Square(number) for number in range(500)]
    job = app.push_tasks(kind(tasks), name="squares")
    assert job.results(PATIENCE_S) == [number**2 for number in range(500)]
    assert (job.counts().done, job.counts().total, job.name) == (500, 500, "squares")
    app.shutdown()
    assert [task.ends[0][:2] for task in tasks] == [(number**2, None) for number in range(500)]
    assert len({task.ends[0][2] for task in tasks}) == 1


def test_tasks_of_one_job_fail_alone(app: ApplicationNode) -> None:
    job = app.push_tasks([Square(3), Square(-3), Square(4)])
    assert job.wait(PATIENCE_S)
    assert [type(future.exception()) for future in job.futures] == [type(None), ValueError, type(None)]
    with pytest.raises(ValueError, match="-3"):
        job.results()


def test_a_generator_is_read_only_as_fast_as_tasks_end(app: ApplicationNode, tmp_path: Path) -> None:
    read = itertools.count()
    count = 0

    def tasks() -> Iterator[Task]:
        nonlocal count
        for number in read:
            count = number + 1
            yield Waits(tmp_path / "go")

    job = app.push_tasks(tasks())
    assert count == READ_AHEAD
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert count == READ_AHEAD
    assert job.counts().cancelled == READ_AHEAD


class Waits(Task):
    """Runs until there is a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __call__(self) -> None:
        work.wait_for(self.path)


def test_a_generator_of_many_tasks_is_read_to_its_end(app: ApplicationNode) -> None:
    count = 3 * READ_AHEAD
    job = app.push_tasks(Square(number) for number in range(count))
    seen = sum(future.result() for future in as_completed(job, PATIENCE_S))
    assert seen == sum(number**2 for number in range(count))
    assert len(job.futures) == count


def test_what_a_generator_raises_at_first_is_raised_at_once(app: ApplicationNode) -> None:
    def tasks() -> Iterator[Task]:
        yield Square(1)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        app.push_tasks(tasks())


def test_what_a_generator_raises_later_is_in_the_results(app: ApplicationNode) -> None:
    def tasks() -> Iterator[Task]:
        yield from map(Square, range(READ_AHEAD))
        raise KeyError("no more")

    job = app.push_tasks(tasks())
    with pytest.raises(KeyError, match="no more"):
        job.results(PATIENCE_S)
    assert job.counts().done == READ_AHEAD


def test_an_error_can_end_the_job_and_the_reading(app: ApplicationNode) -> None:
    job = app.push_tasks((Square(-1) for _ in itertools.count()), stop_on_error=True)
    assert job.wait(PATIENCE_S)
    assert job.counts().failed >= 1
    assert job.first_error is not None


def test_what_is_no_task_or_cannot_travel_is_refused(app: ApplicationNode) -> None:
    not_a_task: Any = 7
    with pytest.raises(ConfigurationError, match=r"is pushed is a concurrent_nb\.Task, not 7"):
        app.push_task(not_a_task)
    with pytest.raises(ConfigurationError, match=r"is pushed is a concurrent_nb\.Task, not 7"):
        app.push_tasks([not_a_task])
    stuck = Square(1)
    stuck.lock = threading.Lock()  # type: ignore[attr-defined]
    assert isinstance(app.push_task(stuck).exception(PATIENCE_S), NotPicklable)
    job = app.push_tasks([Square(2), stuck, Square(3)])
    assert job.wait(PATIENCE_S)
    assert [type(future.exception()) for future in job.futures] == [type(None), NotPicklable, type(None)]


def test_a_cancelled_task_is_told_nothing(app: ApplicationNode, tmp_path: Path) -> None:
    holding = app.push_tasks([Waits(tmp_path / "go") for _ in range(20)])
    task = Square(3)
    future = app.push_task(task)
    assert future.cancel()
    (tmp_path / "go").touch()
    assert holding.wait(PATIENCE_S)
    app.shutdown()
    assert task.ends == []
    with pytest.raises(CancelledError):
        future.result()


def test_shutdown_waits_for_what_was_pushed_and_refuses_more(app: ApplicationNode) -> None:
    job = app.push_tasks([Square(number) for number in range(2000)])
    app.shutdown()
    assert job.counts().done == 2000
    for push in (app.push_task, lambda task: app.push_tasks([task])):
        with pytest.raises(RuntimeError, match="shutdown"):
            push(Square(1))


def test_tasks_of_main_travel_with_their_class(cluster: Cluster, tmp_path: Path) -> None:
    check_script(MAIN, tmp_path, cluster)


MAIN = """
    import sys
    import concurrent_nb

    FACTOR = 3

    class Base(concurrent_nb.Task):
        def __init__(self, x):
            super().__init__("of main")
            self.x = x

    class Scale(Base):
        def __call__(self):
            return type(self)(self.x * FACTOR)

    class Slotted(Base):
        __slots__ = ("y",)
        def __call__(self):
            self.y = self.x + 1
            return self.y

    with concurrent_nb.connect(sys.argv[1]) as app:
        scaled = app.push_tasks([Scale(n) for n in range(300)]).results(60)
        assert [task.x for task in scaled] == [3 * n for n in range(300)]
        assert all(type(task) is Scale for task in scaled)
        assert app.push_task(Slotted(4)).result(60) == 5
        FACTOR = 4
        assert app.push_task(Scale(4)).result(60).x == 16
        print("fine")
"""


# ---------------------------------------------------------------------------------------------------------- callbacks


class Receiver:
    """Keeps all calls; the second one raises."""

    def __init__(self) -> None:
        self.ends: list[Any] = []

    def task_finished(self, task: Task, result: Any, error: BaseException | None) -> None:
        self.ends.append((task, result, error, threading.current_thread()))
        if result == 1:
            raise RuntimeError("this callback is broken")


def test_callbacks_come_in_one_thread_after_the_tasks_own_and_may_raise(
    app: ApplicationNode, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver()
    app.call_back(receiver)
    tasks = [Square(number) for number in range(10)]
    with caplog.at_level(logging.ERROR):
        job = app.push_tasks(tasks)
        assert job.results(PATIENCE_S) == [number**2 for number in range(10)]
        app.shutdown()
    assert "this callback is broken" in caplog.text
    assert {task.number for task, *_ in receiver.ends} == set(range(10))
    assert {thread for *_, thread in receiver.ends} == {task.ends[0][2] for task in tasks}


def test_a_callback_may_push_more(app: ApplicationNode) -> None:
    class Chain:
        done = threading.Event()

        def task_finished(self, task: Square, result: int, error: BaseException | None) -> None:
            if task.number < 20:
                app.push_task(Square(task.number + 1))
            else:
                self.done.set()

    app.call_back(Chain())
    app.push_task(Square(0))
    assert Chain.done.wait(PATIENCE_S)


def test_a_slow_callback_holds_up_no_result(app: ApplicationNode) -> None:
    go = threading.Event()

    class Slow:
        def task_finished(self, *_: object) -> None:
            go.wait(PATIENCE_S)

    app.call_back(Slow())
    app.push_task(Square(1)).result(PATIENCE_S)
    assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    go.set()


def test_a_receiver_needs_no_method(app: ApplicationNode, caplog: pytest.LogCaptureFixture) -> None:
    app.call_back(object())
    assert app.push_task(Square(2)).result(PATIENCE_S) == 4
    app.call_back(None)
    assert app.push_task(Square(3)).result(PATIENCE_S) == 9
    app.shutdown()
    assert caplog.text == ""


def test_the_result_of_a_task_system_is_told(app: ApplicationNode) -> None:
    ends: list[Any] = []

    class Receiver:
        def work_finished(self, result: Any, task_system: ITaskSystem) -> None:
            ends.append((result, task_system, threading.current_thread()))

    app.call_back(Receiver())
    system = systems.Squares(10)
    assert app.push_tasksystem(system).result(PATIENCE_S) == 285
    assert app.push_tasksystem(systems.Fails("gather_result")).wait(PATIENCE_S)
    app.shutdown()
    ((result, ended_system, thread),) = ends
    assert (result, ended_system) == (285, system)
    assert thread is not threading.current_thread()


def test_the_error_of_a_task_system_is_told_too(app: ApplicationNode) -> None:
    ends: list[tuple[Any, BaseException | None, dict[str, Any]]] = []

    class Receiver:
        def task_system_finished(self, result: Any, error: BaseException | None, stats: dict[str, Any]) -> None:
            ends.append((result, error, stats))

    app.call_back(Receiver())
    assert app.push_tasksystem(systems.Squares(10)).result(PATIENCE_S) == 285
    failing = app.push_tasksystem(systems.Fails("gather_result"))
    assert failing.wait(PATIENCE_S)
    app.shutdown()
    (result, no_error, stats), (no_result, error, _) = ends
    assert (result, no_error, no_result) == (285, None, None)
    assert error is failing.futures[0].exception()
    assert stats["done"] == 10


def test_the_end_of_the_cluster_is_told(tmp_path: Path) -> None:
    class Watch:
        gone: "Future[bool]" = Future()

        def master_disconnected(self, gracefully: bool) -> None:
            self.gone.set_result(gracefully)

    with Cluster(workers=1) as other:
        assert other.connection_file is not None
        app = concurrent_nb.connect(other.connection_file)
        app.call_back(Watch())
        assert app.push_task(Square(2)).result(PATIENCE_S) == 4
    assert Watch.gone.result(PATIENCE_S) is True
    app.shutdown()


# ----------------------------------------------------------------------------------------------------- as they complete


def test_as_completed_takes_a_job_futures_and_both(app: ApplicationNode, tmp_path: Path) -> None:
    late = app.submit(work.wait_for, tmp_path / "go")
    job = app.push_tasks([Square(number) for number in range(5)])
    assert {future.result() for future in as_completed(job, PATIENCE_S)} == {0, 1, 4, 9, 16}
    assert {future.result() for future in as_completed(job, PATIENCE_S)} == {0, 1, 4, 9, 16}
    order = as_completed([late, job], PATIENCE_S)
    assert {next(order) for _ in range(5)} == set(job.futures)
    (tmp_path / "go").touch()
    assert list(order) == [late]


def test_as_completed_gives_what_has_ended_while_the_rest_still_runs(app: ApplicationNode, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = app.start_job(work.start_and_wait, [(tmp_path / "a", tmp_path / "a"), (tmp_path / "b", go)])
    order = as_completed(job)
    assert next(order) is job.futures[0]
    with pytest.raises(TimeoutError):
        list(as_completed(job, 0.05))
    go.touch()
    assert list(order) == [job.futures[1]]


def test_as_completed_takes_futures_of_other_executors(app: ApplicationNode) -> None:
    with ThreadPoolExecutor(1) as other:
        futures = [app.submit(work.square, 6), other.submit(work.square, 7)]
        assert {future.result() for future in as_completed(futures, PATIENCE_S)} == {36, 49}
