"""What instructions say, in short."""

import msgspec

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.instructions import (
    AnnounceStarted,
    AssignTasks,
    DeliverOutcomes,
    Instruction,
    WithdrawTasks,
)
from concurrent_nb.wire.messages import ErrorReport


def assigned(instructions: list[Instruction]) -> dict[str, list[int]]:
    """Which tasks go to which slave, to run there as soon as it can."""
    found: dict[str, list[int]] = {}
    for instruction in instructions:
        if isinstance(instruction, AssignTasks) and instruction.behind is None:
            found.setdefault(instruction.slave.decode(), []).extend(task.index for task in instruction.tasks)
    return found


def sent_ahead(instructions: list[Instruction]) -> list[tuple[int, list[int]]]:
    """Behind which task others are sent ahead."""
    runs = [it for it in instructions if isinstance(it, AssignTasks)]
    return [(it.behind.index, [task.index for task in it.tasks]) for it in runs if it.behind is not None]


def attempts(instructions: list[Instruction]) -> dict[int, int]:
    """Which attempt of which task is assigned."""
    runs = [instruction.tasks for instruction in instructions if isinstance(instruction, AssignTasks)]
    return {task.index: task.attempt for tasks in runs for task in tasks}


def delivered(instructions: list[Instruction]) -> dict[int, Status]:
    """The status of each delivered outcome by index."""
    parcels = [instruction.items for instruction in instructions if isinstance(instruction, DeliverOutcomes)]
    pairs = [(item.index, Status(item.status)) for items in parcels for item in items]
    assert len(pairs) == len(dict(pairs)), "an outcome is delivered twice at once"
    return dict(pairs)


def withdrawn(instructions: list[Instruction], *, stop: bool) -> dict[str, list[int]]:
    """Which tasks are to come back from which slave."""
    return {
        instruction.slave.decode(): [ref.index for ref in instruction.tasks]
        for instruction in instructions
        if isinstance(instruction, WithdrawTasks) and instruction.stop == stop
    }


def announced_started(instructions: list[Instruction]) -> list[int]:
    """The tasks that are announced as running."""
    runs = [instruction.tasks for instruction in instructions if isinstance(instruction, AnnounceStarted)]
    return [ref.index for tasks in runs for ref in tasks]


def report(instructions: list[Instruction]) -> str:
    """The message of the only delivered ErrorReport."""
    (deliver,) = [instruction for instruction in instructions if isinstance(instruction, DeliverOutcomes)]
    (item,) = deliver.items
    return msgspec.msgpack.decode(item.body, type=ErrorReport).message
