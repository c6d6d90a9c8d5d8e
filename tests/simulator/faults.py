"""The faults of the simulator: hosts are cut off, nodes freeze, crash, join and leave.

`Faults.begin` draws the faults and their times, and schedules them. Called by `simulation`.
"""

from collections.abc import Callable
from typing import Final

from concurrent_nb.nodes.master.core import JOIN_WITHIN_S
from concurrent_nb.tasks.task_record import TaskState
from tests.simulator.actors import ApplicationActor, MasterActor, Node, SlaveActor
from tests.simulator.network import HEARTBEAT_TIMEOUT_S, SimulatedHost
from tests.simulator.plans import Violation
from tests.simulator.simulated_world import SimulatedMaster, SimulatedWorld

#: the master removes a node whose connection has ended, and one that is silent, within so many seconds
_NOTICED_S: Final = 2.5
_LOST_S: Final = 7.5


class Faults:
    """Schedules and causes faults."""

    def __init__(
        self,
        world: SimulatedWorld,
        slaves: list[SlaveActor],
        apps: list[ApplicationActor],
        add_slave: Callable[[], None],
    ) -> None:
        self._world = world
        self._chance = world.chance
        self._slaves = slaves
        self._apps = apps
        self._add_slave = add_slave
        self._epoch = 1
        self._workers_lost = 0
        self._frozen_until_s = 0.0  # the master
        self._kinds: Final = (
            (self._partition, 5),
            (self._cut, 3),
            (self._freeze_node, 3),
            (self._crash_slave, 4),
            (self._crash_application, 0.5),
            (self._restart_master, 1.5),
            (self._freeze_master, 1),
            (self._refuse_calls, 1),
            (self._lose_worker, 2),
            (self._break_pool, 0.5),
            (self._resize, 2),
            (self._leave, 1),
            (self._restart_workers, 1),
            (self._drain, 1),
            (self._sample_stack, 1),
        )

    def begin(self, until_s: float) -> None:
        """Schedule faults up to a time."""
        chance = self._chance
        count = chance.choices((1, 3, 6, 15), (2, 4, 3, 1))[0]
        kinds, weights = zip(*self._kinds, strict=True)
        for fault in chance.choices(kinds, weights, k=count):
            self._world.clock.at(chance.uniform(0, until_s), fault)

    def begin_with_users(self, until_s: float) -> None:
        """Schedule that applications freeze, and no other fault: this may not make a task run twice."""
        for _ in range(self._chance.choice((1, 3, 6))):
            self._world.clock.at(self._chance.uniform(0, until_s), self._freeze_application)

    def _freeze_application(self) -> None:
        # One that has sent nothing yet has no task in the cluster, and registers again.
        peers = self._world.master.core.peers
        heard = [app for app in self._apps if app.alive and app.session_id in peers and peers[app.session_id].joined]
        if heard:
            self._freeze_or_stop(self._chance.choice(heard))

    def _nodes(self) -> list[Node]:
        return [node for node in (*self._slaves, *self._apps) if node.alive]

    def _alive_slave(self) -> SlaveActor | None:
        alive = [slave for slave in self._slaves if slave.alive]
        return self._chance.choice(alive) if alive else None

    def _duration_s(self) -> float:
        """Draw a duration: mostly short, sometimes so long that a node is removed."""
        return self._chance.choices((0.2, 1.0, 5.0, 8.0, 18.0), (3, 3, 5, 2, 1))[0] * self._chance.uniform(0.7, 1.3)

    def _trace_fault(self, what: str) -> None:
        self._world.trace("fault", what)

    # --------------------------------------------------------------------------------------------------------- faults

    def _partition(self) -> None:
        if not (nodes := self._nodes()):
            return
        chance = self._chance
        node, how, for_s = chance.choice(nodes), chance.choice(("lose", "stall")), self._duration_s()
        paths = chance.choice((node.host.paths, (node.host.up,), (node.host.down,)))
        self._trace_fault(f"{node.name} is cut off ({how}, {len(paths)} directions) for {for_s:.2f} s")
        for path in paths:
            path.block(how)
        if for_s > HEARTBEAT_TIMEOUT_S:
            self._world.clock.after(HEARTBEAT_TIMEOUT_S, lambda: self._give_up_connection(node))
        self._world.clock.after(for_s, lambda: self._heal(node.host))

    def _give_up_connection(self, node: Node) -> None:
        if any(path.blocked for path in node.host.paths):
            _cut(node)

    def _heal(self, host: SimulatedHost) -> None:
        for path in host.paths:
            path.open()

    def _cut(self) -> None:
        nodes = [node for node in self._nodes() if node.link is not None]
        if nodes:
            node = self._chance.choice(nodes)
            assert node.link is not None
            self._trace_fault(f"{node.name} loses its connection")
            node.link.cut()

    def _freeze_node(self) -> None:
        if nodes := self._nodes():
            self._freeze_or_stop(self._chance.choice(nodes))

    def _freeze_or_stop(self, node: Node) -> None:
        for_s = self._freeze(node)
        # A process that is stopped answers no heartbeats, and one that computes does.
        if self._chance.random() < 0.5 and for_s > HEARTBEAT_TIMEOUT_S:
            self._world.clock.after(HEARTBEAT_TIMEOUT_S, lambda: _cut(node) if node.is_frozen else None)

    def _freeze_master(self) -> None:
        thaws_s = self._world.clock.now + self._freeze(self._world.master)
        self._frozen_until_s = max(self._frozen_until_s, thaws_s)

    def _refuse_calls(self) -> None:
        """Make the control channel refuse calls, and give nodes a reason to call."""
        for_s = self._chance.uniform(0.1, 4.0)
        self._trace_fault(f"the control channel refuses calls for {for_s:.2f} s")
        self._world.network.refuses_calls_until_s = self._world.clock.now + for_s
        for _ in range(self._chance.randint(0, 2)):
            self._cut()

    def _freeze(self, actor: Node | SimulatedMaster) -> float:
        for_s = self._duration_s()
        self._trace_fault(f"{actor.name} freezes for {for_s:.2f} s")
        actor.freeze(for_s)
        return for_s

    def _crash_slave(self) -> None:
        if (slave := self._alive_slave()) is None:
            return
        noticed = self._chance.random() < 0.5
        self._trace_fault(f"{slave.name} crashes{'' if noticed else ' unnoticed'}")
        self._expect_removal(slave, noticed=noticed)
        slave.crash(noticed=noticed)
        if self._chance.random() < 0.7:
            self._world.clock.after(self._duration_s(), self._add_slave)

    def _crash_application(self) -> None:
        alive = [app for app in self._apps if app.alive]
        if alive:
            app, noticed = self._chance.choice(alive), self._chance.random() < 0.5
            self._trace_fault(f"{app.name} crashes{'' if noticed else ' unnoticed'}")
            self._expect_removal(app, noticed=noticed)
            app.crash(noticed=noticed)

    def _expect_removal(self, node: Node, *, noticed: bool) -> None:
        """Check that the master removes a crashed node in time, unless the master has a fault meanwhile."""
        master, session_id, frozen_until_s = self._world.master, node.session_id, self._frozen_until_s
        peer = None if session_id is None else master.core.peers.get(session_id)
        if peer is None or not master.alive or node.host.up.blocked or self._world.settings.conditions.late:
            return
        connected = node.link is not None and node.link.gate is not None and peer.joined
        within_s = _NOTICED_S if noticed and connected else _LOST_S if peer.joined else JOIN_WITHIN_S + 1.0
        if isinstance(node, ApplicationActor) and not noticed and peer.joined:
            within_s = HEARTBEAT_TIMEOUT_S + self._world.settings.kept_s + 1.0

        def check() -> None:
            undisturbed = master is self._world.master and master.alive and frozen_until_s == self._frozen_until_s
            if undisturbed and session_id in master.core.peers:
                raise Violation(f"the master has not removed {node.name} within {within_s} s")

        if self._world.clock.now > frozen_until_s:
            self._world.clock.after(within_s, check)

    def _restart_master(self) -> None:
        master = self._world.master
        if not master.alive:
            return
        noticed, for_s = self._chance.random() < 0.7, self._chance.choice((0.1, 1.0, 4.0, 7.0))
        self._trace_fault(f"the master crashes{'' if noticed else ' unnoticed'} for {for_s} s")
        master.crash(noticed=noticed)
        self._world.clock.after(for_s, self.ensure_master)

    def ensure_master(self) -> None:
        """Start a master if none runs."""
        if not self._world.master.alive:
            self._epoch += 1
            self._trace_fault(f"the master is back, in epoch {self._epoch}")
            same_port = self._chance.random() < 0.5
            self._world.master = MasterActor(self._world, self._epoch, same_port=same_port)

    def _lose_worker(self) -> None:
        if (slave := self._alive_slave()) is not None and self._workers_lost < 3:
            self._workers_lost += 1
            self._world.checker.losses += 1
            self._trace_fault(f"a worker of {slave.name} is killed")
            slave.pool.kill_a_worker()

    def _restart_workers(self) -> None:
        master, stop = self._world.master, self._chance.random() < 0.5
        if master.alive:
            self._trace_fault(f"all workers are restarted{', and what runs is stopped' if stop else ''}")
            workers = master.core.requests.restart_workers(stop=stop)
            self._world.checker.losses += workers if stop else 0

    def _break_pool(self) -> None:
        if (slave := self._alive_slave()) is not None:
            self._trace_fault(f"the workers of {slave.name} die, and all that come after them")
            self._world.checker.losses += slave.pool.break_down()

    def _resize(self) -> None:
        if (slave := self._alive_slave()) is not None:
            slots = self._chance.randint(0, slave.slots)
            credit = self._chance.randint(slots, slave.credit)
            self._trace_fault(f"{slave.name} offers {slots} slots, credit {credit}")
            slave.resize(slots, credit)

    def _leave(self) -> None:
        if (slave := self._alive_slave()) is not None:
            self._trace_fault(f"{slave.name} leaves")
            slave.leave()

    def _drain(self) -> None:
        master = self._world.master
        if master.alive and (
            peers := [peer for peer in master.core.peers.values() if peer.role == "slave" and peer.joined]
        ):
            name = self._chance.choice(peers).name
            self._trace_fault(f"{name} is asked to leave when its tasks have ended")
            master.core.requests.drain_slave(name, self._world.clock.now)
            self._world.clock.after(1.0, self._add_slave)

    def _sample_stack(self) -> None:
        master = self._world.master
        jobs = master.core.scheduler.jobs.values() if master.alive else ()
        if tasks := [task for job in jobs for task in job.tasks.values() if task.state == TaskState.ASSIGNED]:
            task = self._chance.choice(tasks)
            self._trace_fault(f"somebody asks what task {task.name} is doing")
            master.core.requests.sample_stack(task.job.id, task.index, None, self._world.clock.now)


def _cut(node: Node) -> None:
    if node.link is not None:
        node.link.cut()
