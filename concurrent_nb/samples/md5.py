"""Search a range for the number with a given MD5 hash."""

from collections.abc import Iterable, Iterator
from hashlib import md5

from concurrent_nb.components.config import IntItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task


class Md5Task(Task):
    """Tries the numbers from `first` to `last`; its result is the number whose hash is `target`, or None."""

    def __init__(self, first: int, last: int, target: str) -> None:
        super().__init__(f"md5 {first}")
        self.first = first
        self.last = last
        self.target = target

    def __call__(self) -> int | None:
        target = bytes.fromhex(self.target)
        return next((n for n in range(self.first, self.last + 1) if md5(b"%d" % n).digest() == target), None)


def tasks(start: int, end: int, num_tasks: int, target: str) -> Iterator[Md5Task]:
    """Divide the numbers from `start` to `end` (inclusive) among at most `num_tasks` tasks."""
    step = -(-(end - start + 1) // num_tasks)
    for first in range(start, end + 1, step):
        yield Md5Task(first, min(first + step - 1, end), target)


class Md5System(ITaskSystem):
    """Is complete as soon as a task has found the number; tasks that wait then never run."""

    def __init__(self, start: int, end: int, num_tasks: int, target: str) -> None:
        self.start = start
        self.end = end
        self.num_tasks = num_tasks
        self.target = target
        self.found: int | None = None

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return tasks(self.start, self.end, self.num_tasks, self.target)

    def task_finished(
        self, master: MasterHandle, task: Task, result: int | None, error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        if result is not None:
            self.found = result
        return None

    def is_complete(self, master: MasterHandle) -> bool:
        return self.found is not None or super().is_complete(master)

    def gather_result(self, master: MasterHandle) -> int | None:
        return self.found


class Md5Sample(Sample):
    """Search for a number by its MD5 hash: the numbers of a range are tried until it is found."""

    num_tasks = IntItem(128, min=1, help="Maximum number of tasks.")
    start = IntItem(1, min=0, help="First number to try.")
    end = IntItem(2_000_000, min=0, help="Last number to try.")
    number = IntItem(1_763_965, min=0, help="Number to find; the tasks know only its hash.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        if self.end < self.start:
            raise ConfigurationError(
                f"the range from {self.start} to {self.end} is empty: the end must not be before the start"
            )

    @property
    def target(self) -> str:
        """Return the hash to search for, in hexadecimal digits."""
        return md5(b"%d" % self.number).hexdigest()

    @property
    def count(self) -> int:
        return sum(1 for _ in self.tasks())

    def tasks(self) -> Iterator[Task]:
        return tasks(self.start, self.end, self.num_tasks, self.target)

    def gather(self, results: Iterable[int | None]) -> int | None:
        return next((result for result in results if result is not None), None)

    def system(self) -> Md5System:
        return Md5System(self.start, self.end, self.num_tasks, self.target)

    def describe(self, answer: int | None, elapsed_s: float) -> str:
        found = f"no number from {self.start} to {self.end} has" if answer is None else f"found {answer}: it has"
        return f"{found} the MD5 hash {self.target} ({elapsed_s:.2f} s)"
