"""Pi, from a sum whose terms are divided among tasks."""

import math
from collections.abc import Iterable, Iterator

from concurrent_nb.components.config import IntItem
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task


class PiTask(Task):
    """Sums 1 / k² for k from `first` to `last`."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"pi {first}")
        self.first = first
        self.last = last

    def __call__(self) -> float:
        return math.fsum(1 / (k * k) for k in range(self.first, self.last + 1))


def tasks(terms: int, num_tasks: int) -> Iterator[PiTask]:
    """Divide the terms of the sum among the tasks."""
    for n in range(num_tasks):
        yield PiTask(terms * n // num_tasks + 1, terms * (n + 1) // num_tasks)


def pi(sums: Iterable[float]) -> float:
    """Return pi. `fsum` rounds only once, so the order of the partial sums makes no difference."""
    return math.sqrt(6 * math.fsum(sums))


class PiSystem(ITaskSystem):
    """Collects the partial sums."""

    def __init__(self, terms: int, num_tasks: int) -> None:
        self.terms = terms
        self.num_tasks = num_tasks
        self.sums: list[float] = []

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return tasks(self.terms, self.num_tasks)

    def task_finished(
        self, master: MasterHandle, task: Task, result: float, error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        self.sums.append(result)
        return None

    def gather_result(self, master: MasterHandle) -> float:
        return pi(self.sums)


class PiSample(Sample):
    """Pi as the square root of 6 (1 + 1/4 + 1/9 + ...); each task computes a part of the sum."""

    num_tasks = IntItem(64, min=1, help="Number of tasks.")
    terms = IntItem(4_000_000, min=1, help="Number of terms.")

    @property
    def count(self) -> int:
        return self.num_tasks

    def tasks(self) -> Iterator[Task]:
        return tasks(self.terms, self.num_tasks)

    def gather(self, results: Iterable[float]) -> float:
        return pi(results)

    def system(self) -> PiSystem:
        return PiSystem(self.terms, self.num_tasks)

    def describe(self, answer: float, elapsed_s: float) -> str:
        return f"pi is about {answer!r}, {math.pi - answer:.1e} below the right value ({elapsed_s:.2f} s)"
