"""Random histories: owners, slaves and losses in any order, and the promises of the scheduler checked at each step.

The world around the scheduler is played here. Slaves hold attempts, start some, answer late or never; what they send is
in flight until it is received, even when the slave is lost meanwhile. Owners leave, come back, submit twice, cancel.
"""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S
from concurrent_nb.scheduling.refusal import EventRefused
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import TaskState
from concurrent_nb.wire.messages import Needs, OutcomeFrame, StartedTask, TaskFrame, TaskRef

Attempt = tuple[JobId, int, int]
SYSTEM_HOST = Needs(kind="system_host")

ANSWERS = [Status.OK, Status.OK, Status.HIT, Status.ERROR, Status.TIMEOUT, Status.DIED, Status.NOT_PICKLABLE]
LINGER_S = 30.0
OBJECTS = [b"small", b"large", b"huge"]
SIZES_BYTES = {b"small": 1000, b"large": 50_000_000, b"huge": 5_000_000_000}


@dataclass
class PlayedSlave:
    """A slave: the attempts that it holds, which of them run, and what it has sent and the master has not received."""

    id: SessionId
    slots: int
    credit: int
    held: list[Attempt] = field(default_factory=list)
    running: set[Attempt] = field(default_factory=set)
    on_top: set[Attempt] = field(default_factory=set)  #: those that do not count as credit, and older ones
    saying: deque[e.Event] = field(default_factory=deque)
    lost: bool = False

    def end(self, attempt: Attempt, status: Status) -> None:
        job, index, number = attempt
        self.held.remove(attempt)
        self.running.discard(attempt)
        items = [OutcomeFrame(index, number, int(status), 0.001, 1, b"")]
        self.saying.append(e.OutcomesReceived(self.id, job, items, ()))

    def give_back(self, attempt: Attempt) -> None:
        self.held.remove(attempt)
        self.saying.append(e.TasksReturned(self.id, [TaskRef(*attempt)]))


@dataclass
class PlayedJob:
    """What an owner knows of a job."""

    id: JobId
    owner: str
    submitted: set[int] = field(default_factory=set)
    answers: dict[int, OutcomeFrame] = field(default_factory=dict)  #: by index, the first one
    acknowledged: set[int] = field(default_factory=set)
    closed: bool = False


def attempts_answered(event: e.Event) -> list[Attempt]:
    """Which attempts a slave's message brings to their end."""
    if isinstance(event, e.OutcomesReceived):
        return [(event.job, item.index, item.attempt) for item in event.items]
    if isinstance(event, e.TasksReturned):
        return [(JobId(ref.job), ref.index, ref.attempt) for ref in event.tasks]
    return []


