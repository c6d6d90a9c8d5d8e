"""The tasks that wait: fair between owners, first come first served within one.

A line for each owner who has waiting tasks; lines take turns. A line is made of runs, so that a thousand tasks of one
submit cost one look at the line. A waiting task that ends (it was cancelled) stays where it is and is skipped; lines
are swept before such entries outnumber the living. The line of an owner who is paused takes tasks and no turns.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from concurrent_nb.ids import Digest
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState

_WAITING = TaskState.WAITING
#: ended entries of a line that are not worth sweeping
_SWEEP_FROM = 64


class QueuedRun:
    """Waiting tasks that can travel in one assignment: alike in job, function, time limit, needs and shared objects."""

    __slots__ = ("function", "job", "needs", "objects", "tasks", "timeout_s")

    def __init__(self, task: TaskRecord) -> None:
        self.job: JobRecord = task.job
        self.function: Digest = task.function
        self.timeout_s = task.timeout_s
        self.objects = task.objects
        self.needs = task.needs
        self.tasks: deque[TaskRecord] = deque()

    def suits(self, task: TaskRecord) -> bool:
        """Tell whether the task shares what the run's tasks share."""
        return (
            self.job is task.job
            and self.function == task.function
            and self.timeout_s == task.timeout_s
            and self.objects == task.objects
            and self.needs == task.needs
        )


class _OwnerQueue:
    """One owner's waiting tasks. `ended` of its entries are skipped when they come up; `alive` are not."""

    __slots__ = ("alive", "ended", "runs")

    def __init__(self) -> None:
        self.runs: deque[QueuedRun] = deque()
        self.alive = 0
        self.ended = 0

    def append(self, tasks: Sequence[TaskRecord]) -> None:
        if not self.runs or not self.runs[-1].suits(tasks[0]):
            self.runs.append(QueuedRun(tasks[0]))
        self.runs[-1].tasks.extend(tasks)
        self.alive += len(tasks)

    def append_left(self, task: TaskRecord) -> None:
        if not self.runs or not self.runs[0].suits(task):
            self.runs.appendleft(QueuedRun(task))
        self.runs[0].tasks.appendleft(task)
        self.alive += 1

    def first(self) -> QueuedRun:
        """Return the first run that has a living task. Only for a line that is alive."""
        while True:
            tasks = self.runs[0].tasks
            while tasks and tasks[0].state is not _WAITING:
                tasks.popleft()
                self.ended -= 1
            if tasks:
                return self.runs[0]
            self.runs.popleft()

    def take(self, most: int) -> list[TaskRecord]:
        """Remove living tasks of the first run, at most so many, and return them in order."""
        tasks = self.first().tasks
        popleft = tasks.popleft
        taken = [popleft() for _ in range(min(most, len(tasks)))]
        if self.ended:
            entries = len(taken)
            taken = [task for task in taken if task.state is _WAITING]
            self.ended -= entries - len(taken)
        self.alive -= len(taken)
        if not tasks:
            self.runs.popleft()
        return taken

    def sweep(self) -> None:
        runs, self.runs = self.runs, deque()
        self.alive = self.ended = 0
        for run in runs:
            if alive := [task for task in run.tasks if task.state is _WAITING]:
                self.append(alive)


class TaskQueue:
    """All waiting tasks."""

    def __init__(self) -> None:
        # The line whose turn it is comes first. A line without living tasks is dropped, so none here is empty.
        self._lines: OrderedDict[str, _OwnerQueue] = OrderedDict()
        self._paused: dict[str, _OwnerQueue] = {}
        self._alive = 0  # of those that are not paused

    def __len__(self) -> int:
        """Return how many tasks wait for a slave, and for nothing else."""
        return self._alive

    @property
    def total(self) -> int:
        """Return how many tasks wait, those of paused owners too."""
        return self._alive + sum(line.alive for line in self._paused.values())

    def __iter__(self) -> Iterator[TaskRecord]:
        """Iterate over the waiting tasks, owner by owner, those of paused owners last."""
        for line in (*self._lines.values(), *self._paused.values()):
            for run in line.runs:
                yield from (task for task in run.tasks if task.state is _WAITING)

    @property
    def owners(self) -> int:
        """How many owners have waiting tasks."""
        return len(self._lines)

    @property
    def entries(self) -> int:
        """How many entries are kept, ended ones included; never many more than twice the waiting tasks."""
        lines = (*self._lines.values(), *self._paused.values())
        return sum(len(run.tasks) for line in lines for run in line.runs)

    def of(self, owner: str) -> int:
        """Return how many tasks of an owner wait."""
        line = self._lines.get(owner)
        return 0 if line is None else line.alive

    def is_paused(self, owner: str) -> bool:
        """Say whether an owner gets no turns."""
        return owner in self._paused

    def pause(self, owner: str) -> None:
        """Give an owner no turns, until he is resumed."""
        if owner not in self._paused:
            line = self._paused[owner] = self._line(owner)
            self._lines.pop(owner)
            self._alive -= line.alive

    def resume(self, owner: str) -> None:
        """Give an owner turns again, if he was paused."""
        line = self._paused.pop(owner, None)
        if line is not None and line.alive:
            self._lines[owner] = line
            self._alive += line.alive

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Append waiting tasks that share job, function, time limit, needs and shared objects."""
        if tasks:
            owner = tasks[0].job.owner
            self._line(owner).append(tasks)
            if owner not in self._paused:
                self._alive += len(tasks)

    def put_back(self, task: TaskRecord) -> None:
        """Put a waiting task before all others of its owner."""
        owner = task.job.owner
        self._line(owner).append_left(task)
        if owner not in self._paused:
            self._alive += 1

    def first(self) -> QueuedRun | None:
        """Return the run whose turn it is, None if nothing waits."""
        for line in self._lines.values():
            return line.first()
        return None

    def take(self, most: int) -> list[TaskRecord]:
        """Remove at least one and at most so many tasks of the first run; then it is the next owner's turn."""
        owner, line = next(iter(self._lines.items()))
        taken = line.take(most)
        self._alive -= len(taken)
        if line.alive:
            self._lines.move_to_end(owner)
        else:
            del self._lines[owner]
        return taken

    def ended(self, owner: str, count: int) -> None:
        """Learn that so many waiting tasks of an owner wait no longer (their state says which)."""
        if not count:
            return
        paused = self._paused.get(owner)
        line = paused or self._lines[owner]
        line.alive -= count
        line.ended += count
        if paused is None:
            self._alive -= count
        if not line.alive:
            if paused is None:
                del self._lines[owner]
            else:
                line.sweep()
        elif line.ended > line.alive + _SWEEP_FROM:
            line.sweep()

    def _line(self, owner: str) -> _OwnerQueue:
        line = self._paused.get(owner) or self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _OwnerQueue()
        return line
