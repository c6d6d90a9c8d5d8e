"""The pool scheduler under any order of events: every attempt that is assigned is reported exactly once."""

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from concurrent_nb.outcome import Status
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.messages import HOSTS_MAX, Needs, TaskRef
from concurrent_nb.workers.slave_side.pool_scheduler.attempt_queue import PACK_MAX
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState
from tests.unit.workers.slave_side.model import JOB, F, G, Model, Worker

SYSTEM_HOST = Needs(kind="system_host")

SOME = st.integers(0, 2**31)


class PoolSchedulerMachine(RuleBasedStateMachine):
    """Workers start, finish, answer, hang and die as they like, while tasks come and are withdrawn."""

    slots = 3
    limit = 10**9
    tasks_max = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(PoolScheduler(self.slots, limit=RestartLimit(deaths=self.limit), tasks_max=self.tasks_max))
        self.assigned: set[TaskRef] = set()
        self.reported: list[TaskRef] = []
        self.stopped: set[TaskRef] = set()
        self.timed: set[TaskRef] = set()
        self.ran: set[TaskRef] = set()

    def pick(self, which: int, fits: Callable[[Worker], bool]) -> int | None:
        found = [number for number, worker in self.model.workers.items() if fits(worker)]
        return found[which % len(found)] if found else None

    # -------------------------------------------------------------------------------------------------- the slave

    @rule(
        count=st.integers(1, 100),
        slow=st.booleans(),
        timeout_s=st.sampled_from([None, 0.03, 5.0]),
        needs=st.sampled_from([None, None, Needs(2), Needs(3), Needs(0), SYSTEM_HOST, Needs(kind="thread")]),
    )
    def assign(self, count: int, slow: bool, timeout_s: float | None, needs: Needs | None) -> None:
        count = count if needs is None else 1 + count % 4
        first = len(self.assigned)
        indexes = range(first, first + count)
        refs = {TaskRef(JOB, index, 1) for index in indexes}
        self.assigned |= refs
        if timeout_s:
            self.timed |= refs
        self.model.assign(indexes, G if slow else F, timeout_s, needs=needs)

    @rule(which=SOME, count=st.integers(1, 100), slow=st.booleans())
    def follow(self, which: int, count: int, slow: bool) -> None:
        table = self.model.scheduler._workers
        number = self.pick(which, lambda worker: bool(table.by_number[worker.number].held))
        if number is not None:
            first = len(self.assigned)
            given = self.model.follow(range(first, first + count), table.by_number[number].last, G if slow else F)
            self.assigned |= {TaskRef(JOB, index, 1) for index in range(first, first + given)}

    @rule(first=SOME, count=st.integers(1, 50), stop=st.booleans())
    def withdraw(self, first: int, count: int, stop: bool) -> None:
        first %= len(self.assigned) + 1
        indexes = range(first, first + count)
        if stop:
            self.stopped |= {TaskRef(JOB, index, 1) for index in indexes}
        self.model.withdraw(indexes, stop)

    @rule(seconds=st.sampled_from([0.0001, 0.005, 0.025, 0.5, 2.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.model.pass_time(seconds)

    # ------------------------------------------------------------------------------------------------ the workers

    @rule(which=SOME)
    def ready(self, which: int) -> None:
        number = self.pick(which, lambda worker: not worker.ready)
        if number is not None:
            self.model.ready(number)

    @rule(which=SOME)
    def begin(self, which: int) -> None:
        number = self.pick(which, lambda worker: bool(worker.unstarted) and not worker.running)
        if number is not None:
            self.model.skip_followers(number)
            if not self.model.workers[number].unstarted:
                return
            attempt = self.model.begin(number)
            assert attempt.ref not in self.reported
            self.ran.add(attempt.ref)

    @rule(which=SOME, elapsed_s=st.sampled_from([1e-6, 1e-4, 0.003, 0.02, 1.0]), fails=st.booleans())
    def end(self, which: int, elapsed_s: float, fails: bool) -> None:
        number = self.pick(which, lambda worker: bool(worker.running))
        if number is not None:
            worker = self.model.workers[number]
            assert worker.running
            status = Status.ERROR if fails else Status.OK
            if worker.running.ticket in worker.interrupted:
                status = Status.CANCELLED
            self.model.end(number, status, elapsed_s)

    @rule(which=SOME)
    def flush(self, which: int) -> None:
        number = self.pick(which, lambda worker: bool(worker.unsent))
        if number is not None:
            self.model.flush(number)

    @rule(which=SOME)
    def run_all(self, which: int) -> None:
        number = self.pick(which, lambda worker: bool(worker.unstarted) and not worker.running)
        if number is not None:
            self.model.skip_followers(number)
            while self.model.workers[number].unstarted:
                self.begin_end(number)
                self.model.skip_followers(number)
            self.model.flush(number)

    def begin_end(self, number: int) -> None:
        self.ran.add(self.model.begin(number).ref)
        self.model.end(number, Status.OK, 1e-5)

    @rule(which=SOME, killed=st.booleans())
    def die(self, which: int, killed: bool) -> None:
        number = self.pick(which, lambda worker: worker.killed or not killed)
        if number is not None:
            self.model.die(number)

    @rule(which=SOME)
    def thread_is_refused(self, which: int) -> None:
        number = self.pick(which, lambda worker: bool(worker.process) and not worker.ready)
        if number is not None:
            del self.model.workers[number]
            self.model.execute(self.model.scheduler.thread_refused(number, "could not be started", self.model.clock()))

    # -------------------------------------------------------------------------------------------------- promises

    @invariant()
    def nothing_is_reported_twice(self) -> None:
        before = len(self.model.ended)
        reports = self.model.take_reports()
        for ref, frame in self.model.ended[before:]:
            self.reported.append(ref)
            if frame.status == Status.CANCELLED:
                assert ref in self.stopped
            if frame.status == Status.TIMEOUT:
                assert ref in self.timed
            if frame.status == Status.OK:
                assert ref in self.ran
            if (
                frame.status == Status.DIED
            ):  # a worker that does not begin its first task is broken, and that one is blamed
                assert ref in self.model.given
        self.reported += reports.returned
        assert len(self.reported) == len(set(self.reported))
        assert set(self.reported) <= self.assigned
        assert self.model.scheduler.unfinished == len(self.assigned) - len(self.reported)

    @invariant()
    def packs_are_small_and_few(self) -> None:
        for worker in self.model.workers.values():
            assert all(size <= PACK_MAX for size in worker.packs)
            assert sum(not attempt.behind for attempt in worker.unstarted) <= 2 * PACK_MAX

    @invariant()
    def followers_are_counted_and_in_their_leaders_worker(self) -> None:
        for worker in self.model.scheduler._workers:
            before = 0
            assert worker.followers == sum(attempt.behind > 0 for attempt in worker.held.values())
            for attempt in worker.held.values():
                assert not (attempt.behind and before and attempt.behind != before)
                before = attempt.ticket

    @invariant()
    def nobody_rests_while_tasks_wait(self) -> None:
        scheduler = self.model.scheduler
        state, table = scheduler._state, scheduler._workers
        own = [w for number, w in self.model.workers.items() if number not in table.system_hosts and not w.process]
        free = sum(worker.ready and not worker.killed and not table.by_number[worker.number].held for worker in own)
        free -= sum(
            self.slots_of(worker) - 1 for worker in table if worker.held and not (worker.system_host or worker.process)
        )
        free -= sum(bool(thread.held) for thread in table.threads.values())
        if len(state.multi_slot):
            assert free < scheduler._assignment.width(state.multi_slot.first())
            return
        if len(state.single_slot):
            assert free <= 0
        threads = [thread for thread in table.threads.values() if not (thread.killed or thread.outdated)]
        at_work = [thread for thread in table.threads.values() if thread.held]
        suspect_runs = any(thread.last.suspect for thread in at_work)
        if len(state.suspected):
            assert free <= 0 or at_work or not any(thread.is_free for thread in threads)
        elif len(state.threads) and not suspect_runs:
            assert free <= 0 or not any(thread.is_free for thread in threads)
        if len(state.suspected) or len(state.threads):
            starting = any(not thread.pid for thread in threads)
            is_full = len(threads) >= scheduler._threads.threads_max
            assert starting or is_full or any(thread.is_free for thread in threads)
        if len(state.system_hosts):
            starting = any(not (worker.pid or worker.killed) for worker in table.system_hosts.values())
            assert starting or len(table.system_hosts) == HOSTS_MAX

    @invariant()
    def nobody_has_more_than_there_is(self) -> None:
        table = self.model.scheduler._workers
        assert sum(self.slots_of(worker) for worker in table if worker.held and not worker.system_host) <= self.slots
        assert len(table.system_hosts) <= HOSTS_MAX

    @invariant()
    def a_suspect_runs_alone(self) -> None:
        at_work = [thread for thread in self.model.scheduler._workers.threads.values() if thread.held]
        if any(attempt.suspect for thread in at_work for attempt in thread.held.values()):
            (alone,) = at_work
            assert len(alone.held) == 1

    @invariant()
    def all_threads_are_in_one_process(self) -> None:
        threads = self.model.scheduler._workers.threads.values()
        assert len({thread.process for thread in threads if not (thread.killed or thread.outdated)}) <= 1

    @invariant()
    def tasks_in_threads_are_in_threads_and_no_others(self) -> None:
        for worker in self.model.scheduler._workers:
            kinds = {attempt.needs is not None and attempt.needs.kind == "thread" for attempt in worker.held.values()}
            assert kinds <= {bool(worker.process)}

    def slots_of(self, worker: WorkerState) -> int:
        """Count the slots that a worker takes which has something."""
        if worker.process:
            return 1
        multi_slot = [attempt for attempt in worker.held.values() if attempt.needs is not None]
        assert len(worker.held) == 1 or not multi_slot
        return self.model.scheduler._assignment.width(multi_slot[0]) if multi_slot else 1

    def teardown(self) -> None:
        """Let everything come to its end: then every attempt has been reported."""
        for _ in range(10_000):
            if not self.model.scheduler.unfinished:
                break
            self.model.all_ready()
            for number in list(self.model.workers):
                worker = self.model.workers.get(number)
                if worker is None:
                    continue
                if worker.killed:
                    self.model.die(number)
                    continue
                if worker.running:
                    self.model.end(number, Status.OK, 0.001)
                elif worker.unstarted:
                    self.begin_end(number)
                self.model.flush(number)
        self.nothing_is_reported_twice()
        assert set(self.reported) == self.assigned


class DegradingMachine(PoolSchedulerMachine):
    """The same where workers die so often that no more are started: what no worker can run is returned."""

    limit = 2


class DrainingMachine(PoolSchedulerMachine):
    """The same where the slave is to leave at some time: from then on nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = False

    @rule()
    def drain(self) -> None:
        self.draining = True
        self.model.execute(self.model.scheduler.drained())

    @invariant()
    def nothing_begins_after_that(self) -> None:
        assert not (self.draining and any(worker.unstarted for worker in self.model.workers.values()))


class RestartingMachine(PoolSchedulerMachine):
    """The same where workers run five tasks each, and all are replaced now and then. That is no death that counts."""

    tasks_max = 5

    @rule(stop=st.booleans())
    def renew(self, stop: bool) -> None:
        self.model.execute(self.model.scheduler.restart_requested(self.model.clock(), stop=stop))

    @invariant()
    def no_worker_has_had_too_much(self) -> None:
        workers = [worker for worker in self.model.scheduler._workers if not (worker.system_host or worker.process)]
        assert all(0 <= worker.tasks_left <= self.tasks_max for worker in workers)

    @invariant()
    def outdated_workers_are_leaving(self) -> None:
        for worker in self.model.scheduler._workers:
            if worker.outdated and not (worker.held or worker.process):
                assert worker.killed

    def teardown(self) -> None:
        super().teardown()
        for _ in range(3):
            for number, worker in list(self.model.workers.items()):
                if worker.killed and number in self.model.workers:
                    self.model.die(number)
            self.model.all_ready()
        assert self.model.scheduler.outdated == 0


PoolSchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
DegradingMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=50)
DrainingMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=50)
RestartingMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50)
TestPoolScheduler = PoolSchedulerMachine.TestCase
TestRestarting = RestartingMachine.TestCase
TestDegrading = DegradingMachine.TestCase
TestDraining = DrainingMachine.TestCase
