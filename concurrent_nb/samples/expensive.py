"""Tasks that only use processor time, to measure how much time a cluster saves."""

import time
from collections.abc import Iterable, Iterator

from concurrent_nb.components.config import FloatItem, IntItem
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task


class ExpensiveTask(Task):
    """Loops until it has used `time_per_task` seconds of processor time.

    Wall-clock time would also pass while another process runs, so that two tasks on one core would seem to be as fast
    as on two.
    """

    def __init__(self, number: int, time_per_task: float) -> None:
        super().__init__(f"expensive {number}")
        self.time_per_task = time_per_task

    def __call__(self) -> float:
        end_s = time.thread_time() + self.time_per_task
        while time.thread_time() < end_s:
            pass
        return self.time_per_task


def tasks(num_tasks: int, time_per_task: float) -> Iterator[ExpensiveTask]:
    """Yield the tasks."""
    return (ExpensiveTask(number, time_per_task) for number in range(num_tasks))


class ExpensiveSystem(ITaskSystem):
    """Adds up the processor time of its tasks."""

    def __init__(self, num_tasks: int, time_per_task: float) -> None:
        self.num_tasks = num_tasks
        self.time_per_task = time_per_task
        self.spent_s = 0.0

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return tasks(self.num_tasks, self.time_per_task)

    def task_finished(
        self, master: MasterHandle, task: Task, result: float, error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        self.spent_s += result
        return None

    def gather_result(self, master: MasterHandle) -> float:
        return self.spent_s


class ExpensiveSample(Sample):
    """Tasks that only use processor time: how much faster is the cluster?"""

    time_per_task = FloatItem(1.0, min=0.0, help="Processor time of each task in seconds.")
    num_tasks = IntItem(8, min=1, help="Number of tasks.")

    @property
    def count(self) -> int:
        return self.num_tasks

    def tasks(self) -> Iterator[Task]:
        return tasks(self.num_tasks, self.time_per_task)

    def gather(self, results: Iterable[float]) -> float:
        return sum(results)

    def system(self) -> ExpensiveSystem:
        return ExpensiveSystem(self.num_tasks, self.time_per_task)

    def describe(self, answer: float, elapsed_s: float) -> str:
        return f"expected {answer:.2f} s, actual {elapsed_s:.2f} s: improvement {100 * answer / elapsed_s:.0f} %"
