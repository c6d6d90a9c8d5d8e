"""The task that advances the groups of a world that live in this worker: any worker may take any order."""

import os
import socket
import threading
import time
from typing import Final

from concurrent_nb.shipping.runtime import notes
from concurrent_nb.tasks.system import Task
from concurrent_nb.worlds import time_limit
from concurrent_nb.worlds.living_groups import LivingGroups
from concurrent_nb.worlds.step_driver import StepTable, WorkerAnswer, words_about

#: seconds of an order after which it reports who is at work, each time anew
LATE_S: Final = 1.0


class _GroupsOfThread(threading.local):
    """The groups of a thread: where workers are threads of one process, each is a worker by itself."""

    pid = 0  #: a fork has none of what lives in its parent
    groups: LivingGroups


_OF_THREAD: Final = _GroupsOfThread()


def living_groups() -> LivingGroups:
    """Return the groups that live in this thread."""
    if _OF_THREAD.pid != os.getpid():
        _OF_THREAD.pid = os.getpid()
        thread = threading.current_thread()
        place = f"{socket.gethostname()} {os.getpid()}"
        if thread is not threading.main_thread():
            place += f" {thread.name}"
        _OF_THREAD.groups = LivingGroups(os.urandom(8).hex(), place, time.perf_counter, report_call)
    return _OF_THREAD.groups


def run_order(number: int, table: StepTable) -> WorkerAnswer:
    """Carry out an order: see `LivingGroups.carry_out`."""
    living = living_groups()
    with time_limit.alarm(LATE_S, lambda: _report_late_call(living)):
        return living.carry_out(number, table)


def report_call(step: int, member: int) -> None:
    """Report which member makes which step, so that it is known if the worker dies."""
    if (sink := notes.sink()).is_open:
        sink.put_progress(notes.ProgressReport(None, words_about(step, member)))


def _report_late_call(living: LivingGroups) -> None:
    if living.runner is not None and living.runner.report_call is None:  # else it reports each member itself
        report_call(*living.runner.at_work)


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
