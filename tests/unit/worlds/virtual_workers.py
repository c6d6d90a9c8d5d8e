"""Workers of a world without processes: they take orders in a random order, lose groups, and die."""

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from concurrent_nb.clock import ManualClock
from concurrent_nb.errors import PoisonTask
from concurrent_nb.shipping.serialization.separate_pickles import SeparatePickler, loads_all
from concurrent_nb.worlds.group_runner import Adoption, GroupRunner, MemberPack, WorldTerms
from concurrent_nb.worlds.living_groups import LivingGroups
from concurrent_nb.worlds.step_driver import StepDriver, StepOrders, WorkerAnswer, words_about
from concurrent_nb.worlds.world_state import WorldState

TERMS = WorldTerms(1, "stop", 100_000, None)


def packed(members: list[Any]) -> MemberPack:
    pickler = SeparatePickler()
    bodies = [pickler.dumps(member) for member in members]
    return MemberPack(np.arange(len(members)), bodies, pickler.table, np.zeros(len(members)))


class Killed(BaseException):
    """Raised by a member that kills its worker."""


class VirtualWorkers:
    """Carries out the orders of a driver.

    Args:
        seed: of chance.
        loss: probability that a worker dies instead of taking an order.
    """

    def __init__(self, count: int, seed: int = 0, loss: float = 0.0) -> None:
        self._random = random.Random(seed)
        self._loss = loss
        self._made = 0
        self.clock = ManualClock()
        self._workers = [self._new() for _ in range(count)]
        self.deaths = 0
        self._reported = ""  # what has been reported last
        self._deaths_of: Counter[tuple[int, int]] = Counter()  # by order
        self.answers: list[WorkerAnswer] = []

    def _new(self) -> LivingGroups:
        self._made += 1
        return LivingGroups(f"worker {self._made}", f"host {self._made}", self.clock, self._report_call)

    def _report_call(self, step: int, member: int) -> None:
        self._reported = words_about(step, member)

    def run(self, driver: StepDriver, orders: list[StepOrders], answers: int = 10**9) -> None:
        """Run until the driver has nothing left to order, or until there were so many answers."""
        queue = list(_tasks(orders))
        turns = 0
        last = len(self.answers) + answers
        while queue and len(self.answers) < last:
            turns += 1
            assert turns < 100_000, "the driver orders without end"
            batch, number, table = queue.pop(self._random.randrange(len(queue)))
            at = self._random.randrange(len(self._workers))
            self.clock.advance(self._random.random())
            if self._random.random() < self._loss:
                self.deaths += 1
                self._workers[at] = self._new()  # the order runs again, elsewhere
                queue.append((batch, number, table))
                continue
            try:
                answer = self._workers[at].carry_out(number, pickle.loads(table))
            except Killed:
                self.deaths += 1
                self._workers[at] = self._new()
                self._deaths_of[batch, number] += 1
                if self._deaths_of[batch, number] < 3:
                    queue.append((batch, number, table))
                    continue
                error = PoisonTask("3 times a worker died")
                error.reported, self._reported = self._reported, ""
                queue += _tasks(driver.failed(batch, error))
                continue
            self.answers.append(answer)
            more = driver.answered(batch, answer)
            queue += _tasks(more)


def _tasks(orders: list[StepOrders]) -> Iterator[tuple[int, int, bytes]]:
    for each in orders:
        table = pickle.dumps(each.table, 5)
        for number in range(each.tasks):
            yield each.batch, number, table


def members_of(state: WorldState) -> dict[int, Any]:
    """Return the members of a world by id."""
    found: dict[int, Any] = {}
    for number in range(len(state.groups)):
        adoption: Adoption = state.adoption(number)
        runner = GroupRunner(state.terms, adoption, lambda: 0.0)
        runner.repeat(adoption.log)
        pack = runner.members()
        found.update(zip(pack.ids.tolist(), loads_all(pack.bodies, pack.table), strict=True))
    return found
