"""Runs one task system: events of its tasks in, tasks to push and cancel out.

    begin() -------------------------------------.
    handle(SystemTaskEnded, SystemTaskRunning, ...) --> the system's methods --> [PushTask | CancelTasks]
    when `complete`: gather()

Called by the system host, in one thread. Pure except for the user's methods, which it calls: no I/O, time from a clock
that it is given. An exception in such a method is raised unchanged; the system is over then.

Memory does not grow with the number of tasks that have ended: only unfinished ones are kept, and counts by phase. The
tasks of `generate_tasks` are of phase 1; tasks pushed because of a task of phase n, in `task_finished` or `finished`,
are of phase n + 1.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct

from concurrent_nb.clock import Clock
from concurrent_nb.errors import SystemStalled
from concurrent_nb.tasks.system import ITaskSystem, Task

#: most unfinished tasks at the beginning; each result allows one more
AHEAD_FIRST: Final = 16
#: most unfinished tasks at any time
AHEAD_MOST: Final = 8192
#: from this limit on, sources are read again only when a quarter of it is free
PACKED_FROM: Final = 64
#: phases that are counted separately; older ones that have ended are counted together
PHASES_MAX: Final = 8

_END: Final = object()


class PushTask(Struct, frozen=True):
    """Run this task under this number."""

    index: int
    task: Task


class CancelTasks(Struct, frozen=True):
    """Cancel the tasks of these numbers, running ones too."""

    indexes: tuple[int, ...]


Instruction = PushTask | CancelTasks


class SystemTaskEnded(Struct, frozen=True):
    """A task has returned or failed."""

    index: int
    result: Any
    error: BaseException | None
    slave: str


class SystemTaskRunning(Struct, frozen=True):
    """A task has been running for a while."""

    index: int


class Room(Struct, frozen=True):
    """At most `ahead` unfinished tasks from now on; for a host whose tasks turn out to be large."""

    ahead: int


Event = SystemTaskEnded | SystemTaskRunning | Room


@dataclass(slots=True)
class Phase:
    """The progress of a phase."""

    number: int
    pushed: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def unfinished(self) -> int:
        """The number of its tasks that have not ended."""
        return self.pushed - self.done - self.failed - self.cancelled


class SystemDriver:
    """Calls the methods of one system, in the order that `ITaskSystem` promises.

    Args:
        system: the task system.
        client_id: the application to which the system's tasks belong.
        log: shows a line in the cell or terminal that waits for the system.
        status: returns the status of the cluster.
        clock: the time in seconds.
        values: returns the statistics of what the system's tasks have measured, by name.

    `begin`, `handle` and `gather` raise whatever a method of the system raises, TypeError for objects that are not
    tasks, and SystemStalled when no task is left that could make the system complete.
    """

    def __init__(
        self,
        system: ITaskSystem,
        client_id: str,
        log: Callable[[str], None],
        status: Callable[[], dict[str, Any]],
        clock: Clock,
        values: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._system = system
        # The default is computed here without its cost, as this is needed after each task.
        self._has_own_is_complete = type(system).is_complete is not ITaskSystem.is_complete
        self._client_id = client_id
        self._clock = clock
        self._started_s = clock()
        self._first_error: BaseException | None = None  # of a task
        self._sources: list[tuple[Iterator[Task], int, str]] = []  # iterator, phase and origin; the last is read first
        self._unfinished: dict[int, tuple[Task, int]] = {}  # task and phase
        self._running: set[int] = set()
        self._phases: dict[int, Phase] = {}
        self._earlier = Phase(0)  # all phases that are no longer counted separately
        self._phase = 1  # of tasks that are pushed now
        self._next = 0
        self._ahead = AHEAD_FIRST
        self._ahead_most = AHEAD_MOST
        self._cancelled: list[int] = []
        self.stage = "preparing"  #: or "running" or "gathering"
        self.complete = False  #: no task is to be run any more: `gather` returns the result
        self._handle = _Handle(self, log, status, values)

    # ------------------------------------------------------------------------------------------------- for the host

    def begin(self) -> list[Instruction]:
        """Prepare the system and return its first tasks."""
        self._system.init_system(self._handle)
        self.add(self._system.generate_tasks(self._handle), "generate_tasks")
        self.stage = "running"
        self._check_complete()
        return self._instructions()

    def handle(self, *events: Event) -> list[Instruction]:
        """Handle events, in order. Events after the completion are ignored."""
        try:
            for event in events:
                if self.complete:
                    break
                if type(event) is SystemTaskEnded:
                    self._ended(event)
                elif type(event) is SystemTaskRunning:
                    if event.index in self._unfinished:
                        self._running.add(event.index)
                elif type(event) is Room:
                    self._ahead_most = max(1, event.ahead)
            return self._instructions()
        except BaseException as error:
            self._explain(error)
            raise

    def gather(self) -> Any:
        """Return the result of a system that is complete."""
        try:
            return self._system.gather_result(self._handle)
        except BaseException as error:
            self._explain(error)
            raise

    def stats(self) -> dict[str, Any]:
        """Return the progress of the system: see `MasterHandle.stats`."""
        phases = [phase for phase in (self._earlier, *self._phases.values()) if phase.pushed]
        running, unfinished = len(self._running), len(self._unfinished)
        return {
            "stage": self.stage,
            "pushed": self._next,
            "unfinished": unfinished,
            "waiting": unfinished - running,
            "running": running,
            "done": sum(phase.done for phase in phases),
            "failed": sum(phase.failed for phase in phases),
            "cancelled": sum(phase.cancelled for phase in phases),
            "exhausted": not self._sources,
            "elapsed_s": self._clock() - self._started_s,
            "phases": [
                {
                    "number": phase.number,
                    "pushed": phase.pushed,
                    "unfinished": phase.unfinished,
                    "done": phase.done,
                    "failed": phase.failed,
                    "cancelled": phase.cancelled,
                }
                for phase in phases
            ],
        }

    # ------------------------------------------------------------------------------------------ for the master handle

    def add(self, tasks: Iterable[Task] | None, origin: str) -> None:
        """Take tasks that are to be run. An iterator is read only as fast as there is room.

        Args:
            tasks: the tasks; None for none.
            origin: the method that they come from, for messages.

        Raises RuntimeError if the system is complete, TypeError for an object that is not an iterable of tasks.
        """
        if tasks is None:
            return
        if self.stage == "gathering":
            raise RuntimeError(f"{self._name} is complete, so it cannot push more tasks")
        if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
            raise TypeError(f"{self._name}.{origin} gave a {type(tasks).__name__}: it must be an iterable of tasks")
        self._sources.append((iter(tasks), self._phase, origin))

    def cancel(self, tasks: Iterable[Task] | None) -> None:
        """Cancel tasks; with None all unfinished ones, and those of iterators that are not read yet."""
        if tasks is None:
            self._sources.clear()
            indexes = list(self._unfinished)
        else:
            indexes = [index for task in tasks if (index := self._index_of(task)) is not None]
        for index in indexes:
            _, phase = self._unfinished.pop(index)
            self._running.discard(index)
            self._phases[phase].cancelled += 1
        self._cancelled += indexes

    # -------------------------------------------------------------------------------------------------- what happens

    @property
    def _name(self) -> str:
        return type(self._system).__name__

    def _explain(self, error: BaseException) -> None:
        """Chain the first error of a task to an exception of a method: methods that ignore a task's error fail
        because of its missing result, some of them much later."""
        if error.__context__ is None and error is not self._first_error:
            error.__context__ = self._first_error

    def _ended(self, event: SystemTaskEnded) -> None:
        if event.index not in self._unfinished:
            return  # it was cancelled, but its result was faster
        task, number = self._unfinished.pop(event.index)
        self._running.discard(event.index)
        self._ahead = min(self._ahead + 1, AHEAD_MOST)
        phase = self._phases[number]
        if event.error is None:
            phase.done += 1
        else:
            phase.failed += 1
            self._first_error = self._first_error or event.error
        task.slave_id = event.slave
        self._phase = number + 1
        task.finished(event.result, event.error)
        self.add(self._system.task_finished(self._handle, task, event.result, event.error), "task_finished")
        if not phase.unfinished and len(self._phases) > PHASES_MAX:
            self._merge_old_phases()
        self._check_complete()

    def _merge_old_phases(self) -> None:
        """Count the oldest phases together, unless they still have tasks."""
        coming = {number for _, number, _ in self._sources}
        for number in sorted(self._phases)[:-PHASES_MAX]:
            phase = self._phases[number]
            if phase.unfinished or number in coming:
                continue
            del self._phases[number]
            for count in ("pushed", "done", "failed", "cancelled"):
                setattr(self._earlier, count, getattr(self._earlier, count) + getattr(phase, count))

    def _check_complete(self) -> bool:
        """Check whether the system is complete; if it is, cancel what is left."""
        if self._has_own_is_complete:
            is_complete = self._system.is_complete(self._handle)
        else:
            is_complete = not (self._unfinished or self._sources)
        if is_complete:
            self.complete = True
            self.stage = "gathering"
            self.cancel(None)
        return self.complete

    def _instructions(self) -> list[Instruction]:
        """Read sources as far as there is room, and return the instructions."""
        pushes: list[PushTask] = []
        while not self.complete:
            self._read(pushes)
            if self._unfinished or self._sources:
                break
            # No task runs and none is to come, so only is_complete can still change something.
            if not self._check_complete() and not self._sources:
                raise SystemStalled(
                    f"the task system {self._name} has no task left and is not complete: its is_complete must be"
                    " true when no task is unfinished, or its task_finished must return more tasks"
                )
        cancelled, self._cancelled = self._cancelled, []
        if not cancelled:
            return list(pushes)
        fresh = {push.index for push in pushes}.intersection(cancelled)  # these were not sent yet
        instructions: list[Instruction] = [push for push in pushes if push.index not in fresh]
        if known := tuple(index for index in cancelled if index not in fresh):
            instructions.append(CancelTasks(known))
        return instructions

    def _read(self, pushes: list[PushTask]) -> None:
        """Push tasks of the sources, if there is room."""
        room = min(self._ahead, self._ahead_most)
        if room >= PACKED_FROM and len(self._unfinished) > room - room // 4:
            return  # many small packs cost every hop much more than few large ones
        while self._sources and len(self._unfinished) < room:
            source = self._sources[-1]
            tasks, self._phase, origin = source
            task: Any = next(tasks, _END)  # a generator may push, cancel or read stats meanwhile
            if task is _END:
                self._sources = [other for other in self._sources if other is not source]
            elif isinstance(task, Task):
                pushes.append(self._push(task, source[1]))
            else:
                raise TypeError(f"{self._name}.{origin} gave {task!r:.100} among its tasks, which is not a Task")

    def _push(self, task: Task, number: int) -> PushTask:
        if task.task_id and self._index_of(task) is not None:
            raise ValueError(f"task {task.task_id} was pushed again before it has ended: push a new object")
        index = self._next
        self._next += 1
        task.system_id = self._system.system_id
        task.client_id = self._client_id
        task.task_id = f"{task.system_id}/{index}"
        self._unfinished[index] = (task, number)
        phase = self._phases.get(number)
        if phase is None:
            phase = self._phases[number] = Phase(number)
        phase.pushed += 1
        return PushTask(index, task)

    def _index_of(self, task: Task) -> int | None:
        """Return the number of an unfinished task, None if it is not one of this system."""
        _, _, number = task.task_id.rpartition("/")
        index = int(number) if number.isdigit() else -1
        known = self._unfinished.get(index)
        return index if known is not None and known[0] is task else None


class _Handle:
    """The `master` argument of a system's methods."""

    def __init__(
        self,
        driver: SystemDriver,
        log: Callable[[str], None],
        status: Callable[[], dict[str, Any]],
        values: Callable[[], dict[str, Any]],
    ) -> None:
        self._driver = driver
        self._values = values
        self.log = log
        self.status = status

    def push_task(self, task: Task) -> None:
        self._driver.add((task,), "push_task")

    def push_tasks(self, tasks: Iterable[Task]) -> None:
        self._driver.add(tasks, "push_tasks")

    def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        self._driver.cancel(tasks)

    def stats(self) -> dict[str, Any]:
        return {**self._driver.stats(), "values": self._values()}
