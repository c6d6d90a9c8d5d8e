"""The queue of waiting tasks: fair between owners, first come first served for one owner.

Each owner with waiting tasks has a queue; the queues take turns. A queue consists of runs, so that a thousand tasks of
one submit cost one look-up. A waiting task that ends (it was cancelled) stays in place and is skipped; a queue is swept
before such entries outnumber the waiting ones. The queue of a paused owner accepts tasks, but has no turns.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from concurrent_nb.ids import Digest
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState

_WAITING = TaskState.WAITING
#: fewest ended entries that are swept
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
        """Return whether a task fits into the run."""
        return (
            self.job is task.job
            and self.function == task.function
            and self.timeout_s == task.timeout_s
            and self.objects == task.objects
            and self.needs == task.needs
        )


class _OwnerQueue:
    """One owner's waiting tasks. Of its entries, `alive` are waiting, and `ended` are skipped when they are first."""

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
        """Return the first run that has a waiting task. Only for a queue with `alive` entries."""
        while True:
            tasks = self.runs[0].tasks
            while tasks and tasks[0].state is not _WAITING:
                tasks.popleft()
                self.ended -= 1
            if tasks:
                return self.runs[0]
            self.runs.popleft()

    def take(self, most: int) -> list[TaskRecord]:
        """Remove at most `most` waiting tasks of the first run, and return them in order."""
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
        # The queue whose turn it is comes first. A queue without waiting tasks is dropped.
        self._queues: OrderedDict[str, _OwnerQueue] = OrderedDict()
        self._paused: dict[str, _OwnerQueue] = {}
        self._alive = 0  # of those that are not paused

    def __len__(self) -> int:
        """Return how many tasks wait, without those of paused owners."""
        return self._alive

    @property
    def total(self) -> int:
        """The number of waiting tasks, those of paused owners included."""
        return self._alive + sum(queue.alive for queue in self._paused.values())

    def __iter__(self) -> Iterator[TaskRecord]:
        """Iterate over the waiting tasks, owner by owner, those of paused owners last."""
        for queue in (*self._queues.values(), *self._paused.values()):
            for run in queue.runs:
                yield from (task for task in run.tasks if task.state is _WAITING)

    @property
    def owners(self) -> int:
        """The number of owners with waiting tasks that are not paused."""
        return len(self._queues)

    @property
    def entries(self) -> int:
        """The number of entries, ended ones included; never many more than twice the waiting tasks."""
        queues = (*self._queues.values(), *self._paused.values())
        return sum(len(run.tasks) for queue in queues for run in queue.runs)

    def of(self, owner: str) -> int:
        """Return how many tasks of an owner wait; 0 if the owner is paused."""
        queue = self._queues.get(owner)
        return 0 if queue is None else queue.alive

    def is_paused(self, owner: str) -> bool:
        """Return whether an owner is paused."""
        return owner in self._paused

    def pause(self, owner: str) -> None:
        """Give an owner no turns until `resume`."""
        if owner not in self._paused:
            queue = self._paused[owner] = self._queue_of(owner)
            self._queues.pop(owner)
            self._alive -= queue.alive

    def resume(self, owner: str) -> None:
        """Give an owner turns again, if the owner is paused."""
        queue = self._paused.pop(owner, None)
        if queue is not None and queue.alive:
            self._queues[owner] = queue
            self._alive += queue.alive

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Append waiting tasks that share job, function, time limit, needs and shared objects."""
        if tasks:
            owner = tasks[0].job.owner
            self._queue_of(owner).append(tasks)
            if owner not in self._paused:
                self._alive += len(tasks)

    def put_back(self, task: TaskRecord) -> None:
        """Insert a waiting task before all others of its owner."""
        owner = task.job.owner
        self._queue_of(owner).append_left(task)
        if owner not in self._paused:
            self._alive += 1

    def first(self) -> QueuedRun | None:
        """Return the run whose turn it is, None if no task waits."""
        for queue in self._queues.values():
            return queue.first()
        return None

    def take(self, most: int) -> list[TaskRecord]:
        """Remove and return 1 to `most` tasks of the first run; then it is the next owner's turn."""
        owner, queue = next(iter(self._queues.items()))
        taken = queue.take(most)
        self._alive -= len(taken)
        if queue.alive:
            if queue.ended > queue.alive + _SWEEP_FROM:
                queue.sweep()
            self._queues.move_to_end(owner)
        else:
            del self._queues[owner]
        return taken

    def ended(self, owner: str, count: int) -> None:
        """Note that `count` waiting tasks of an owner have ended; their state shows which."""
        if not count:
            return
        paused = self._paused.get(owner)
        queue = paused or self._queues[owner]
        queue.alive -= count
        queue.ended += count
        if paused is None:
            self._alive -= count
        if not queue.alive:
            if paused is None:
                del self._queues[owner]
            else:
                queue.sweep()
        elif queue.ended > queue.alive + _SWEEP_FROM:
            queue.sweep()

    def left(self, owner: str, count: int) -> None:
        """Note that `count` waiting tasks of an owner do not wait any more, and may wait again later."""
        self.ended(owner, count)
        if (queue := self._paused.get(owner) or self._queues.get(owner)) is not None:
            queue.sweep()  # else such a task would have two entries when it waits again

    def _queue_of(self, owner: str) -> _OwnerQueue:
        queue = self._paused.get(owner) or self._queues.get(owner)
        if queue is None:
            queue = self._queues[owner] = _OwnerQueue()
        return queue
