"""A world as a task system: its steps are driven by a process of the cluster, near the workers.

    app.push_tasksystem(WorldSystem(state, ...)).result() -> WorldEnd

The driver is the same as in the user's process; only who sends its orders differs.
"""

import os
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from concurrent_nb.shipping.runtime import notes
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task
from concurrent_nb.worlds.step_driver import StepDriver, StepOrders
from concurrent_nb.worlds.step_record import Step
from concurrent_nb.worlds.step_task import OrderTask
from concurrent_nb.worlds.world_state import WorldState

#: steps whose records are returned
RECORDS_MAX = 10_000
#: seconds between two reports of the progress
REPORT_S = 0.2
#: what is reported, before the number of the step
REPORTED_STEP = "step "


class WorldEnd(NamedTuple):
    """What a run of a world in the cluster returns."""

    state: WorldState
    records: list[Step]  #: the last of them
    error: BaseException | None
    cause: BaseException | None  #: of the error, which a pickle leaves out


class WorldSystem(ITaskSystem):
    """Makes steps of a world.

    Args:
        state: of the world.
        steps, slack, resolution: as for `StepDriver.start`.
        workers, groups, every: as for `StepDriver`; None for as many as there are slots.
    """

    def __init__(
        self,
        state: WorldState,
        steps: int,
        slack: int,
        resolution: int,
        workers: int | None,
        groups: int | None,
        every: int | None,
    ) -> None:
        self._state = state
        self._run = steps, slack, resolution
        self._workers, self._groups, self._every = workers, groups, every
        self._records: list[Step] = []

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        """Begin with the first step."""
        slots = sum(slave["slots"] for slave in master.status()["slaves"])
        workers = max(1, min(slots, self._workers or slots))
        # An id of its own: when a system begins anew, its orders have the numbers that others have had before.
        world = os.urandom(8)
        self._driver = StepDriver(world, self._state, workers, self._groups or workers, self._every, time.perf_counter)
        self._first = self._state.step
        self._reported_s = time.monotonic()
        return _tasks(self._driver.start(*self._run, collects_last=True))

    def task_finished(
        self, master: MasterHandle, task: Any, result: Any, error: BaseException | None
    ) -> Iterable[Task] | None:
        """Take what a worker has done; continue with the next step when all have."""
        task.table = None
        if error is None:
            orders = self._driver.answered(task.batch, result._replace(slave=task.slave_id))
        else:
            orders = self._driver.failed(task.batch, error)
        self._records += self._driver.records
        self._driver.records.clear()
        del self._records[:-RECORDS_MAX]
        self._report()
        return _tasks(orders)

    def _report(self) -> None:
        now_s = time.monotonic()
        if self._records and now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            step, steps = self._records[-1].number, self._run[0]
            notes.report(min(1.0, max(0.0, (step - self._first) / steps)), f"{REPORTED_STEP}{step}")

    def is_complete(self, master: MasterHandle) -> bool:
        """Return whether all steps are made, or an error has ended them."""
        return self._driver.is_over

    def gather_result(self, master: MasterHandle) -> WorldEnd:
        """Return the state of the world."""
        error = self._driver.error
        return WorldEnd(self._state, self._records, error, None if error is None else error.__cause__)


def _tasks(orders: list[StepOrders]) -> list[Task]:
    return [OrderTask(each.batch, number, each.table) for each in orders for number in range(each.tasks)]
