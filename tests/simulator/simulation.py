"""Simulate clusters in virtual time, with the real cores, over a hostile network. A seed always gives one history.

    seed -> Settings, users, faults -> VirtualClock: MasterActor, SlaveActors, ApplicationActors -> checkers -> report

Everything that decides is real: the cores and loops of master, slave and application, Scheduler with every strategy,
Liveness, Session, codec, PoolScheduler. Sockets, processes, threads and clocks are simulated. For tests, and by hand:

    python -m tests.simulator.simulation --seed 4711 --trace
    python -m tests.simulator.simulation --seed 1 --count 20000

It sets module constants (limits of the wire) while it runs, so only one thread may run it.
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
from tests.simulator.checkers import OutcomeChecker, SessionChecker
from tests.simulator.faults import Faults
from tests.simulator.idle import busy_reasons, leftovers
from tests.simulator.plans import Kind, TaskCatalog, Violation
from tests.simulator.simulated_world import Settings, SimulatedWorld, Trace, draw_settings
from tests.simulator.users import User, draw_functions
from tests.simulator.virtual_clock import VirtualClock

#: a history with more events than this makes no progress
EVENTS_MAX: Final = 200_000
#: when the faults have ended, the cluster is idle within this time, plus the run time of the tasks
IDLE_WITHIN_S: Final = 120.0
#: when the cluster is stopped, all nodes end within this time
STOPPED_WITHIN_S: Final = 1.0
#: the master notices within this time that a slave was killed
LOST_WITHIN_S: Final = 8.0
#: seconds between two checks whether the cluster is idle
IDLE_CHECK_S: Final = 1.0
#: lines of the trace that are shown of a history with a violation, without empty envelopes
TAIL: Final = 60
_EMPTY: Final = re.compile(r" (up|down) \d+\.0 ack \d+$")


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """The result of a history."""

    seed: int
    violation: str  #: the first violation, "" if there was none
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
        clock = VirtualClock()
        catalog = TaskCatalog()
        self.settings: Settings = draw_settings(chance)
        checker = OutcomeChecker(
            catalog,
            faults=not self.settings.steady,
            deaths_allowed=self.settings.deaths_allowed,
            is_patient=self.settings.grace_s >= LOST_WITHIN_S,
        )
        self.world = SimulatedWorld(
            self.settings, chance, clock, catalog, checker, SessionChecker(), Trace(clock, envelopes=trace)
        )
        self.slaves: list[SlaveActor] = []
        self.apps: list[ApplicationActor] = []
        self._is_idle = False
        self._faults_s = chance.choice((0.5, 4.0, 12.0))
        self._quiet_s = 0.0
        if self.settings.scenario in ("frozen applications", "all faults"):
            self._quiet_s = chance.choice((0.0, 0.0, 4.0, 15.0))

    def run(self) -> None:
        """Run the history. Raises Violation, or the exception of a core."""
        world, chance = self.world, self.world.chance
        world.trace("settings", str(self.settings))
        world.catalog.punctual = self.settings.scenario == "no faults" and not self.settings.limits
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
            users[-1].begin(self._faults_s)
        for _ in range(chance.choices((0, 1, 2), (6, 2, 1))[0]):
            world.clock.at(chance.uniform(0, self._faults_s), self._add_slave)
        faults = Faults(world, self.slaves, self.apps, self._add_slave)
        if self.settings.scenario == "all faults":
            faults.begin(self._faults_s)
        elif self.settings.scenario == "frozen applications":
            faults.begin_with_users(self._faults_s)
        world.clock.at(self._faults_s + self._quiet_s, lambda: self._end_faults(users, faults))
        world.clock.run(self._over)
        if not self._is_idle:
            raise Violation(f"the cluster is not idle: {self._busy_reasons()}")
        if kept := leftovers(world.master.core, self.slaves):
            raise Violation(f"not everything was dropped: {kept}")
        world.master.core.scheduler.validate()
        world.checker.end()
        if chance.random() < 0.2:
            self._stop_cluster()

    # -------------------------------------------------------------------------------------------------------- the end

    def _add_slave(self) -> None:
        chance = self.world.chance
        slots = chance.randint(1, 4)
        credit = slots * chance.choice((1, 2, 8, 512))
        self.slaves.append(SlaveActor(self.world, f"slave{len(self.slaves)}", slots, credit))

    def _slave_killed(self, slave: SlaveActor) -> None:
        """End a slave that a task has killed, and start another one."""
        noticed = self.world.chance.random() < 0.7
        self.world.trace(slave.name, f"is killed by a task{'' if noticed else ' unnoticed'}")
        self.world.checker.killed.add(slave.name)
        slave.crash(noticed=noticed)
        self.world.clock.after(self.world.chance.uniform(0, 1), self._add_slave)

    def _over(self) -> bool:
        if self.world.clock.events > EVENTS_MAX:
            raise Violation(f"{EVENTS_MAX} events, and the cluster is not idle: {self._busy_reasons()}")
        return self._is_idle

    def _end_faults(self, users: Sequence[User], faults: Faults) -> None:
        """End the faults: from now on nothing fails, and users wait for their tasks."""
        world = self.world
        world.trace("fault", "all faults have ended")
        world.network.heal()
        faults.ensure_master()
        world.master.thaw()
        for node in (*self.slaves, *self.apps):
            node.thaw()
        staying = [slave for slave in self.slaves if slave.alive and not slave.leaving and not slave.pool.broken]
        for slave in staying:
            slave.resize(slave.slots, slave.credit)
        if not staying:
            self._add_slave()
        for user in users:
            if user.app.alive:
                user.app.post(user.finish)
        self._check_idle(world.clock.now + IDLE_WITHIN_S)

    def _stop_cluster(self) -> None:
        """Stop the cluster, and check that all nodes end."""
        nodes, clock = [*self.slaves, *self.apps], self.world.clock
        give_up_s = clock.now + STOPPED_WITHIN_S
        clock.at(give_up_s, lambda: None)
        self.world.trace("fault", "none: the cluster is stopped")
        self.world.master.stop()
        clock.run(lambda: clock.now >= give_up_s or not any(node.alive for node in nodes))
        if staying := [node.name for node in nodes if node.alive]:
            raise Violation(f"the cluster has been stopped, and {staying} have not ended")

    def _work_s(self) -> float:
        """Return how long all tasks take on one worker, at most."""
        seconds = 0.0
        for task in self.world.catalog.all():
            longest_s = inf if task.plan.kind is Kind.ENDLESS else task.plan.run_s
            longest_s = min(longest_s, (task.timeout_s or 0.0) + 2.0)
            seconds += (longest_s + task.plan.stuck_s + 1.0) * (task.retries + 3)
        return seconds + LOST_WITHIN_S * len(self.world.checker.killed)

    def _check_idle(self, until_s: float) -> None:
        clock = self.world.clock
        self._is_idle = not self._busy_reasons()
        if not self._is_idle:
            if clock.now > until_s + self._work_s():
                raise Violation(f"after {clock.now:.0f} s the cluster is not idle: {self._busy_reasons()}")
            clock.after(IDLE_CHECK_S, lambda: self._check_idle(until_s))

    def _busy_reasons(self) -> list[str]:
        return busy_reasons(self.world.master.core, self.slaves, self.apps)


def simulate(seed: int, *, trace: bool = False) -> SimulationReport:
    """Run the history of a seed. With `trace` the report contains every envelope, too."""
    simulation = Simulation(seed, trace=trace)
    violation = ""
    # Warnings about hostile peers are expected here.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with simulation.settings.in_force():
            simulation.run()
    except Exception as error:  # noqa: BLE001  (an exception of a core is a finding)
        violation = str(error) if isinstance(error, Violation) else traceback.format_exc()
    finally:
        logging.disable(disabled)
    world = simulation.world
    return SimulationReport(
        seed, violation, world.clock.events, world.clock.now, len(world.catalog.all()), world.trace.lines()
    )


def explain(seed: int) -> str:
    """Return the violation in the history of a seed, the end of its trace, and the command that shows all of it."""
    report = simulate(seed, trace=True)
    shown = [line for line in report.trace if not _EMPTY.search(line)]
    lines = [*shown[-TAIL:], f"seed {seed}: {report.violation or 'no violation'}"]
    return "\n".join([*lines, f"replay it: python -m tests.simulator.simulation --seed {seed} --trace"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one seed or many; return 1 if there was a violation."""
    parser = argparse.ArgumentParser(description="Simulate clusters in virtual time.")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="number of seeds")
    parser.add_argument("--trace", action="store_true", help="print the whole trace")
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