class World(RuleBasedStateMachine):
    """Owners and slaves around a scheduler."""

    strategy: type[Strategy]

    @initialize(deaths_allowed=st.integers(1, 3))
    def begin(self, deaths_allowed: int) -> None:
        self.scheduler = Scheduler(self.strategy(), deaths_allowed=deaths_allowed, grace_s=10.0)
        self.now = 0.0
        self.serial = 0
        self.slaves: dict[SessionId, PlayedSlave] = {}
        self.jobs: dict[JobId, PlayedJob] = {}
        self.sessions: dict[str, SessionId | None] = {"me": None, "you": None}
        self.over: list[tuple[SessionId, Attempt]] = []  # attempts for which a slave has answered, received
        self.expecting_again: set[tuple[JobId, int]] = set()  # outcomes that may be delivered again

    # --------------------------------------------------------------------------------------- obeying the scheduler

    def handle(self, *events: e.Event) -> None:
        self.obey(self.scheduler.handle(*events, now=self.now))

    def obey(self, instructions: list[i.Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, i.AssignTasks):
                self.take(instruction)
            elif isinstance(instruction, i.WithdrawTasks):
                self.withdraw(instruction)
            elif isinstance(instruction, i.DeliverOutcomes):
                self.receive(instruction)
            elif isinstance(instruction, i.ForgetJob):
                self.forget(self.jobs.pop(instruction.job))
            else:
                assert isinstance(instruction, i.AnnounceStarted)
                assert instruction.client in self.sessions.values()

    def take(self, assign: i.AssignTasks) -> None:
        slave = self.slaves[assign.slave]
        assert not slave.lost
        for task in assign.tasks:
            attempt = (assign.job, task.index, task.attempt)
            assert not any(attempt in other.held for other in self.slaves.values()), "an attempt was made twice"
            slave.held.append(attempt)
            if assign.needs is not None:
                slave.on_top.add(attempt)
        if assign.needs is None:  # others are not counted for a slave that has shrunk meanwhile
            on_top = [attempt for attempt in slave.held if attempt in slave.on_top]
            assert len(slave.held) - len(on_top) <= slave.credit, "a slave has more than it accepts"

    def withdraw(self, withdraw: i.WithdrawTasks) -> None:
        slave = self.slaves[withdraw.slave]
        for ref in withdraw.tasks:
            attempt = (JobId(ref.job), ref.index, ref.attempt)
            if attempt in slave.running:
                if withdraw.stop:
                    slave.end(attempt, Status.CANCELLED)
            elif attempt in slave.held:
                slave.give_back(attempt)

    def receive(self, deliver: i.DeliverOutcomes) -> None:
        job = self.jobs[deliver.job]
        assert deliver.client == self.sessions[job.owner] is not None, "a stranger got an outcome"
        for item in deliver.items:
            assert item.index in job.submitted
            assert item.index not in job.acknowledged, "an acknowledged outcome came again"
            if item.index in job.answers:
                assert (job.id, item.index) in self.expecting_again, "an outcome came twice"
                assert job.answers[item.index] is item, "an outcome has changed"
                self.expecting_again.discard((job.id, item.index))
            job.answers[item.index] = item

    def forget(self, job: PlayedJob) -> None:
        done = job.closed and job.acknowledged == job.submitted
        assert done or self.sessions[job.owner] is None, "a job was forgotten for which an owner waits"

    # --------------------------------------------------------------------------------------- slaves

    def new_id(self, prefix: str) -> bytes:
        self.serial += 1
        return f"{prefix}{self.serial}".encode()

    def pick_slave(self, data: st.DataObject) -> PlayedSlave:
        return data.draw(st.sampled_from([slave for slave in self.slaves.values() if not slave.lost]))

    def has_slave(self) -> bool:
        return any(not slave.lost for slave in self.slaves.values())

    @precondition(lambda self: sum(not slave.lost for slave in self.slaves.values()) < 4)
    @rule(slots=st.integers(1, 3), more=st.integers(0, 8), shares_memory=st.booleans())
    def slave_joins(self, slots: int, more: int, shares_memory: bool) -> None:
        slave = PlayedSlave(SessionId(self.new_id("s")), slots, slots + more)
        self.slaves[slave.id] = slave
        self.handle(e.SlaveJoined(slave.id, slave.id.decode(), slots, slots + more, shares_memory))

    @precondition(has_slave)
    @rule(data=st.data())
    def slave_is_lost(self, data: st.DataObject) -> None:
        slave = self.pick_slave(data)
        slave.lost = True
        slave.held.clear()
        slave.running.clear()
        self.handle(e.SlaveLost(slave.id))

    @precondition(has_slave)
    @rule(data=st.data(), kind=st.sampled_from([e.SlaveSuspected, e.SlaveTrusted]))
    def slave_is_judged(self, data: st.DataObject, kind: type[e.SlaveSuspected] | type[e.SlaveTrusted]) -> None:
        self.handle(kind(self.pick_slave(data).id))

    @precondition(has_slave)
    @rule(
        data=st.data(),
        kind=st.sampled_from([e.ObjectsHeld, e.ObjectsDropped]),
        objects=st.sets(st.sampled_from(OBJECTS)),
    )
    def slave_says_what_it_holds(
        self, data: st.DataObject, kind: type[e.ObjectsHeld] | type[e.ObjectsDropped], objects: set[bytes]
    ) -> None:
        self.handle(kind(self.pick_slave(data).id, sorted(objects)))

    @precondition(has_slave)
    @rule(data=st.data(), slots=st.integers(0, 3), more=st.integers(0, 8))
    def slave_grows_or_shrinks(self, data: st.DataObject, slots: int, more: int) -> None:
        slave = self.pick_slave(data)
        # The word is received at once: while it travels, a slave may get more than it now wants.
        slave.slots, slave.credit = slots, slots + more
        self.handle(e.SlaveResized(slave.id, slots, slots + more))

    @precondition(has_slave)
    @rule(data=st.data())
    def slave_starts_tasks(self, data: st.DataObject) -> None:
        slave = self.pick_slave(data)
        fresh = [attempt for attempt in slave.held if attempt not in slave.running][: slave.slots - len(slave.running)]
        slave.running.update(fresh)
        if fresh:
            slave.saying.append(e.TasksStarted(slave.id, [StartedTask(*attempt, 42) for attempt in fresh]))

    @precondition(has_slave)
    @rule(data=st.data(), status=st.sampled_from(ANSWERS))
    def slave_ends_a_task(self, data: st.DataObject, status: Status) -> None:
        slave = self.pick_slave(data)
        if slave.held:
            slave.end(data.draw(st.sampled_from(slave.held)), status)

    @precondition(has_slave)
    @rule(data=st.data())
    def slave_gives_back(self, data: st.DataObject) -> None:
        slave = self.pick_slave(data)
        fresh = [attempt for attempt in slave.held if attempt not in slave.running]
        if fresh:
            slave.give_back(fresh[-1])

    @precondition(lambda self: any(slave.saying for slave in self.slaves.values()))
    @rule(data=st.data(), most=st.integers(1, 4), again=st.booleans())
    def slaves_are_received(self, data: st.DataObject, most: int, again: bool) -> None:
        slave = data.draw(st.sampled_from([slave for slave in self.slaves.values() if slave.saying]))
        events = [slave.saying.popleft() for _ in range(min(most, len(slave.saying)))]
        self.handle(*events)
        if again:
            self.handle(*events)
        self.over += [(slave.id, attempt) for event in events for attempt in attempts_answered(event)]

    def not_theirs(self) -> list[tuple[SessionId, Attempt]]:
        """Slaves, and attempts that are over or that another slave has."""
        return self.over + [
            (slave.id, attempt)
            for slave in self.slaves.values()
            for other in self.slaves.values()
            for attempt in other.held
            if other is not slave
        ]

    @precondition(lambda self: self.not_theirs())
    @rule(data=st.data(), status=st.sampled_from(ANSWERS))
    def slave_speaks_of_what_it_does_not_have(self, data: st.DataObject, status: Status) -> None:
        slave, (job, index, number) = data.draw(st.sampled_from(self.not_theirs()))
        self.handle()
        ref = TaskRef(job, index, number)
        words: list[e.Event] = [
            e.OutcomesReceived(slave, job, [OutcomeFrame(index, number, int(status), 0.001, 1, b"")], ()),
            e.TasksStarted(slave, [StartedTask(job, index, number, 42)]),
            e.TasksReturned(slave, [ref]),
        ]
        assert self.scheduler.handle(*words, now=self.now) == [], (
            "a report of a slave on a task that it does not have counted"
        )

    # --------------------------------------------------------------------------------------- owners

    def pick_job(self, data: st.DataObject) -> tuple[PlayedJob, SessionId]:
        job = data.draw(st.sampled_from([job for job in self.jobs.values() if self.sessions[job.owner]]))
        session = self.sessions[job.owner]
        assert session is not None
        return job, session

    def has_job(self) -> bool:
        return any(self.sessions[job.owner] for job in self.jobs.values())

    def attach(self, owner: str) -> SessionId:
        """Come back in a new session, or go on in the one there is."""
        session = self.sessions[owner]
        if session is None:
            session = self.sessions[owner] = SessionId(self.new_id("c"))
            for job in [job for job in self.jobs.values() if job.owner == owner]:
                self.expecting_again.update((job.id, index) for index in job.answers)
                self.handle(e.JobOpened(session, owner, job.id))
                # Nothing finished is held back.
                assert all(
                    index in job.answers
                    for index, task in self.scheduler.jobs[job.id].tasks.items()
                    if task.state is TaskState.FINISHED
                )
                self.expecting_again.clear()
        return session

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(
        owner=st.sampled_from(["me", "you"]),
        until=st.booleans(),
        stop_on_error=st.booleans(),
        strategy=st.sampled_from(["", "", *BY_NAME]),
    )
    def owner_opens_a_job(self, owner: str, until: bool, stop_on_error: bool, strategy: str) -> None:
        session = self.attach(owner)
        job = PlayedJob(JobId(self.new_id("j").ljust(16)), owner)
        self.jobs[job.id] = job
        self.handle(e.JobOpened(session, owner, job.id, "", until, stop_on_error, strategy))

    @rule(owner=st.sampled_from(["me", "you"]))
    def owner_comes_back(self, owner: str) -> None:
        self.attach(owner)

    @rule(owner=st.sampled_from(["me", "you"]))
    def owner_leaves(self, owner: str) -> None:
        session = self.sessions[owner]
        if session is not None:
            self.sessions[owner] = None
            self.handle(e.ClientLost(session, LINGER_S))

    @precondition(has_job)
    @rule(
        data=st.data(),
        count=st.integers(1, 12),
        function=st.sampled_from([Digest(b"f"), Digest(b"g")]),
        timeout_s=st.none() | st.just(5.0),
        retries=st.integers(0, 2),
        objects=st.lists(st.sets(st.sampled_from(OBJECTS)), max_size=3),
        needs=st.sampled_from([None] * 3 + [Needs(2), Needs(0), Needs(9), SYSTEM_HOST, Needs(kind="thread")]),
    )
    def owner_submits(
        self,
        data: st.DataObject,
        count: int,
        function: Digest,
        timeout_s: float | None,
        retries: int,
        objects: list[set[bytes]],
        needs: Needs | None,
    ) -> None:
        job, session = self.pick_job(data)
        if job.closed:
            return
        first = len(job.submitted)
        indexes = range(first, first + count)
        job.submitted.update(indexes)
        frames = [TaskFrame(index, 0, b"") for index in indexes]
        sized = [tuple((each, SIZES_BYTES[each]) for each in sorted(some)) for some in objects]
        of_tasks = [sized[index % len(sized)] for index in indexes] if sized else ()
        self.handle(e.TasksSubmitted(session, job.id, function, frames, (), timeout_s, retries, of_tasks, needs))

    @precondition(has_job)
    @rule(data=st.data())
    def owner_submits_again(self, data: st.DataObject) -> None:
        job, session = self.pick_job(data)
        indexes = sorted(job.submitted - job.acknowledged)
        self.expecting_again.update((job.id, index) for index in job.answers)
        frames = [TaskFrame(index, 0, b"") for index in indexes]
        self.handle(e.TasksSubmitted(session, job.id, Digest(b"f"), frames, ()))
        self.expecting_again.clear()

    @precondition(has_job)
    @rule(data=st.data(), all_of_it=st.booleans())
    def owner_cancels(self, data: st.DataObject, all_of_it: bool) -> None:
        job, session = self.pick_job(data)
        some = [] if all_of_it else data.draw(st.lists(st.integers(0, 20), max_size=5))
        self.handle(e.CancelRequested(session, job.id, None if all_of_it else some))

    @precondition(has_job)
    @rule(data=st.data())
    def owner_acknowledges(self, data: st.DataObject) -> None:
        job, session = self.pick_job(data)
        fresh = sorted(job.answers.keys() - job.acknowledged)
        if fresh:
            some = data.draw(st.lists(st.sampled_from(fresh), min_size=1, max_size=5))
            job.acknowledged.update(some)
            self.handle(e.OutcomesAcknowledged(session, job.id, some))

    @precondition(has_job)
    @rule(data=st.data())
    def owner_closes_a_job(self, data: st.DataObject) -> None:
        job, session = self.pick_job(data)
        job.closed = True
        self.handle(e.JobClosed(session, job.id))

    @precondition(has_job)
    @rule(data=st.data())
    def a_stranger_meddles(self, data: st.DataObject) -> None:
        job, _ = self.pick_job(data)
        stranger = SessionId(b"stranger")
        for event in (
            e.JobOpened(stranger, "stranger", job.id),
            e.TasksSubmitted(stranger, job.id, Digest(b"f"), [TaskFrame(0, 0, b"")], ()),
            e.CancelRequested(stranger, job.id, None),
            e.OutcomesAcknowledged(stranger, job.id, sorted(job.submitted)),
            e.JobClosed(stranger, job.id),
        ):
            with pytest.raises(EventRefused):
                self.handle(event)
        self.handle()

    # --------------------------------------------------------------------------------------- time, and the end

    @rule(seconds=st.sampled_from([0.001, 0.15, 6.0, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.handle()

    @rule()
    def what_is_due_is_done(self) -> None:
        deadline = self.scheduler.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.handle()
            later = self.scheduler.next_deadline()
            assert later is None or later > self.now, "a deadline is never done with"

    @invariant()
    def the_books_are_sound(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.validate()

    def teardown(self) -> None:
        """Bring everything to its end: every task that was accepted and not abandoned is answered, nothing is left."""
        if not hasattr(self, "scheduler"):
            return
        for owner in self.sessions:
            self.attach(owner)
        self.slave_joins(3, 8, False) if not self.has_slave() else None
        for slave in self.slaves.values():
            if not slave.lost:
                slave.slots, slave.credit = 3, 11
                self.handle(e.SlaveTrusted(slave.id), e.SlaveResized(slave.id, 3, 11))
        self.now += TOO_LARGE_AFTER_S
        self.handle()
        while any(slave.held or slave.saying for slave in self.slaves.values()):
            for slave in self.slaves.values():
                for attempt in list(slave.held):
                    slave.end(attempt, Status.OK)
                events = list(slave.saying)
                slave.saying.clear()
                self.handle(*events)
        for job in list(self.jobs.values()):
            assert job.answers.keys() == job.submitted, "a task was never answered"
            session = self.attach(job.owner)
            job.closed, job.acknowledged = True, set(job.submitted)
            self.handle(e.OutcomesAcknowledged(session, job.id, sorted(job.submitted)), e.JobClosed(session, job.id))
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        assert self.jobs.keys() == self.scheduler.jobs.keys() == set()
        assert self.scheduler.waiting == 0
        assert self.scheduler.next_deadline() is None
        assert len(self.scheduler._state.estimates) <= 2
        assert not self.scheduler._state.recalled
        for slave in self.scheduler.slaves.values():
            assert (slave.load, slave.started, slave.in_flight_s) == (0, 0, 0.0)
            assert not slave.tasks
            assert not slave.unconfirmed
        self.scheduler.validate()


@pytest.mark.parametrize("name", BY_NAME)
def test_the_scheduler_keeps_its_promises_in_any_history(name: str) -> None:
    world = type(f"World_{name}", (World,), {"strategy": BY_NAME[name]})
    run_state_machine_as_test(world, settings=settings(max_examples=60, stateful_step_count=60))
