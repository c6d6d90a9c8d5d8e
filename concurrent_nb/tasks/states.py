"""The states of a task, as a table. Every change of `TaskRecord.state` must go through `move`.

A transition that is not in the table is a bug. Called by the scheduler only. A new task is WAITING or BLOCKED; no row
leads out of FORGOTTEN.

    BLOCKED --unblock--> WAITING: its inputs are there
    BLOCKED --send_ahead--> AHEAD --promote--> ASSIGNED: its last input has succeeded on the same slave
       ^---------block--------'
    WAITING --assign--> ASSIGNED --finish--> FINISHED --forget--> FORGOTTEN
       ^------requeue------'                    ^
       `------finish (cancelled first)----------'          abandon: WAITING, ASSIGNED or BLOCKED to FORGOTTEN
"""

from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import ConcurrentError
from concurrent_nb.tasks.task_record import TaskRecord, TaskState

#: (state, what happens) -> next state
TRANSITIONS: Final[dict[tuple[TaskState, str], TaskState]] = {
    (TaskState.BLOCKED, "unblock"): TaskState.WAITING,
    (TaskState.BLOCKED, "send_ahead"): TaskState.AHEAD,
    (TaskState.AHEAD, "promote"): TaskState.ASSIGNED,
    (TaskState.AHEAD, "block"): TaskState.BLOCKED,  # its slave has returned it, or is lost
    (TaskState.WAITING, "assign"): TaskState.ASSIGNED,
    (TaskState.ASSIGNED, "requeue"): TaskState.WAITING,  # returned, its slave or worker died, or a retry
    (TaskState.ASSIGNED, "finish"): TaskState.FINISHED,
    (TaskState.WAITING, "finish"): TaskState.FINISHED,  # cancelled before it ran
    (TaskState.BLOCKED, "finish"): TaskState.FINISHED,  # an input has failed, or it was cancelled
    (TaskState.FINISHED, "forget"): TaskState.FORGOTTEN,  # its owner has the outcome
    (TaskState.WAITING, "abandon"): TaskState.FORGOTTEN,  # its owner is gone for good
    (TaskState.BLOCKED, "abandon"): TaskState.FORGOTTEN,
    (TaskState.ASSIGNED, "abandon"): TaskState.FORGOTTEN,
    (TaskState.FINISHED, "abandon"): TaskState.FORGOTTEN,
}


@dataclass(frozen=True, slots=True)
class Verb:
    """All rows of the table with one name."""

    name: str
    target: TaskState  #: the next state, the same from every state
    targets: tuple[TaskState | None, ...]  #: next state by the number of the current state; None: not allowed


def _verb(name: str) -> Verb:
    targets = tuple(TRANSITIONS.get((state, name)) for state in TaskState)
    (target,) = {state for state in targets if state is not None}
    return Verb(name, target, targets)


UNBLOCK: Final = _verb("unblock")
SEND_AHEAD: Final = _verb("send_ahead")
PROMOTE: Final = _verb("promote")
BLOCK: Final = _verb("block")
ASSIGN: Final = _verb("assign")
REQUEUE: Final = _verb("requeue")
FINISH: Final = _verb("finish")
FORGET: Final = _verb("forget")
ABANDON: Final = _verb("abandon")


class InvalidTransition(ConcurrentError):
    """A change of a task's state that the table does not allow: a bug of this package, never a user's."""

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
    """Describe a task's past, for an error message."""
    parts = [f"its attempt is {task.attempt}", f"on {task.slave.hex()[:8]}" if task.slave else "on no slave"]
    parts += [word for word, is_so in (("started", task.started), ("cancelled", task.cancelled)) if is_so]
    if task.outcome is not None:
        parts.append(f"ended with status {task.outcome.status} in attempt {task.outcome.attempt}")
    parts += [f"died before: {how}" for how in task.deaths]
    return ", ".join(parts)


def move(task: TaskRecord, verb: Verb) -> None:
    """Change the task's state as the table allows. Raises InvalidTransition, and changes nothing, otherwise."""
    # Indexed by number and not looked up by pair, as this runs four times for each task of the cluster.
    target = verb.targets[task.state]
    if target is None:
        raise InvalidTransition(task, verb)
    task.state = target
