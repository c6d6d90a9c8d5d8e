"""The task that advances the groups of a world that live in this worker: any worker may take any order."""

import os
import socket
import time
from typing import Final

from concurrent_nb.tasks.system import Task
from concurrent_nb.worlds.living_groups import LivingGroups
from concurrent_nb.worlds.step_driver import StepTable, WorkerAnswer

#: of this process, by pid: a fork has none of what lives in its parent
_by_pid: Final[dict[int, LivingGroups]] = {}


def living_groups() -> LivingGroups:
    """Return the groups that live in this process."""
    pid = os.getpid()
    if pid not in _by_pid:
        _by_pid.clear()
        _by_pid[pid] = LivingGroups(os.urandom(8).hex(), f"{socket.gethostname()} {pid}", time.perf_counter)
    return _by_pid[pid]


def run_order(number: int, table: StepTable) -> WorkerAnswer:
    """Carry out an order: see `LivingGroups.carry_out`."""
    return living_groups().carry_out(number, table)


def forget(world: bytes) -> None:
    """Remove the groups of a world from this worker."""
    living_groups().forget(world)


class OrderTask(Task):
    """An order as a task of a task system."""

    def __init__(self, batch: int, number: int, table: StepTable) -> None:
        super().__init__(name=f"step {min(step for step, _ in table.steps.values())}")
        self.batch = batch
        self.number = number
        self.table: StepTable | None = table

    def __call__(self) -> WorkerAnswer:
        """Carry it out."""
        assert self.table is not None
        return run_order(self.number, self.table)
