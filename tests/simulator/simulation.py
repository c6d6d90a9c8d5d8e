"""Whole clusters in virtual time, with the real cores, over a hostile network; the same seed is the same history.

    seed -> Settings, users, faults -> Agenda: MasterActor, SlaveActors, ApplicationActors -> Judge, Witness -> Report

Everything that decides is real: MasterCore, Scheduler with every strategy, Liveness, Session, codec, SlaveCore,
Ledger, the books of the workers' pool. Sockets, processes, threads and clocks are played. For tests, and by hand:

    python -m tests.simulator.simulation --seed 4711 --trace
    python -m tests.simulator.simulation --seed 1 --count 20000

It sets module constants (limits of the wire) while it runs, so one thread at a time.
"""

import argparse
import hashlib
import logging
import random
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from tests.simulator.actors import ApplicationActor, MasterActor, SlaveActor
from tests.simulator.agenda import Agenda
from tests.simulator.faults import Faults
from tests.simulator.judge import Judge, Witness
from tests.simulator.plans import Deeds, Kind, Violation
from tests.simulator.rest import leftovers, unrest
from tests.simulator.users import User, draw_functions
from tests.simulator.world import Settings, Trace, World, draw_settings

#: more events than this, and nobody is getting anywhere
EVENTS_MAX: Final = 200_000
#: when everything is well again, it takes no longer than this, besides what tasks take, until everybody rests
REST_WITHIN_S: Final = 120.0
#: when the cluster is stopped, everybody has gone within this time
STOPPED_WITHIN_S: Final = 1.0
#: a slave that was killed is missed within this time
LOST_WITHIN_S: Final = 8.0
#: whether everybody rests is looked at so often
LOOK_S: Final = 1.0
#: lines of the trace that are shown of a history that went wrong, envelopes that say nothing aside
TAIL: Final = 60
_BARE: Final = re.compile(r" (up|down) \d+\.0 ack \d+$")


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """How a history went."""

    seed: int
    violation: str  #: what went wrong, "" if nothing did
    events: int
    virtual_s: float
    tasks: int
    trace: list[str] = field(repr=False)

    @property
    def digest(self) -> str:
        """Return a digest of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Simulation:
    """One history."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        chance = random.Random(seed)
        agenda = Agenda()
        deeds = Deeds()
        self.settings: Settings = draw_settings(chance)
        judge = Judge(
            deeds,
            faults=not self.settings.steady,
            deaths_allowed=self.settings.deaths_allowed,
            is_patient=self.settings.grace_s >= LOST_WITHIN_S,
        )
        self.world = World(self.settings, chance, agenda, deeds, judge, Witness(), Trace(agenda, envelopes=trace))
        self.slaves: list[SlaveActor] = []
        self.apps: list[ApplicationActor] = []
        self._rested = False
        self._storm_s = chance.choice((0.5, 4.0, 12.0))
        self._calm_after_s = chance.choice((0.0, 0.0, 4.0, 15.0)) if self.settings.mood in ("drowsy", "stormy") else 0.0

    def run(self) -> None:
        """Let it happen. Raises Violation, or whatever a core raises that should not."""
        world, chance = self.world, self.world.chance
        world.trace("settings", str(self.settings))
        world.deeds.punctual = self.settings.mood == "calm" and not self.settings.limits
        world.slave_killed = self._slave_killed
        world.master = MasterActor(world, 1, same_port=True)
        for _ in range(chance.choices((1, 2, 5), (4, 4, 1))[0]):
            self._add_slave()
        functions = draw_functions(world)
        users, one_user = [], chance.random() < 0.3
        for number in range(chance.choices((1, 2, 3), (5, 3, 1))[0]):
            app = ApplicationActor(world, f"app{number}")
            if self.apps and one_user:
                app.key = self.apps[0].key
            self.apps.append(app)
            users.append(User(world, app, functions))
            users[-1].begin(self._storm_s)
        for _ in range(chance.choices((0, 1, 2), (6, 2, 1))[0]):
            world.agenda.at(chance.uniform(0, self._storm_s), self._add_slave)
        faults = Faults(world, self.slaves, self.apps, self._add_slave)
        if self.settings.mood == "stormy":
            faults.begin(self._storm_s)
        elif self.settings.mood == "drowsy":
            faults.begin_with_users(self._storm_s)
        world.agenda.at(self._storm_s + self._calm_after_s, lambda: self._calm_down(users, faults))
        world.agenda.run(self._over)
        if not self._rested:
            raise Violation(f"not everybody rests: {self._unrest()}")
        if kept := leftovers(world.master.core, self.slaves):
            raise Violation(f"not everything is forgotten: {kept}")
        world.master.core.scheduler.validate()
        world.judge.end()
        if chance.random() < 0.2:
            self._stop_cluster()

    # -------------------------------------------------------------------------------------------------------- the end

    def _add_slave(self) -> None:
        chance = self.world.chance
        slots = chance.randint(1, 4)
        credit = slots * chance.choice((1, 2, 8, 512))
        self.slaves.append(SlaveActor(self.world, f"slave{len(self.slaves)}", slots, credit))

    def _slave_killed(self, slave: SlaveActor) -> None:
        """Let a slave be gone that a task has killed, and another one come."""
        noticed = self.world.chance.random() < 0.7
        self.world.trace(slave.name, f"is killed by a task{'' if noticed else ' without a word'}")
        self.world.judge.killed.add(slave.name)
        slave.crash(noticed=noticed)
        self.world.agenda.after(self.world.chance.uniform(0, 1), self._add_slave)

    def _over(self) -> bool:
        if self.world.agenda.events > EVENTS_MAX:
            raise Violation(f"{EVENTS_MAX} events, and no end: {self._unrest()}")
        return self._rested

    def _calm_down(self, users: Sequence[User], faults: Faults) -> None:
        """End the storm: from now on nothing goes wrong, and users wait for what they have asked for."""
        world = self.world
        world.trace("fault", "no more: everything is well again")
        world.network.calm()
        faults.ensure_master()
        world.master.thaw()
        for node in (*self.slaves, *self.apps):
            node.thaw()
        staying = [slave for slave in self.slaves if slave.alive and not slave.leaving and not slave.crew.broken]
        for slave in staying:
            slave.resize(slave.slots, slave.credit)
        if not staying:
            self._add_slave()
        for user in users:
            if user.app.alive:
                user.app.tell(user.finish)
        self._look(world.agenda.now + REST_WITHIN_S)

    def _stop_cluster(self) -> None:
        """Stop everything, and see that everybody goes."""
        nodes, agenda = [*self.slaves, *self.apps], self.world.agenda
        give_up_s = agenda.now + STOPPED_WITHIN_S
        agenda.at(give_up_s, lambda: None)
        self.world.trace("fault", "none: the cluster is stopped")
        self.world.master.stop()
        agenda.run(lambda: agenda.now >= give_up_s or not any(node.alive for node in nodes))
        if staying := [node.name for node in nodes if node.alive]:
            raise Violation(f"the cluster has been stopped, and {staying} are still there")

    def _work_s(self) -> float:
        """Return how long everything would take if one worker did it, at most."""
        seconds = 0.0
        for task in self.world.deeds.all():
            longest_s = inf if task.plan.kind is Kind.ENDLESS else task.plan.run_s
            longest_s = min(longest_s, (task.timeout_s or 0.0) + 2.0)
            seconds += (longest_s + task.plan.stuck_s + 1.0) * (task.retries + 3)
        return seconds + LOST_WITHIN_S * len(self.world.judge.killed)

    def _look(self, until_s: float) -> None:
        agenda = self.world.agenda
        self._rested = not self._unrest()
        if not self._rested:
            if agenda.now > until_s + self._work_s():
                raise Violation(f"after {agenda.now:.0f} s not everybody rests: {self._unrest()}")
            agenda.after(LOOK_S, lambda: self._look(until_s))

    def _unrest(self) -> list[str]:
        return unrest(self.world.master.core, self.slaves, self.apps)


