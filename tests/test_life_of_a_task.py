"""The life of a task, from the user's call to the user's future: as one test, so it stays true.

The twelve steps are those of ARCHITECTURE.md; then a task that needs the result of another one, and a step of a world,
which is made by tasks. Client core, sessions, codec, master, scheduler and slave are the real
ones. Three stand-ins make the test readable: links in memory instead of ZeroMQ, a clock that the test moves, and a pool
that runs tasks in this process instead of in workers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from concurrent_nb.clock import ManualClock
from concurrent_nb.ids import JobId, SessionId, new_job_id
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEnded, TaskEntry
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.application.results import answer_of
from concurrent_nb.nodes.common.shared_memory_link import NullSegmentReader
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.serialization import pickles, task_inputs
from concurrent_nb.shipping.serialization.separate_pickles import SeparatePickler
from concurrent_nb.tasks.task_record import TaskState
from concurrent_nb.transport.in_memory import InMemoryServer
from concurrent_nb.wire.codec import pack_body
from concurrent_nb.wire.session import Session
from concurrent_nb.worlds.group_runner import MemberPack, WorldTerms
from concurrent_nb.worlds.living_groups import LivingGroups
from concurrent_nb.worlds.step_driver import StepDriver
from concurrent_nb.worlds.world_state import WorldState
from tests.inline_pool import InlinePool

EPOCH = 1
APPLICATION, SLAVE = SessionId(b"application id.."), SessionId(b"slave id........")
APPLICATION_KEY, SLAVE_KEY = b"the application's CURVE key", b"the slave's CURVE key"


class NeededFuture:
    """A future that is an argument of another task: what is pickled of it is a reference."""

    is_kept = False

    def __init__(self, job_id: JobId, index: int) -> None:
        self.job_id, self.index = job_id, index

    def done(self) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """It never ends here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return task_inputs.reference_to(self.job_id, self.index)


class Counter:
    """A member of a world: counts its messages, and sends one to the other member."""

    heard = 0

    def step(self, ctx: Any) -> None:
        self.heard += len(ctx.inbox)
        ctx.send(1 - ctx.id, "hello")


