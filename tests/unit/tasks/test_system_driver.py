"""Task systems, driven: which method is called when, what is pushed and cancelled, what is kept. Nothing runs."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from concurrent_nb.errors import SystemStalled
from concurrent_nb.tasks import system_driver as d
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task
from concurrent_nb.tasks.system_driver import SystemDriver


class Job(Task):
    def __init__(self, n: int = 0) -> None:
        super().__init__()
        self.n = n


class System(ITaskSystem):
    """Notes the calls of its methods, and does in them what a test wants."""

    system_id = "s"

    def __init__(self, tasks: Any = (), **does: Callable[..., Any]) -> None:
        self.tasks = tasks
        self.calls: list[str] = []
        self.does = does

    def _do(self, name: str, *args: Any) -> Any:
        self.calls.append(name)
        return self.does[name](*args) if name in self.does else None

    def init_system(self, master: MasterHandle) -> None:
        self._do("init_system", master)

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        self._do("generate_tasks", master)
        given: Iterable[Task] = self.tasks
        return given

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: Any) -> Iterable[Task] | None:
        found: Iterable[Task] | None = self._do("task_finished", master, task, result, error)
        return found

    def is_complete(self, master: MasterHandle) -> bool:
        if "is_complete" in self.does:
            return bool(self._do("is_complete", master))
        self.calls.append("is_complete")
        return super().is_complete(master)

    def gather_result(self, master: MasterHandle) -> Any:
        return self._do("gather_result", master)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def driver_of(system: ITaskSystem, clock: Clock | None = None) -> SystemDriver:
    return SystemDriver(system, "app", lambda line: None, lambda: {"slaves": []}, clock or Clock())


def pushed(instructions: Iterable[d.Instruction]) -> list[int]:
    return [instruction.index for instruction in instructions if isinstance(instruction, d.PushTask)]


def cancelled(instructions: Iterable[d.Instruction]) -> list[int]:
    return [
        index for instruction in instructions if isinstance(instruction, d.CancelTasks) for index in instruction.indexes
    ]


def ended(*indexes: int, error: BaseException | None = None) -> list[d.SystemTaskEnded]:
    return [d.SystemTaskEnded(index, f"r{index}", error, "east") for index in indexes]


def jobs(count: int) -> list[Job]:
    return [Job(n) for n in range(count)]


def run_to_the_end(driver: SystemDriver) -> Any:
    """End every task that is pushed, at once and in order."""
    instructions = driver.begin()
    while not driver.complete:
        instructions = driver.handle(*ended(*pushed(instructions)))
    return driver.gather()


# ------------------------------------------------------------------------------------------------------------- calls


def test_the_methods_are_called_in_the_order_of_the_contract() -> None:
    system = System(jobs(2), gather_result=lambda master: "all")
    assert run_to_the_end(driver_of(system)) == "all"
    finished = ["task_finished", "is_complete"]
    assert system.calls == ["init_system", "generate_tasks", "is_complete", *finished, *finished, "gather_result"]


def test_when_no_task_is_left_the_system_is_asked_once_more() -> None:
    system = System([])
    assert run_to_the_end(driver_of(system)) is None
    assert system.calls == ["init_system", "generate_tasks", "is_complete", "is_complete", "gather_result"]


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    class Small(ITaskSystem):
        def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
            return jobs(3)

    assert run_to_the_end(driver_of(Small())) is None
    driver = driver_of(Small())
    driver.begin()
    with pytest.raises(ValueError, match="bad"):
        driver.handle(*ended(1, error=ValueError("bad")))
    with pytest.raises(NotImplementedError, match="ITaskSystem has no tasks: give it a method generate_tasks"):
        driver_of(ITaskSystem()).begin()


@pytest.mark.parametrize("tasks", [(), [], None, iter(()), (Job() for _ in ())])
def test_a_system_without_tasks_is_complete_at_once(tasks: Any) -> None:
    driver = driver_of(System(tasks, gather_result=lambda master: 0))
    assert driver.begin() == []
    assert driver.complete
    assert driver.gather() == 0


def test_a_task_learns_who_it_is_and_its_end_before_the_system_does() -> None:
    ends: list[Any] = []

    class Recorded(Task):
        def finished(self, result: Any, error: BaseException | None) -> None:
            ends.append((self.slave_id, result, error))

    task = Recorded()
    system = System([task], task_finished=lambda *given: ends.append(given[1:]))
    driver = driver_of(system)
    driver.begin()
    assert (task.system_id, task.task_id, task.client_id, task.slave_id) == ("s", "s/0", "app", "")
    error = ValueError("x")
    driver.handle(d.SystemTaskEnded(0, None, error, "east"))
    assert ends == [("east", None, error), (task, None, error)]


@pytest.mark.parametrize("name", ["init_system", "generate_tasks", "task_finished", "is_complete", "gather_result"])
def test_what_a_method_raises_comes_out_as_it_is(name: str) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match=name):
        run_to_the_end(driver_of(System(jobs(3), **{name: fail})))


def test_so_does_what_a_generator_or_a_task_raises() -> None:
    def generate() -> Iterator[Task]:
        yield Job()
        raise ZeroDivisionError("generator")

    class Bad(Task):
        def finished(self, result: Any, error: BaseException | None) -> None:
            raise ZeroDivisionError("finished")

    with pytest.raises(ZeroDivisionError, match="generator"):
        run_to_the_end(driver_of(System(generate())))
    with pytest.raises(ZeroDivisionError, match="finished"):
        run_to_the_end(driver_of(System([Bad()])))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "System.generate_tasks gave a int: it must be an iterable of tasks"),
        (Job(), "System.generate_tasks gave a Job: it must be an iterable of tasks"),
        ([Job(), 7], "System.generate_tasks gave 7 among its tasks, which is not a Task"),
    ],
)
def test_what_is_no_task_is_refused_by_name(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        driver_of(System(given)).begin()


def test_an_object_may_be_pushed_again_only_when_it_has_ended() -> None:
    task = Job()
    with pytest.raises(ValueError, match="task s/0 was pushed again before it has ended"):
        driver_of(System([task, task])).begin()
    twice = iter([task])
    driver = driver_of(System([task], task_finished=lambda *_: list(itertools.islice(twice, 1))))
    assert pushed(driver.begin()) == [0]
    assert pushed(driver.handle(*ended(0))) == [1]
    assert task.task_id == "s/1"


# ------------------------------------------------------------------------------------------------------------- phases


def test_tasks_that_come_of_tasks_are_further_phases() -> None:
    system = System(
        jobs(2), task_finished=lambda master, task, *_: [Job(task.n + 10), Job(task.n + 20)] if task.n < 10 else None
    )
    driver = driver_of(system)
    assert pushed(driver.begin()) == [0, 1]
    assert pushed(driver.handle(*ended(0, 1))) == [2, 3, 4, 5]
    driver.handle(*ended(2))
    phases = [(phase["number"], phase["pushed"], phase["done"]) for phase in driver.stats()["phases"]]
    assert phases == [(1, 2, 2), (2, 4, 1)]
    assert not driver.complete
    driver.handle(*ended(3, 4, 5))
    assert driver.complete


@pytest.mark.parametrize("method", ["init_system", "generate_tasks", "task_finished", "is_complete"])
def test_any_method_may_push(method: str) -> None:
    extra = iter([Job(7)])

    def push(master: MasterHandle, *_: Any) -> Any:
        for task in extra:
            master.push_task(task)
            master.push_tasks([])
        if method != "is_complete":
            return None
        stats = master.stats()
        return stats["exhausted"] and not stats["unfinished"]

    driver = driver_of(System([Job()], **{method: push}))
    run_to_the_end(driver)
    assert driver.stats()["done"] == 2


def test_what_came_last_is_read_first_so_that_a_long_generator_does_not_starve_others() -> None:
    system = System((Job() for _ in itertools.count()), task_finished=lambda *_: [Job(9)])
    driver = driver_of(system)
    first = pushed(driver.begin())
    assert len(first) == d.AHEAD_FIRST
    driver.handle(*ended(0))
    phases = {phase["number"]: phase["pushed"] for phase in driver.stats()["phases"]}
    assert phases == {1: d.AHEAD_FIRST + 1, 2: 1}


def test_a_chain_of_tasks_is_counted_in_few_phases() -> None:
    system = System([Job(0)], task_finished=lambda master, task, *_: [Job(task.n + 1)] if task.n < 999 else None)
    driver = driver_of(system)
    run_to_the_end(driver)
    stats = driver.stats()
    assert stats["done"] == 1000
    assert len(stats["phases"]) <= d.PHASES_MAX + 1
    assert sum(phase["done"] for phase in stats["phases"]) == 1000
    assert stats["phases"][-1]["number"] == 1000


# ------------------------------------------------------------------------------------------------- ends and cancelling


def test_early_completion_cancels_the_rest_and_takes_no_more() -> None:
    system = System(
        (Job(n) for n in itertools.count()), is_complete=lambda master: master.stats()["done"] == 2, gather_result=str
    )
    driver = driver_of(system)
    first = pushed(driver.begin())
    done = driver.handle(*ended(0, 1, 2))
    assert driver.complete
    assert pushed(done) == []
    assert cancelled(done) == first[2:]  # the third result came too late
    assert system.calls.count("task_finished") == 2
    stats = driver.stats()
    assert (stats["done"], stats["cancelled"], stats["unfinished"], stats["exhausted"]) == (2, 14, 0, True)
    assert stats["stage"] == "gathering"


def test_nothing_can_be_pushed_when_it_is_complete() -> None:
    driver = driver_of(System([], gather_result=lambda master: master.push_task(Job())))
    driver.begin()
    with pytest.raises(RuntimeError, match="System is complete, so it cannot push more tasks"):
        driver.gather()


def test_a_system_that_can_never_be_complete_ends_with_an_error() -> None:
    with pytest.raises(SystemStalled, match="the task system System has no task left and is not complete"):
        run_to_the_end(driver_of(System(jobs(2), is_complete=lambda master: False)))


def test_cancelled_tasks_do_not_come_back() -> None:
    def cancel(master: MasterHandle, task: Job, *_: Any) -> None:
        if task.n == 0:
            master.cancel([tasks[1], tasks[2], Job()])

    tasks = jobs(4)
    system = System(tasks, task_finished=cancel)
    driver = driver_of(system)
    driver.begin()
    assert cancelled(driver.handle(*ended(0))) == [1, 2]
    driver.handle(*ended(1, 2))
    assert system.calls.count("task_finished") == 1
    driver.handle(*ended(3))
    assert driver.complete
    assert (driver.stats()["done"], driver.stats()["cancelled"]) == (2, 2)


def test_what_is_cancelled_before_it_has_left_never_leaves() -> None:
    tasks = jobs(2)

    def generate() -> Iterator[Task]:
        yield tasks[0]
        master.cancel([tasks[0]])
        yield tasks[1]

    system = System(generate())
    driver = driver_of(system)
    master = driver._handle
    instructions = driver.begin()
    assert (pushed(instructions), cancelled(instructions)) == ([1], [])


def test_all_can_be_cancelled_what_was_not_read_too_and_another_phase_begun() -> None:
    def begin_anew(master: MasterHandle, task: Job, *_: Any) -> list[Task] | None:
        if task.n == 99:
            return None
        master.cancel()
        return [Job(99)]

    driver = driver_of(System((Job(1) for _ in itertools.count()), task_finished=begin_anew))
    first = pushed(driver.begin())
    instructions = driver.handle(*ended(0))
    assert (pushed(instructions), cancelled(instructions)) == ([len(first)], first[1:])
    driver.handle(*ended(len(first)))
    assert driver.complete


# -------------------------------------------------------------------------------------------------------------- room


def test_a_generator_is_read_only_as_far_as_there_is_room() -> None:
    read = itertools.count()
    driver = driver_of(System(Job(next(read)) for _ in itertools.count()))
    waiting = pushed(driver.begin())
    for _ in range(40):
        waiting = pushed(driver.handle(*ended(*waiting)))
        assert driver.stats()["unfinished"] <= d.AHEAD_MOST
    assert driver.stats()["unfinished"] == d.AHEAD_MOST
    assert next(read) == driver.stats()["pushed"]


def test_large_tasks_are_read_fewer_at_a_time() -> None:
    driver = driver_of(System(Job() for _ in itertools.count()))
    waiting = pushed(driver.begin())
    driver.handle(d.Room(3), *ended(*waiting))
    assert driver.stats()["unfinished"] == 3
    driver.handle(d.Room(0), *ended(d.AHEAD_FIRST, d.AHEAD_FIRST + 1, d.AHEAD_FIRST + 2))
    assert driver.stats()["unfinished"] == 1


def test_with_much_room_tasks_are_read_many_at_a_time() -> None:
    driver = driver_of(System(Job() for _ in itertools.count()))
    waiting = pushed(driver.begin())
    for _ in range(10):
        waiting = pushed(driver.handle(*ended(*waiting)))
    room = driver.stats()["unfinished"]
    first = waiting[0]
    assert pushed(driver.handle(*ended(*range(first, first + room // 8)))) == []
    assert len(pushed(driver.handle(*ended(*range(first + room // 8, first + room // 2))))) > room // 4


def test_nothing_is_kept_of_tasks_that_have_ended() -> None:
    import weakref

    driver = driver_of(System((Job() for _ in range(1000)), task_finished=lambda master, task, *_: seen.add(task)))
    seen: weakref.WeakSet[Task] = weakref.WeakSet()
    instructions = driver.begin()
    while not driver.complete:
        indexes = pushed(instructions)
        instructions = driver.handle(*ended(*indexes))
    del instructions
    assert len(seen) == 0
    assert driver.stats()["done"] == 1000


# -------------------------------------------------------------------------------------------------------------- stats


def test_the_counts_are_its_progress() -> None:
    clock = Clock()
    driver = driver_of(System(jobs(4), task_finished=lambda *_: None), clock)
    assert driver.stats()["stage"] == "preparing"
    driver.begin()
    clock.now += 2.5
    driver.handle(
        d.SystemTaskRunning(1), d.SystemTaskRunning(2), *ended(1), *ended(3, error=ValueError()), d.SystemTaskRunning(3)
    )
    assert driver.stats() == {
        "stage": "running",
        "pushed": 4,
        "unfinished": 2,
        "waiting": 1,
        "running": 1,
        "done": 1,
        "failed": 1,
        "cancelled": 0,
        "exhausted": True,
        "elapsed_s": 2.5,
        "phases": [{"number": 1, "pushed": 4, "unfinished": 2, "done": 1, "failed": 1, "cancelled": 0}],
    }


def test_the_handle_logs_and_asks_the_master() -> None:
    lines: list[str] = []
    system = System([], init_system=lambda master: master.log("hello"), gather_result=lambda master: master.status())
    result = run_to_the_end(SystemDriver(system, "app", lines.append, lambda: {"slaves": ["east"]}, Clock()))
    assert (lines, result) == (["hello"], {"slaves": ["east"]})


# ------------------------------------------------------------------------------------------------------------- errors


def late(master: MasterHandle, task: Task, result: Any, error: Any) -> Iterable[Task]:
    yield Job(len(result))


@pytest.mark.parametrize(
    "does",
    [
        pytest.param({"task_finished": lambda master, task, result, error: len(result)}, id="at once"),
        pytest.param({"task_finished": late}, id="when its tasks are read"),
        pytest.param({"gather_result": lambda master: len(None)}, id="when it gathers"),  # type: ignore[arg-type]
        pytest.param(
            {"is_complete": lambda master: bool(master.stats()["failed"] and sum([None]))},
            id="when it is asked",
        ),
    ],
)
def test_a_system_that_ignores_a_task_s_error_does_not_hide_it(does: dict[str, Any]) -> None:
    driver = driver_of(System(jobs(1), **does))
    driver.begin()
    lost = ValueError("the task's own")
    with pytest.raises(TypeError, match="NoneType") as caught:
        handle_and_gather(driver, d.SystemTaskEnded(0, None, lost, "east"))
    assert caught.value.__context__ is lost


def handle_and_gather(driver: SystemDriver, event: d.SystemTaskEnded) -> None:
    driver.handle(event)
    driver.gather()


def test_a_system_that_passes_a_task_s_error_on_gives_that_error_alone() -> None:
    def passes_on(master: MasterHandle, task: Task, result: Any, error: Any) -> None:
        raise error

    driver = driver_of(System(jobs(1), task_finished=passes_on))
    driver.begin()
    with pytest.raises(ValueError, match="mine") as caught:
        driver.handle(d.SystemTaskEnded(0, None, ValueError("mine"), "east"))
    assert caught.value.__context__ is None


def test_an_error_of_a_system_none_of_whose_tasks_has_failed_is_its_own() -> None:
    driver = driver_of(System(jobs(1), gather_result=lambda master: 1 // 0))
    driver.begin()
    driver.handle(*ended(0))
    with pytest.raises(ZeroDivisionError) as caught:
        driver.gather()
    assert caught.value.__context__ is None
