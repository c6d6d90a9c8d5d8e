"""The scheduler: events in, instructions out. The only entry point is `Scheduler.handle`.

    events --> Scheduler --> Client-, Slave-, RestartEventHandler --> TaskLifecycle --.
                   |                                                                  SchedulerState --> instructions
                   '-> Dependencies, deadlines, strategies, Suspects, Placement, Balance, Ahead'

It decides which slave runs which task, what the end of an attempt means, and when an owner gets an outcome. The master
calls it from one thread. It never sends, reads a clock, draws a random number, or opens a payload: the same events at
the same times give the same instructions.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Any, Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import validation
from concurrent_nb.scheduling.active_strategies import ActiveStrategies, Makers
from concurrent_nb.scheduling.ahead import Ahead, may_lead
from concurrent_nb.scheduling.balance import Balance
from concurrent_nb.scheduling.client_events import ClientEventHandler
from concurrent_nb.scheduling.dependencies import Dependencies
from concurrent_nb.scheduling.instructions import Instruction
from concurrent_nb.scheduling.placement import Placement
from concurrent_nb.scheduling.refusal import EventRefused
from concurrent_nb.scheduling.restart_events import RestartEventHandler
from concurrent_nb.scheduling.scheduler_state import RESULTS_KEPT_BYTES, SchedulerState
from concurrent_nb.scheduling.slave_events import SlaveEventHandler
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.scheduling.suspects import Suspects
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.tasks.event_log import EventLog
from concurrent_nb.tasks.function_graph import FunctionGraph
from concurrent_nb.tasks.job_sums import SlotTime
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord

#: while tasks of several owners wait, each gets turns of tasks of about this many seconds in all
TURN_S: Final = 0.005
#: most bytes of expected results of tasks that a slave gets ahead of those that start immediately
RESULTS_AHEAD_BYTES: Final = 8 * 1024 * 1024
#: a cluster counts as shared until only one owner has had tasks for this many seconds
SHARED_S: Final = 1.0

# Each handler takes its own type of event, which the type of a mapping cannot express.
_Handlers = Mapping[type[e.Event], Callable[[Any, float], None]]


class Scheduler:
    """Decide which slave runs which task. Pure: the caller passes events and executes instructions.

    Args:
        strategy: the cluster's strategy; it belongs to this scheduler alone.
        makers: factories of the strategies that a job may name instead.
        deaths_allowed: a task is quarantined with this many deaths of its workers and slaves.
        grace_s: how long a slave may take to stop a task that is over its time limit, before it is asked again, and
            again before the task is given up; in seconds.
        rebalance_after_s: time without an answer after which tasks of an oversubscribed slave are recalled.
        results_kept_bytes: limit of an owner's unacknowledged results; above it, the owner's tasks wait until half of
            it is free.

    Raises ConfigurationError for times and numbers that are not positive.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        makers: Makers = BY_NAME,
        deaths_allowed: int = 3,
        grace_s: float = 10.0,
        rebalance_after_s: float = 0.1,
        results_kept_bytes: int = RESULTS_KEPT_BYTES,
    ) -> None:
        if not grace_s > 0:
            raise ConfigurationError(f"grace_s is {grace_s}, it must be more than 0 seconds")
        self._state = SchedulerState(ActiveStrategies(strategy, makers), results_kept_bytes)
        #: all jobs that are not forgotten, with their unfinished and unacknowledged tasks; read-only
        self.jobs: Final[Mapping[JobId, JobRecord]] = self._state.jobs
        #: the last jobs that were forgotten, for their sums; read-only
        self.ended_jobs: Final[Mapping[JobId, JobRecord]] = self._state.ended_jobs
        self.slaves: Final[Mapping[SessionId, SlaveState]] = self._state.slaves  #: read-only
        self.task_log: Final[TaskLog] = self._state.task_log  #: the last tasks that have ended; read-only
        self.event_log: Final[EventLog] = self._state.event_log  #: the last events; the master adds those that it sees
        #: all unfinished tasks with deaths of their workers or slaves; read-only
        self.blamed: Final[Collection[TaskRecord]] = self._state.blamed
        self._shared_until_s = 0.0
        lifecycle = self._lifecycle = TaskLifecycle(self._state, deaths_allowed=deaths_allowed)
        self._ahead = Ahead(self._state)
        self._dependencies = Dependencies(self._state, lifecycle, self._ahead)
        self._jobs = ClientEventHandler(self._state, lifecycle, self._dependencies)
        self._slaves = SlaveEventHandler(self._state, lifecycle, self._ahead, grace_s=grace_s)
        self._placement = Placement(self._state, lifecycle, move_after_s=rebalance_after_s)
        self._suspects = Suspects(self._state, lifecycle)
        self._balance = Balance(self._state, after_s=rebalance_after_s)
        self._restart = RestartEventHandler(self._state, lifecycle)
        self._handlers: Final[_Handlers] = _handlers(self._jobs, self._slaves, self._restart)

    def find_job(self, job: JobId) -> JobRecord | None:
        """Return a job, also one of the last that have ended."""
        return self.jobs.get(job) or self.ended_jobs.get(job)

    def slot_time(self, now: float) -> SlotTime:
        """Return how long slots have been there, and idle, until now; read-only."""
        state = self._state
        state.slot_time.advance(now, state.slots, state.idle)
        return state.slot_time

    @property
    def failed(self) -> int:
        """The number of tasks that have failed since the start."""
        return self._state.failed

    @property
    def cancelled(self) -> int:
        """The number of tasks that were cancelled since the start."""
        return self._state.cancelled

    @property
    def paused(self) -> Mapping[str, int]:
        """Owners whose tasks wait, with the bytes of results that each has not acknowledged."""
        return {owner: self._state.kept_bytes[owner] for owner in self._state.paused}

    @property
    def waiting(self) -> int:
        """The number of tasks that are on no slave."""
        return self._state.all_waiting

    @property
    def blocked(self) -> int:
        """The number of tasks that need results of tasks that have not ended."""
        return self._state.blocked

    def handle(self, *events: e.Event, now: float) -> list[Instruction]:
        """Handle events, in order, at a time (seconds, never less than before); without events, what is due by now.

        Returns instructions, in order. Runs of tasks are joined over all events of one call, so pass all events that
        have gathered in one call.

        Raises:
            EventRefused: a peer did what it may not do; its docstring describes which events were handled.
            ConfigurationError: a strategy chose more tasks than a slave has room for.
        """
        state = self._state
        state.task_log.now_s = now
        for position, event in enumerate(events):
            try:
                self._handlers[type(event)](event, now)
            except EventRefused as refused:
                refused.position = position
                raise
        if now >= state.lingering.soonest:
            self._jobs.abandon_overdue(now)
        if now >= state.overdue.soonest or now >= state.stop_unconfirmed.soonest:
            self._slaves.enforce_time_limits(now)
        if state.settled:
            self._dependencies.settle()
        state.refresh_touched()
        if state.has_suspects:
            self._suspects.settle()
        self._assign(now)
        if state.placement_due or now >= self._placement.give_up_s:
            self._placement.place(now)
        if state.has_suspects and self._suspects.place(now):
            self._assign(now)
            self._placement.place(now)
        if state.oversubscribed:
            self._placement.move(now)
            self._balance.rebalance(now)
        if state.settled:  # tasks that can run nowhere have ended
            self._dependencies.settle()
        if state.leaders:
            self._ahead.send(now)
        return state.outbox.flush()

    def note_conclusions(self) -> None:
        """Have `take_concluded` return the tasks that end from now on."""
        self._state.concluded = []

    def take_concluded(self) -> list[TaskRecord]:
        """Return the tasks that have ended since the last call, in order."""
        concluded = self._state.concluded
        if not concluded:
            return []
        self._state.concluded = []
        return concluded

    @property
    def deaths_allowed(self) -> int:
        """A task is quarantined with this many deaths; those that it has already count."""
        return self._lifecycle.deaths_allowed

    @deaths_allowed.setter
    def deaths_allowed(self, deaths: int) -> None:
        self._lifecycle.deaths_allowed = deaths

    @property
    def results_kept_bytes(self) -> int:
        """The limit of an owner's unacknowledged results."""
        return self._state.results_kept_bytes

    @results_kept_bytes.setter
    def results_kept_bytes(self, size_bytes: int) -> None:
        self._state.limit_kept_bytes(size_bytes)

    def is_kept(self, job: JobId, index: int) -> bool:
        """Return whether the owner of a task has its result kept."""
        of_job = self._state.jobs.get(job)
        return of_job is not None and index in of_job.kept

    @property
    def graphs(self) -> Iterable[FunctionGraph]:
        """The graphs of linked tasks, folded by function: of each owner the present one, or the last one; read-only."""
        return self._state.graphs

    @property
    def retained(self) -> Collection[TaskRecord]:
        """All forgotten tasks whose results others need; read-only."""
        return self._state.retained.values()

    def needs_result(self, job: JobId, index: int) -> bool:
        """Return whether the result of a task may not be released now: tasks need it, or one has kept a reference."""
        of_job = self._state.jobs.get(job)
        task = None if of_job is None else of_job.tasks.get(index)
        if task is None:
            return (job, index) in self._state.retained
        return task.links is not None and (task.links.users > 0 or not task.links.clean)

    def use_strategy(self, strategy: Strategy) -> None:
        """Place tasks by another strategy from the next `handle` on, except those of jobs that name their own."""
        self._state.strategies.replace_default(strategy, self._state.jobs.values(), self._state.slaves.values())

    def tick(self, now: float) -> list[Instruction]:
        """Do what is due by now."""
        return self.handle(now=now)

    def next_deadline(self) -> float | None:
        """Return when `tick` must be called at the latest; None if nothing is due."""
        state = self._state
        due_s = min(state.lingering.soonest, state.overdue.soonest, state.stop_unconfirmed.soonest)
        due_s = min(due_s, self._placement.give_up_s, self._suspects.give_up_s)
        if state.oversubscribed and (balance_s := self._balance.next_deadline_s()) is not None and balance_s < due_s:
            due_s = balance_s
        return None if due_s == inf else due_s

    def validate(self) -> None:
        """Raise BrokenInvariant if the state is inconsistent after `handle`. Slow: for tests and simulators."""
        validation.validate(self._state)

    def _assign(self, now: float) -> None:
        """Assign waiting one-slot tasks, as far as the strategies find room.

        If there is no room for the owner whose turn it is, the others wait as well: a strategy that needs less room
        could otherwise take all of it for its owner.
        """
        state = self._state
        queue, strategy = state.waiting, state.strategies.default
        plain = state.strategies.all_default
        waiting = len(queue)
        if len(state.busy) > 1:
            self._shared_until_s = now + SHARED_S
        while (run := queue.first()) is not None:
            if not plain:
                strategy = self._strategy_of(run.job, now)
            estimate_s = state.estimates.get(run.function)
            if run.objects:
                chosen = strategy.choose_near(run.tasks[0], state.locations, estimate_s, waiting)
            else:
                chosen = strategy.choose(estimate_s, waiting)
            if chosen is None:
                return
            slave, count = chosen
            if not 1 <= count <= slave.room:
                raise ConfigurationError(f"{strategy!r} gives {count} tasks to {slave!r}: choose another strategy")
            if queue.owners > 1:
                count = min(count, _turn(estimate_s))
            if state.estimates.large_bytes and (size_bytes := state.estimates.large_bytes.get(run.function)):
                # Results of assigned tasks come even when their owner is paused.
                most = max(slave.slots, RESULTS_AHEAD_BYTES // size_bytes) - slave.load
                if most < 1:
                    return
                count = min(count, most)
            tasks = queue.take(count)
            slave.take(tasks, strategy.unknown_s if estimate_s is None else estimate_s, now)
            slave.last_activity_s = now
            if run.objects:
                state.locations.hold(slave, [each for each, _ in run.objects])
            state.outbox.assign(slave.id, run, tasks)
            state.refresh(slave)
            if state.blocked:
                state.leaders += [task for task in tasks if task.links is not None and may_lead(task.links)]

    def _strategy_of(self, job: JobRecord, now: float) -> Strategy:
        """Return the strategy of a job's tasks now: its own, unless that would take the room of other owners."""
        strategies = self._state.strategies
        if now < self._shared_until_s and strategies.has_own_prefetching(job):
            return strategies.default
        return strategies.of(job)


def _turn(estimate_s: float | None) -> int:
    """Return how many tasks of one owner are assigned in one turn."""
    return 1 if estimate_s is None else max(1, int(TURN_S / estimate_s))


def _handlers(jobs: ClientEventHandler, slaves: SlaveEventHandler, restart: RestartEventHandler) -> _Handlers:
    return {
        e.JobOpened: jobs.opened,
        e.OwnerNamed: jobs.owner_named,
        e.TasksSubmitted: jobs.submitted,
        e.JobClosed: jobs.closed,
        e.CancelRequested: jobs.cancel_requested,
        e.TasksRan: jobs.ran,
        e.ResultsWanted: jobs.results_wanted,
        e.ResultsFreed: jobs.results_freed,
        e.ClientLost: jobs.client_lost,
        e.ClientSilent: jobs.client_silent,
        e.ClientResumed: jobs.client_resumed,
        e.OutcomesAcknowledged: jobs.acknowledged,
        e.FunctionLost: jobs.function_lost,
        e.SlaveJoined: slaves.joined,
        e.SlaveResized: slaves.resized,
        e.SlaveSuspected: slaves.suspected,
        e.SlaveTrusted: slaves.trusted,
        e.SlaveLost: slaves.lost,
        e.TasksStarted: slaves.started,
        e.TasksReturned: slaves.returned,
        e.AttemptsRefused: slaves.attempts_refused,
        e.OutcomesReceived: slaves.outcomes_received,
        e.OutcomesRestored: restart.outcomes_restored,
        e.AttemptsOffered: restart.offered,
        e.ObjectsHeld: slaves.objects_held,
        e.ObjectsDropped: slaves.objects_dropped,
    }