def simulate(seed: int, *, trace: bool = False) -> SimulationReport:
    """Run the history of a seed. With `trace` the report holds every envelope, too."""
    simulation = Simulation(seed, trace=trace)
    violation = ""
    # What nodes log of hostile peers is what is meant to happen here.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with simulation.settings.in_force():
            simulation.run()
    except Exception as error:  # noqa: BLE001  (whatever a core raises here is what we are looking for)
        violation = str(error) if isinstance(error, Violation) else traceback.format_exc()
    finally:
        logging.disable(disabled)
    world = simulation.world
    return SimulationReport(
        seed, violation, world.agenda.events, world.agenda.now, len(world.deeds.all()), world.trace.lines()
    )


def explain(seed: int) -> str:
    """Tell how the history of a seed went wrong, the last part step by step, and how to see all of it."""
    report = simulate(seed, trace=True)
    telling = [line for line in report.trace if not _BARE.search(line)]
    lines = [*telling[-TAIL:], f"seed {seed}: {report.violation or 'nothing went wrong'}"]
    return "\n".join([*lines, f"replay it: python -m tests.simulator.simulation --seed {seed} --trace"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one seed or many; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description="Simulate clusters in virtual time.")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    options = parser.parse_args(arguments)
    failed = 0
    began = time.process_time()
    for seed in range(options.seed, options.seed + options.count):
        report = simulate(seed, trace=options.trace)
        if options.trace:
            sys.stdout.write("\n".join(report.trace) + "\n")
        if options.count == 1:
            sys.stdout.write(f"{report}\n")
        if report.violation:
            failed += 1
            sys.stdout.write(explain(seed) + "\n")
    took_s = time.process_time() - began
    sys.stdout.write(
        f"{options.count} seeds, {failed} failed, {options.count / took_s:.0f} seeds/s of processor time\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
