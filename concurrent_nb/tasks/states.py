"""The states of a task, as a table. Every change of `TaskRecord.state` goes through `move`.

A pair of states that is not in the table is a bug.

Called by the scheduler only. A task is made WAITING; no row leads out of FORGOTTEN.

    WAITING --assign--> ASSIGNED --finish--> FINISHED --forget--> FORGOTTEN
       ^------requeue------'                    ^
       `------finish (cancelled first)----------'          abandon: WAITING or ASSIGNED to FORGOTTEN
"""

from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import ConcurrentError
from concurrent_nb.tasks.task_record import TaskRecord, TaskState

#: (where it is, what happens) -> where it is then
TRANSITIONS: Final[dict[tuple[TaskState, str], TaskState]] = {
    (TaskState.WAITING, "assign"): TaskState.ASSIGNED,
    (TaskState.ASSIGNED, "requeue"): TaskState.WAITING,  # given back, its slave or worker died, or a retry
    (TaskState.ASSIGNED, "finish"): TaskState.FINISHED,
    (TaskState.WAITING, "finish"): TaskState.FINISHED,  # cancelled before it ran
    (TaskState.FINISHED, "forget"): TaskState.FORGOTTEN,  # its owner has the outcome
    (TaskState.WAITING, "abandon"): TaskState.FORGOTTEN,  # its owner is gone for good
    (TaskState.ASSIGNED, "abandon"): TaskState.FORGOTTEN,
    (TaskState.FINISHED, "abandon"): TaskState.FORGOTTEN,
}


@dataclass(frozen=True, slots=True)
class Verb:
    """All rows of the table with one name."""

    name: str
    target: TaskState  #: where it leads from everywhere
    targets: tuple[TaskState | None, ...]  #: by the number of the state where the task is; None: not allowed


def _verb(name: str) -> Verb:
    targets = tuple(TRANSITIONS.get((state, name)) for state in TaskState)
    (target,) = {state for state in targets if state is not None}
    return Verb(name, target, targets)


ASSIGN: Final = _verb("assign")
REQUEUE: Final = _verb("requeue")
FINISH: Final = _verb("finish")
FORGET: Final = _verb("forget")
ABANDON: Final = _verb("abandon")


class InvalidTransition(ConcurrentError):
    """A task was to change its state in a way that the table does not have: a bug of ours, never a user's."""

    def __init__(self, task: TaskRecord, verb: Verb) -> None:
        self.task = task.name
        self.source = task.state
        self.target = verb.target
        self.history = history(task)
        super().__init__(
            f"task {self.task} cannot {verb.name} ({self.source.name} to {self.target.name}); {self.history}. "
            "This is a bug in the scheduler: please report it with this message."
        )


def history(task: TaskRecord) -> str:
    """Tell what is known of a task's past, for an error message."""
    parts = [f"its attempt is {task.attempt}", f"on {task.slave.hex()[:8]}" if task.slave else "on no slave"]
    parts += [word for word, said in (("started", task.started), ("cancelled", task.cancelled)) if said]
    if task.outcome is not None:
        parts.append(f"ended with status {task.outcome.status} in attempt {task.outcome.attempt}")
    parts += [f"died before: {how}" for how in task.deaths]
    return ", ".join(parts)


def move(task: TaskRecord, verb: Verb) -> None:
    """Change the task's state as the table says, or raise InvalidTransition and change nothing."""
    # Indexed by number and not looked up by pair: this runs four times for each task of the cluster.
    target = verb.targets[task.state]
    if target is None:
        raise InvalidTransition(task, verb)
    task.state = target