def test_the_life_of_a_task() -> None:
    clock = ManualClock()

    # Before the first task: a master, and two nodes that have registered over the control channel. Each sends on the
    # compute channel under the session id that the master gave it and with its own key.
    master = MasterCore(EPOCH, Scheduler(PullRoundRobinStrategy()), Liveness())
    gate = InMemoryServer()
    master.add_client(APPLICATION, APPLICATION_KEY, "notebook", clock())
    name = master.add_slave(SLAVE, SLAVE_KEY, "east", slots=2, credit=1024, now=clock())
    application_link = gate.connect(APPLICATION, APPLICATION_KEY)
    slave_link = gate.connect(SLAVE, SLAVE_KEY)
    pool = InlinePool()
    slave = SlaveCore(name, EPOCH, pool, interval_s=1.0)
    client: ClientCore[Any] = ClientCore(interval_s=1.0)
    client.attach(Session(EPOCH, "to_client"))

    def master_turn() -> None:
        """One turn of the master's poll loop: receive everything, decide, send."""
        for session, key, frames in gate.receive():
            master.received(session, key, frames, clock())
        for session, envelope in master.step(clock()):
            assert gate.send(session, envelope)

    for envelope in slave.step(clock()):
        slave_link.send(envelope)
    master_turn()
    assert [(slave["name"], slave["state"]) for slave in master.status(clock())["slaves"]] == [("east", "active")]
    slave_link.inbox.clear()

    # 1. A cell has become a function. It is pickled once, and its digest is its name in the whole cluster.
    functions = Functions()
    pickled = functions.pickle(math.factorial)
    function = FunctionPayload(pickled.digest, Payload(*pack_body(pickled.body, pickled.buffers)))

    # 2. The application makes an entry for the task: ids, digest, pickled arguments. "my future" stands for its future.
    job = ClientJob[Any](new_job_id(), "cell 1")
    arguments = Payload(*pack_body(*pickles.dumps((5,))))
    client.add([TaskEntry(job, 0, function, arguments, handle="my future")])

    # 3. Everything that is ready is sent as one envelope: a header frame, and here no frames for large buffers.
    (envelope,) = client.step(clock())
    assert len(envelope) == 1
    application_link.send(envelope)

    # 4. The master decodes headers only and hands events to the scheduler. Arguments stay opaque bytes.
    # 5. The scheduler asks its strategy: slave "east" has room.
    master_turn()
    task = master.scheduler.jobs[job.id].tasks[0]

    def state() -> TaskState:
        return task.state

    assert (task.state, task.attempt, task.slave) == (TaskState.ASSIGNED, 1, SLAVE)
    assert task.body == arguments.body

    # 6. One envelope takes the task to the slave, with the function, which the slave does not have yet.
    (frames,) = slave_link.receive()
    assert pickled.digest not in pool.functions
    slave.received(frames, clock())
    assert pickled.digest in pool.functions

    # 7. The slave hands the task to its workers.
    # 8. A worker loads function and arguments, calls the function and sends the outcome.
    # 9. The slave packs outcomes, and keeps them until the master has acknowledged.
    assert len(pool.waiting) == 1
    (envelope,) = slave.step(clock())
    assert len(pool.waiting) == 0
    assert slave.session.in_flight == 1
    slave_link.send(envelope)

    # 10. The master accepts the outcome of the current attempt only, and forwards it to the owner.
    master_turn()
    assert state() is TaskState.FINISHED
    (frames,) = application_link.receive()

    # 11. The application opens the result and ends the future.
    (event,) = client.received(frames, clock())
    assert isinstance(event, TaskEnded)
    assert (event.entry.handle, event.slave, event.frame.status) == ("my future", "east", Status.OK)
    assert answer_of(event, NullSegmentReader().read) == (120, None)
    assert not client.has_entries()

    # 10 again: the master forgets the task when the owner has acknowledged, the slave when the master has.
    clock.advance(0.02)
    for envelope in client.step(clock()):
        application_link.send(envelope)
    master_turn()
    assert state() is TaskState.FORGOTTEN
    assert master.status(clock())["tasks"] == {"jobs": 1, "waiting": 0, "blocked": 0, "assigned": 0, "kept": 0}
    for frames in slave_link.receive():
        slave.received(frames, clock())
    assert slave.session.in_flight == 0

    # 12. What if the slave dies? A second task is assigned, and then the slave is silent.
    client.add([TaskEntry(job, 1, function, arguments, handle="my second future")])
    for envelope in client.step(clock()):
        application_link.send(envelope)
    master_turn()
    assert master.scheduler.jobs[job.id].tasks[1].slave == SLAVE
    for _ in range(6):
        clock.advance(1.0)
        for envelope in client.step(clock()):
            application_link.send(envelope)
        master_turn()
    assert master.scheduler.jobs[job.id].tasks[1].state == TaskState.WAITING
    assert master.status(clock())["slaves"] == []
    # It waits for the next slave, which gets it as attempt 2; an outcome of attempt 1 would be dropped.
    second = SessionId(b"second slave id.")
    west = SlaveCore(master.add_slave(second, b"key 2", "west", 1, 8, clock()), EPOCH, InlinePool(), 1.0)
    west_link = gate.connect(second, b"key 2")
    for _ in range(3):
        for envelope in west.step(clock()):
            west_link.send(envelope)
        master_turn()
        for frames in west_link.receive():
            west.received(frames, clock())
    answers = [n for frames in application_link.receive() for n in client.received(frames, clock())]
    assert [(n.entry.handle, n.slave, n.frame.attempt) for n in answers if isinstance(n, TaskEnded)] == [
        ("my second future", "west", 2)
    ]

    # 13. A task may need the result of another one. It waits in the cluster, here with its input at the slave, and gets
    # the value there: (3!)! is computed, and the application has sent neither 3! nor waited for it.
    three = Payload(*pack_body(*pickles.dumps((3,))))
    needed = NeededFuture(job.id, 2)
    job.is_linked = True  # set by the submit of a call with a future
    reference = Payload(*pack_body(*pickles.dumps((needed,))), inputs=(needed,))
    client.add(
        [TaskEntry(job, 2, function, three, handle=needed), TaskEntry(job, 3, function, reference, "the future")]
    )
    for envelope in client.step(clock()):
        application_link.send(envelope)
    master_turn()
    assert master.scheduler.jobs[job.id].tasks[3].state is TaskState.AHEAD
    for frames in west_link.receive():
        west.received(frames, clock())
    for _ in range(2):
        for envelope in west.step(clock()):
            west_link.send(envelope)
        master_turn()
    answers = [n for frames in application_link.receive() for n in client.received(frames, clock())]
    assert [answer_of(n, NullSegmentReader().read) for n in answers if isinstance(n, TaskEnded)] == [
        (6, None),
        (720, None),
    ]


def test_a_step_of_a_world() -> None:
    # 14. A world makes its steps by tasks. Its driver, in the user's process or in a system host, sends one for each
    # worker; a worker advances the groups of members that live there, and may adopt those that live nowhere yet.
    clock = ManualClock()
    pickler = SeparatePickler()
    bodies = [pickler.dumps(Counter()), pickler.dumps(Counter())]
    members = MemberPack(np.arange(2), bodies, pickler.table, np.zeros(2))
    state = WorldState(WorldTerms(1, "stop", 100, None), members, {}, {}, 2)
    driver = StepDriver(b"a world", state, 2, 2, None, clock)
    workers = [LivingGroups("worker 1", "east 1", clock), LivingGroups("worker 2", "east 2", clock)]
    orders = driver.start(2)
    while orders:
        [order] = orders
        answers = [worker.carry_out(number, order.table) for number, worker in enumerate(workers)]
        # What members have sent and written is taken over when all groups have answered: then the next step begins.
        [first, orders] = [driver.answered(order.batch, answer) for answer in answers]
        assert first == []
    assert [step.number for step in driver.records] == [1, 2]
    assert [step.messages for step in driver.records] == [2, 2]
    assert driver.owners == {0: "worker 1", 1: "worker 2"}
