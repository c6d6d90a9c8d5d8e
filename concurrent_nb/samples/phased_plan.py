"""Plans: work of one or more phases, each of which is known when the one before has ended; and what runs them.

run_plan(app, plan)                              # phases from here; any concurrent.futures.Executor
app.push_tasksystem(PhasedSystem(plan))        # phases in the cluster; data between them stay there
run_plan(None, plan)                             # in this process, one task after the other
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from typing import Any

from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task


class PhaseTask(Task):
    """Calls a function; its result is (number, what the function returns)."""

    def __init__(self, name: str, number: int, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(name)
        self.number = number
        self.function = function
        self.arguments = arguments

    def __call__(self) -> tuple[int, Any]:
        return self.number, self.function(*self.arguments)


class PhasedPlan:
    """Base class: decides what each phase computes. Its tasks are numbered from 0 in each phase."""

    result: Any = None  #: once `proceed` has returned no tasks

    def begin(self) -> Sequence[PhaseTask]:
        """Return the tasks of the first phase."""
        raise NotImplementedError

    def received(self, number: int, result: Any) -> None:
        """Receive one result of a phase, as soon as it is there; results arrive in any order."""

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        """Receive the results of a phase, in the order of its tasks; return the tasks of the next, or none."""
        raise NotImplementedError


def run_plan(executor: Executor | None, plan: PhasedPlan, show: Callable[[PhasedPlan], object] | None = None) -> Any:
    """Run a plan's phases one after the other; return its result. If a task fails, the others are cancelled.

    Args:
        show: called with the plan after each result, in the order in which they arrive.
    """
    tasks = plan.begin()
    while tasks:
        results: list[Any] = [None] * len(tasks)
        for number, result in _results(executor, tasks):
            results[number] = result
            plan.received(number, result)
            if show is not None:
                show(plan)
        tasks = plan.proceed(results)
    return plan.result


def _results(executor: Executor | None, tasks: Sequence[PhaseTask]) -> Iterator[tuple[int, Any]]:
    if executor is None:
        yield from map(run_task, tasks)
        return
    futures = [executor.submit(run_task, task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def run_task(task: PhaseTask) -> tuple[int, Any]:
    """Run a task of a phase: the function that an executor gets."""
    return task()


class PhasedSystem(ITaskSystem):
    """Runs a plan in the cluster; its result is the plan's."""

    def __init__(self, plan: PhasedPlan) -> None:
        self.plan = plan

    def init_system(self, master: MasterHandle) -> None:
        self.results: dict[int, Any] = {}
        self.size = 0

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return self._phase(self.plan.begin())

    def _phase(self, tasks: Sequence[PhaseTask]) -> Sequence[PhaseTask]:
        self.results, self.size = {}, len(tasks)
        return tasks

    def task_finished(
        self, master: MasterHandle, task: Task, result: tuple[int, Any], error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        number, value = result
        self.results[number] = value
        self.plan.received(number, value)
        if len(self.results) < self.size:
            return None
        return self._phase(self.plan.proceed([self.results[number] for number in range(self.size)]))

    def gather_result(self, master: MasterHandle) -> Any:
        return self.plan.result
