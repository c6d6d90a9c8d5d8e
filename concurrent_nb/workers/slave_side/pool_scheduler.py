"""The pool's bookkeeping: which task waits, which worker has what, who is too slow, who is to be stopped.

Pure: no process, no socket, no clock. The pool feeds it facts with the time they happened at and obeys the commands
that come back; what the slave has to know gathers in reports.

A worker that is free gets a pack: one task where the function's run time is unknown or long, else as many as make up
about `ahead_s`. A busy one gets a second pack ahead, so that it never waits for the slave, unless what it runs is
known to be slow. Whatever stands behind a task that turns out slow, or is wanted by a worker that has nothing, is
recalled and goes back to the front of the queue. Taking back is safe at any moment: a worker may start only what it
holds a token for, and tokens are taken by either side, never by both.

A task of several cores runs in one worker and keeps so many others from having work. While one waits, nobody gets a
new pack, so that it finds its slots as soon as what runs has ended. A host gets a worker of its own beside the slots,
started when it comes and dismissed when it has ended: what it leaves behind is nothing for others to find.

Tasks in threads share one process, started when the first one comes. Each of its threads is a worker of its own, which
takes a slot while it has something. What ends one ends all: the others' tasks go back to the master unblamed. Where it
ended by itself and several ran, nobody knows whose fault it was: each of those is a suspect, and runs in there alone
the next time that it comes here.

A task that is blocked, because it waits for tasks of its own, lends its slot: a worker of the reserve has it meanwhile,
else tasks that wait for tasks would hold all workers, and nothing would ever run. The reserve grows as it is needed and
is dismissed when it has not been needed for a while.

What a worker shows and says is a claim: a task may write to whatever its worker has. A worker whose task has ended, and
whose result does not come while nothing moves, is broken, as is one that says what makes no sense: it is killed, the
task that has broken it counts a death, and what stands behind that runs elsewhere.

A worker that has been given as many tasks as one may have gets nothing more; when they have ended it is dismissed, and
another takes its place when it has gone. That is no death that would count. So are all workers when they are to be
replaced; those that are stopped for it give back what they run.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import HOSTS_MAX, ErrorReport, Needs, OutcomeFrame, TaskFrame, TaskRef
from concurrent_nb.workers.protocol.records import Result, lengths
from concurrent_nb.workers.slave_side.attempt_queue import AttemptQueue
from concurrent_nb.workers.slave_side.attempts import (
    Attempt,
    Buffer,
    Command,
    Dismiss,
    Disposition,
    GiveTasks,
    Interrupt,
    Kill,
    PoolReports,
    Recall,
    Start,
)
from concurrent_nb.workers.slave_side.worker_table import RestartLimit, WorkerState, WorkerTable

#: how often the pages of busy workers are looked at, in seconds; also how late a deadline may be noticed
LOOK_S: Final = 0.02
#: behind a task that runs, or is expected to run, this long, nothing waits
SLOW_S: Final = 0.02
#: a worker that has never run a task, has some, runs none and says nothing for so long is stuck
STUCK_S: Final = 30.0
#: one whose task has ended, and whose result does not come for so long while nothing moves, is broken
RESULT_S: Final = 5.0
#: a worker that is not ready after so long never will be
START_S: Final = 60.0
#: a worker from which everything was taken back this often, unstarted, is stuck
FUTILE_MAX: Final = 100
#: an initializer may take as long as it likes, but may end so many workers in a row, at most
INITIALIZER_DEATHS: Final = 3
#: threads of which nothing has been heard yet, at most: what starts them takes only so many at once
THREADS_STARTING_MAX: Final = 8
#: most workers in the reserve: so many tasks can be blocked at once
RESERVE_MAX: Final = 128
#: a worker of the reserve that has not been needed for so long is dismissed
RESERVE_S: Final = 2.0
#: suspects that are remembered
SUSPECTS_MAX: Final = 1000

# A name in a module is found faster than a member of an enumeration.
_CANCELLED: Final = int(Status.CANCELLED)
#: how a task may end as its worker tells it
_FROM_WORKERS: Final = frozenset(
    map(int, (Status.OK, Status.HIT, Status.ERROR, _CANCELLED, Status.NOT_PICKLABLE, Status.NOT_LOADABLE))
)

_report: Final = msgspec.msgpack.Encoder().encode


class PoolScheduler:
    """Decide what the pool does. `slots` is the number of workers; see the module for the policy.

    Args:
        tasks_max: tasks that a worker runs before another takes its place; 0: as many as there are. Not for threads.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of a task that has ended may take to come, while nothing moves.

    Workers are numbered from 1 and never reuse a number. Unknown tickets, refs and workers are facts that came late,
    and are ignored.
    """

    def __init__(
        self,
        slots: int,
        *,
        ahead_s: float = 0.04,
        grace_s: float = 1.0,
        limit: RestartLimit | None = None,
        tasks_max: int = 0,
        initializes: bool = False,
        result_s: float = RESULT_S,
    ) -> None:
        self.slots = slots
        self.reports = PoolReports()
        self.degraded = False
        self.draining = False
        self.initializer_has_failed = False
        self._grace_s = grace_s
        self._result_s = result_s
        self._limit = limit or RestartLimit()
        self._tasks_max = tasks_max or math.inf
        self._start_s = math.inf if initializes else START_S
        self._start_limit = RestartLimit(INITIALIZER_DEATHS - 1, math.inf) if initializes else self._limit
        self._waiting = AttemptQueue()
        self._wide = AttemptQueue()  # tasks of several cores
        self._hosts = AttemptQueue()
        self._threads = AttemptQueue()  # tasks in threads
        self._alone = AttemptQueue()  # those of them that are suspects
        self._queues = (self._waiting, self._wide, self._hosts, self._threads, self._alone)
        self._suspects: dict[tuple[bytes, int], None] = {}  # by (job, index)
        self._process = 0  # in which threads are started; 0: in a new one
        self._threads_max = slots
        self._attempts: dict[int, Attempt] = {}  # by ticket: all without an outcome
        self._tickets: dict[tuple[bytes, int, int], int] = {}  # by (job, index, number)
        self._crew = WorkerTable(ahead_s)
        self._next_ticket = 1
        self._next_worker = 1
        self._next_look: float | None = None
        self._reserve_needed_at = 0.0

    # ------------------------------------------------------------------------------------------------ asked by the pool

    def ref(self, worker: int, ticket: int) -> TaskRef | None:
        """Name the attempt of a ticket that a worker has; None if it has its outcome.

        Raises ProtocolError if it is another's, or nobody's.
        """
        attempt = self._attempts.get(ticket)
        if attempt is not None and attempt.worker == worker:
            return attempt.ref
        self._check_over(ticket)
        return None

    def _check_over(self, ticket: int) -> None:
        """Raise ProtocolError unless this is a ticket that has its outcome."""
        if ticket in self._attempts or not 0 < ticket < self._next_ticket:
            raise ProtocolError(f"named ticket {ticket}, which is not its own")

    def busy(self) -> list[int]:
        """List the workers that have tasks: their pages are to be looked at."""
        return [member.number for member in self._crew if member.held]

    def next_deadline(self) -> float | None:
        """Say when to call `tick` next, None if nothing is under way."""
        return self._next_look

    def take_reports(self) -> PoolReports:
        """Hand over what has happened since the last call."""
        reports, self.reports = self.reports, PoolReports()
        return reports

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once, those not counted that wait for tasks of their own."""
        return self.slots + min(self._crew.blocked, RESERVE_MAX)

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""
        return len(self._attempts)

    @property
    def provided(self) -> bool:
        """Say whether every worker has something to run next."""
        members = [member for member in self._crew if not (member.host or member.process)]
        return bool(members) and all(len(member.held) > 1 for member in members)

    # ------------------------------------------------------------------------------------------- facts from the slave

    def start(self, now: float) -> list[Command]:
        """Ask for the first workers."""
        return [self._start_one(now) for _ in range(self.slots)]

    def assigned(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        frames: Iterable[TaskFrame],
        buffers: Sequence[Sequence[Buffer]],
        now: float,
        needs: Needs | None = None,
    ) -> list[Command]:
        """Take in a run of attempts. `buffers` has an entry for each frame, or none if no task has buffers."""
        for place, frame in enumerate(frames):
            key = (job, frame.index, frame.attempt)
            if key in self._tickets:
                continue
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            own = buffers[place] if buffers else ()
            attempt = Attempt(
                ticket, job, frame.index, frame.attempt, function, timeout_s, frame.body, frame.sizes, own, frame.kind
            )
            if needs is not None:
                attempt.needs = needs
                attempt.suspect = (job, frame.index) in self._suspects
            self._attempts[ticket] = attempt
            self._tickets[key] = ticket
            self._queue_of(attempt).append(attempt)
        if self.degraded or self.draining:
            self._return_all()
        return self._dispatch(now)

    def withdrawn(self, refs: Iterable[TaskRef], stop: bool, now: float) -> list[Command]:
        """Give these back if they have not started; with `stop`, end them wherever they are."""
        wish = Disposition.CANCEL if stop else Disposition.RETURN
        asked: dict[int, WorkerState] = {}
        special_left = False
        for ref in refs:
            ticket = self._tickets.get((ref.job, ref.index, ref.attempt))
            if ticket is None:
                continue
            attempt = self._attempts[ticket]
            if attempt.worker == 0:
                special_left = special_left or attempt.needs is not None
                self._leave_queue(attempt, wish)
            elif attempt.wish < wish:
                attempt.wish = wish
                asked[attempt.worker] = self._crew.members[attempt.worker]
        commands: list[Command] = []
        for member in asked.values():
            commands += self._after_recall(member, now) if member.recalled else [self._recall(member)]
        return commands + self._dispatch(now) if special_left else commands  # others may have waited for it

    def drained(self) -> list[Command]:
        """Give back what has not started, now and from now on; what runs may end."""
        self.draining = True
        self._return_all()
        return [self._recall(member) for member in self._crew if member.held and not member.recalled]

    def renewed(self, now: float, *, stop: bool) -> list[Command]:
        """Have others take the place of all workers: as soon as what runs has ended, or with `stop` at once."""
        commands: list[Command] = []
        for member in list(self._crew):
            if member.host or member.killed or not (member.pid or member.process):
                continue  # it ends with its task, is about to end, or is fresh
            member.outdated = True
            self._crew.idle.pop(member.number, None)
            if member.process:
                self.process_ends(member.process)
        for member in list(self._crew):
            if not member.outdated or member.killed:
                continue
            if not member.held:
                commands += self._settle(member)
            elif stop:
                commands.append(self._kill(member))
            elif not member.recalled:
                commands.append(self._recall(member))
        return commands + self._dispatch(now)

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return sum(member.outdated or not member.pid for member in self._crew if not member.host)

    def forgotten(self, functions: Iterable[bytes]) -> None:
        """Note that nobody needs these functions any more."""
        for function in functions:
            self._crew.estimates.forget(function)

    def reset(self) -> list[Command]:
        """Forget every attempt without a report, and kill the workers that have any."""
        self._attempts.clear()
        self._tickets.clear()
        self._suspects.clear()
        for queue in self._queues:
            queue.clear()
        self.reports = PoolReports()
        commands: list[Command] = []
        for member in self._crew:
            if member.held:
                member.held.clear()
                commands.append(self._kill(member))
        return commands

    # ------------------------------------------------------------------------------------------- facts from a worker

    def worker_ready(self, worker: int, pid: int, now: float) -> list[Command]:
        """Note that a worker waits for work."""
        member = self._crew.get(worker)
        if member is None or member.pid:
            return []
        member.pid, member.since = pid, now
        if self._start_limit is not self._limit:
            self._start_limit.worked()
        return self._settle(member) + self._dispatch(now)

    def initializer_failed(self, report: str) -> None:
        """Note that the initializer has raised an error in a worker: it would in the next one, too."""
        if not self.degraded:
            self.initializer_has_failed = True
            self._degrade(f"the initializer of the workers has failed:\n{report}")

    def outcomes(self, worker: int, results: Sequence[Result], buffers: Sequence[Buffer], now: float) -> list[Command]:
        """Take in results of a worker, and their buffers in one row.

        Raises ProtocolError for a result that it cannot have; those before it have been taken.
        """
        member = self._crew.get(worker)
        if member is None:
            return []
        at = ended = 0
        elapsed_s, function = 0.0, b""
        for result in results:
            own = buffers[at : at + len(lengths(result.sizes))] if result.sizes else ()
            at += len(own)
            attempt = member.held.get(result.ticket)
            if attempt is None:  # it came before, through the page
                self._check_over(result.ticket)
                continue
            if result.status not in _FROM_WORKERS or not (result.body or result.sizes or result.status == _CANCELLED):
                raise ProtocolError(f"gave a result that is none, of status {result.status}")
            del member.held[result.ticket]
            member.recalled = False
            if attempt.function != function:
                self._learn(function, elapsed_s, ended)
                function, elapsed_s, ended = attempt.function, 0.0, 0
            if result.status < _CANCELLED:
                elapsed_s += result.elapsed_s
                ended += 1
            if result.status == _CANCELLED or attempt.overran(result.elapsed_s):
                self._finish_stopped(attempt, member, result.elapsed_s)
            else:
                self._finish(attempt, attempt.outcome(result, member.pid), own)
        self._learn(function, elapsed_s, ended)
        if results:
            self._limit.worked()
        member.futile, member.since = 0, now
        return self._settle(member) + self._dispatch(now)

    def gave_back(self, worker: int, count: int, now: float) -> list[Command]:
        """Take back the last `count` tasks of a worker. Raises ProtocolError if it does not have so many."""
        member = self._crew.get(worker)
        if member is None:
            return []
        if count > len(member.held):
            raise ProtocolError(f"worker {worker} gave back {count} tasks and had {len(member.held)}")
        for _ in range(count):
            self._requeue(member.held.popitem()[1])
        member.left += count
        return self._after_recall(member, now) + self._dispatch(now)

    def thread_refused(self, worker: int, how: str, now: float) -> list[Command]:
        """Note that a thread could not be started, as in "too many open files": those that there are have to do."""
        self._crew.remove(worker)
        self._threads_max = max(1, len(self._crew.threads))
        if not self._crew.threads and self._limit.died(now):
            self._degrade_after_deaths(self._limit, how)
        return self._dispatch(now)

    def worker_died(self, worker: int, how: str, ticket: int, started_at: float, now: float) -> list[Command]:
        """Take in the death of a worker, `how` as in "died of SIGSEGV", and what its page shows."""
        member = self._crew.remove(worker)
        if member is None:
            return []
        # What was stopped with force is over whatever the page says; what else ran then is not to blame.
        culprit = member.blamed if member.is_broken else member.stopping if member.killed else ticket
        blamed = member.held.pop(culprit, None)
        if member.killed and member.outdated and (stopped := member.held.pop(ticket, None)) is not None:
            self._return(stopped)  # and not kept here: the master's watch on its run time has to begin anew
        for attempt in reversed(member.held.values()):
            self._requeue(attempt)
        elapsed_s = member.ran_s(ticket, started_at, now) if ticket == culprit else 0.0
        if blamed is not None and blamed.wish >= Disposition.CANCEL:
            self._finish_stopped(blamed, member, elapsed_s)
        elif blamed is not None:
            self._finish_died(blamed, member, how, elapsed_s)
        elif not member.killed:
            limit = self._limit if member.pid else self._start_limit
            if limit.died(now):
                self._degrade_after_deaths(limit, how if limit is self._limit else f"{how} while it was initialized")
        return ([] if self.degraded or member.host or member.spent else [self._start_one(now)]) + self._dispatch(now)

    def process_ends(self, process: int) -> None:
        """Start no more threads in this process: it is dead, and what its threads have left is about to be told."""
        if process == self._process:
            self._process = 0

    def process_died(
        self, how: str, pages: Mapping[int, tuple[int, float]], culprits: Collection[int], now: float
    ) -> list[Command]:
        """Take in the death of a process of threads, of which `process_ends` has told.

        Args:
            how: as in "died of SIGSEGV".
            pages: of its threads: what they ran, and since when, (0, 0.0) for nothing.
            culprits: threads that may have caused it.
        """
        killed = broken = False
        ran: list[tuple[WorkerState, Attempt, float]] = []
        unstarted: list[Attempt] = []
        for number, (ticket, started_at) in pages.items():
            member = self._crew.remove(number)
            if member is None:
                continue
            killed = killed or member.killed
            broken = broken or member.is_broken
            how = member.how or how
            culprit = member.blamed or (member.stopping if member.killed and member.stopping else ticket)
            attempt = member.held.pop(culprit, None)
            if attempt is not None:
                ran_s = member.ran_s(ticket, started_at, now) if culprit == ticket else 0.0
                ran.append((member, attempt, ran_s))
            unstarted += member.held.values()
        for attempt in sorted(unstarted, key=lambda attempt: attempt.ticket, reverse=True):
            self._requeue(attempt)
        # What a broken thread has done to itself, its neighbours may have done: they share all memory.
        suspects = [] if killed and not broken else [attempt for member, attempt, _ in ran if member.number in culprits]
        for attempt in suspects:
            self._suspect(attempt)
        for member, attempt, elapsed_s in ran:
            if attempt.wish >= Disposition.CANCEL:
                self._finish_stopped(attempt, member, elapsed_s)
            elif suspects == [attempt]:
                self._finish_died(attempt, member, how, elapsed_s)
            else:
                self._return(attempt)  # and not kept here: the master's watch on its run time has to begin anew
        if not (killed or suspects) and self._limit.died(now):
            self._degrade_after_deaths(self._limit, how)
        return self._dispatch(now)

    def looked(
        self, worker: int, ticket: int, started_at: float, moving: bool, now: float, ended: int = 0
    ) -> list[Command]:
        """Take in what a busy worker's page shows.

        Args:
            ticket: of the task that runs, 0 if none does.
            started_at: when that started.
            moving: a record has come or gone since the last look, or a good piece of one.
            ended: ticket of the task that has ended last, 0 if none has.
        """
        member = self._crew.get(worker)
        if member is None or member.killed:
            return []
        attempt, first = member.held.get(ticket), member.first
        if moving or attempt is first:
            member.since = now
        if member.stopping and now >= member.kill_at and (attempt is None or ticket == member.stopping):
            return [self._kill(member)]
        if attempt is not first and first is not None:
            has_ended = attempt is not None or ended in member.held
            if commands := self._without_progress(member, first, has_ended, has_worked=bool(ended), now=now):
                return commands
        if attempt is None:
            return []
        ran_s = member.ran_s(ticket, started_at, now)
        commands = []
        if ran_s >= SLOW_S:
            if not attempt.reported:
                attempt.reported = True
                self.reports.started.append(attempt.ref)
            if not member.recalled and attempt is not member.last:
                commands.append(self._recall(member))
        if attempt.timeout_s is not None and ran_s >= attempt.timeout_s and member.stopping != ticket:
            commands.append(self._stop(member, attempt, Disposition.TIME_OUT, now))
        return commands

    def _without_progress(
        self, member: WorkerState, first: Attempt, has_ended: bool, *, has_worked: bool, now: float
    ) -> list[Command]:
        """Say what is to become of a worker of which nothing comes, though the task that was to run first runs no more.

        Args:
            has_ended: that task has ended, so its result should have come; else it has not begun.
            has_worked: the worker has run tasks before.
        """
        # A thread of a process may have to wait for another that holds the interpreter.
        wait_s = self._result_s if (has_ended or has_worked) and not member.process else max(STUCK_S, self._result_s)
        if now - member.since <= wait_s:
            return []
        if has_ended:
            how = f"was killed because the result of a task that had ended did not come within {wait_s:g} s"
            return self._break(member, first, how)
        # Whoever was there before may have stopped it, so the first time nobody is blamed.
        first.in_vain += 1
        if first.in_vain == 1 or member.process:
            return [self._kill(member)] if has_worked else [self._give_up_on(member, now)]
        if first.timeout_s is not None:
            first.wish = max(first.wish, Disposition.TIME_OUT)
        return self._break(member, first, f"was killed because it did nothing for {wait_s:g} s")

    def broken(self, worker: int, how: str, ticket: int, ended: int, *, may_be_former: bool) -> list[Command]:
        """Kill a worker that has said or done what no worker does.

        The first task without a result is to blame: what the worker said before has been understood.

        Args:
            how: it ends, for people, as in "was killed because it said what is no record".
            ticket: of the task that its page shows.
            ended: ticket of the task that has ended last.
            may_be_former: a task may have done it whose result has come by another way.
        """
        member = self._crew.get(worker)
        if member is None or member.is_broken:
            return []
        first = member.first
        is_sure = (ticket in member.held or ended in member.held) and not may_be_former
        if first is not None and not is_sure and member.stopping not in member.held:
            first.in_vain += 1
            first = first if first.in_vain > 1 else None
        return self._break(member, first, how)

    def _break(self, member: WorkerState, culprit: Attempt | None, how: str) -> list[Command]:
        member.is_broken, member.how = True, how
        member.blamed = member.stopping if member.stopping in member.held else culprit.ticket if culprit else 0
        return [self._kill(member)]

    def blocked(self, worker: int, ticket: int, now: float) -> list[Command]:
        """Take in whether the task of this ticket, which a worker runs, waits for tasks of its own; 0: it does not."""
        member = self._crew.get(worker)
        if member is None or member.host or member.process or member.killed:
            return []
        attempt = member.held.get(ticket)
        if (attempt is not None) == member.blocked:
            return []
        if attempt is None:
            self._crew.unblock(member)
            self._reserve_needed_at = now
            return []
        if self._crew.blocked >= RESERVE_MAX:
            return [] if member.stopping else [self._stop(member, attempt, Disposition.REFUSE, now)]
        self._crew.block(member)
        commands: list[Command] = []
        if self._crew.blocked > self._crew.reserve and not self.degraded:
            self._crew.reserve += 1
            commands.append(self._start_one(now))
        return commands + self._dispatch(now)

    def _dismiss_reserve(self, now: float) -> list[Command]:
        """Dismiss the workers that have not been needed for a while."""
        crew = self._crew
        commands: list[Command] = []
        if now - self._reserve_needed_at >= RESERVE_S:
            while crew.idle and crew.reserve > crew.blocked and crew.spare >= 0:
                _, member = crew.idle.popitem()
                member.killed = member.spent = True
                crew.reserve -= 1
                commands.append(Dismiss(member.number))
        return commands

    def tick(self, now: float) -> list[Command]:
        """Note that time has passed. The pages of `busy` workers have been looked at before."""
        commands: list[Command] = self._dismiss_reserve(now) if self._crew.reserve else []
        busy = starting = False
        for member in self._crew:
            busy = busy or bool(member.held)
            if not member.pid and not member.killed:
                starting = True
                if now - member.since > self._start_s:
                    commands.append(self._give_up_on(member, now))
        self._next_look = now + LOOK_S if busy else now + START_S if starting else None
        if self._next_look is None and self._crew.reserve:
            self._next_look = now + RESERVE_S
        return commands + self._dispatch(now)

    # ------------------------------------------------------------------------------------------------- who gets what

    def _dispatch(self, now: float) -> list[Command]:
        """Give what waits to whoever can take it; with nothing waiting, find work for idle workers."""
        crew = self._crew
        commands = self._dispatch_hosts(now) if self._hosts or crew.hosts else []
        while self._wide and crew.spare >= (width := self._width(self._wide.first())):
            commands.append(self._give_one(crew.take_slots(width), self._wide, now))
        if self._wide:
            return commands  # whoever gets free keeps a slot for it
        if self._threads or self._alone:
            commands += self._start_threads(now)
        while True:
            queue, thread = self._for_thread()
            if thread is not None and not (self._waiting and _is_older(self._waiting, queue)):
                if crew.spare < 1:
                    return commands  # here, too
                commands.append(self._give(crew.take_slot(thread), queue, now))
            elif self._waiting and (member := crew.next_taker()):
                commands.append(self._give(member, self._waiting, now))
            else:
                break
        if not (self._waiting or queue) and crew.spare > 0 and (victim := crew.most_loaded()):
            commands.append(self._recall(victim))
        return commands

    def _dispatch_hosts(self, now: float) -> list[Command]:
        """Give hosts to the workers that stand beside the slots; start such workers, and dismiss those without one."""
        commands: list[Command] = []
        hosts = self._crew.hosts
        for member in hosts.values():
            if member.free and self._hosts and not member.spent:
                member.spent = True
                commands.append(self._give_one(member, self._hosts, now))
            elif member.free:
                member.killed = True
                commands.append(Dismiss(member.number))
        starting = sum(not (member.pid or member.killed) for member in hosts.values())
        for _ in range(min(len(self._hosts) - starting, HOSTS_MAX - len(hosts))):
            commands.append(self._start_one(now, host=True))
        return commands

    def _start_threads(self, now: float) -> list[Command]:
        """Start as many threads as can be of use now."""
        threads = [thread for thread in self._crew.threads.values() if not (thread.killed or thread.outdated)]
        starting = sum(not thread.pid for thread in threads)
        free = sum(thread.free for thread in threads)
        wanted = len(self._threads) + len(self._alone) - starting - free
        count = min(wanted, self._threads_max - len(threads), THREADS_STARTING_MAX - starting)
        return [self._start_one(now, thread=True) for _ in range(count)]

    def _for_thread(self) -> tuple[AttemptQueue, WorkerState | None]:
        """Choose which tasks in threads are next, and the thread that can begin one now; None if none can."""
        queue = self._alone or self._threads
        if not queue:
            return queue, None
        at_work = [thread for thread in self._crew.threads.values() if thread.held]
        is_free = not at_work if queue is self._alone else not any(thread.last.suspect for thread in at_work)
        return queue, self._crew.free_thread() if is_free else None

    def _width(self, attempt: Attempt) -> int:
        """Say how many slots a task of several cores takes here."""
        cores = attempt.needs.cores if attempt.needs is not None else 1
        # No master asks for more than it was told of, but `slots` may have been told as fewer meanwhile.
        return min(cores or self.slots, self.slots)

    def _queue_of(self, attempt: Attempt) -> AttemptQueue:
        needs = attempt.needs
        if needs is None:
            return self._waiting
        if needs.kind == "thread":
            return self._alone if attempt.suspect else self._threads
        return self._hosts if needs.kind == "host" else self._wide if needs.cores != 1 else self._waiting

    def _give_one(self, member: WorkerState, queue: AttemptQueue, now: float) -> GiveTasks:
        return self._give_pack(member, queue.take(1), now)

    def _give(self, member: WorkerState, queue: AttemptQueue, now: float) -> GiveTasks:
        """Make a pack of about `ahead_s` of work and at most a fair share of what waits; of suspects, one."""
        size = 1 if queue is self._alone else self._crew.pack_size(queue.next_function())
        size = min(size, -(-len(queue) // self.slots))
        return self._give_pack(member, queue.take(size if size < member.left else int(member.left)), now)

    def _give_pack(self, member: WorkerState, pack: Sequence[Attempt], now: float) -> GiveTasks:
        member.take(pack, now)
        if self._next_look is None or self._next_look > now + LOOK_S:
            self._next_look = now + LOOK_S
        return GiveTasks(member.number, pack[0].function, pack)

    def _recall(self, member: WorkerState) -> Recall:
        member.recalled = True  # from now on, so that nothing is given to it before this is obeyed
        return Recall(member.number)

    def _settle(self, member: WorkerState) -> list[Command]:
        """Bring a worker's record up to date; let it go if it has run what it may."""
        commands: list[Command] = []
        if member.leaves and not member.killed:
            mates = self._crew.mates(member)  # threads go together
            if not any(mate.held or not mate.pid for mate in mates):
                for mate in mates:
                    mate.killed = True
                    commands.append(Dismiss(mate.number))
        self._crew.settle(member)
        return commands

    def _learn(self, function: bytes, elapsed_s: float, ended: int) -> None:
        if ended:
            self._crew.estimates.learn(function, elapsed_s / ended)

    # ------------------------------------------------------------------------------------------- the way back, the end

    def _requeue(self, attempt: Attempt) -> None:
        """Put what a worker had, and did not finish, to the front of the queue, or where it is wished."""
        self._queue_of(attempt).put_back(attempt)
        if wish := max(attempt.wish, Disposition.RETURN if self.degraded or self.draining else Disposition.KEEP):
            self._leave_queue(attempt, wish)

    def _leave_queue(self, attempt: Attempt, wish: Disposition) -> None:
        """End a waiting attempt: returned, or cancelled before it ran."""
        self._queue_of(attempt).leave(attempt)
        if wish is Disposition.RETURN:
            self._return(attempt)
        else:
            self._forget(attempt)
            self.reports.ended(attempt.job, attempt.end(Status.CANCELLED))

    def _after_recall(self, member: WorkerState, now: float) -> list[Command]:
        """Look at what a worker still has after a recall: all of it has started."""
        member.recalled = True
        if not member.held:
            member.futile += 1
            return [self._give_up_on(member, now)] if member.futile >= FUTILE_MAX else self._settle(member)
        last = member.last
        member.packs = deque([last.ticket])
        for attempt in member.held.values():
            if attempt.wish is Disposition.RETURN:
                attempt.wish = Disposition.KEEP
        # Only the last can be running; those before it are done, and their results are on the way.
        if last.wish is Disposition.CANCEL and member.stopping != last.ticket:
            return [self._stop(member, last, Disposition.CANCEL, now)]
        return []

    def _stop(self, member: WorkerState, attempt: Attempt, wish: Disposition, now: float) -> Interrupt:
        attempt.wish = wish
        member.stopping, member.kill_at = attempt.ticket, now + self._grace_s
        return Interrupt(member.number, attempt.ticket)

    def _kill(self, member: WorkerState) -> Kill:
        for mate in self._crew.mates(member):
            mate.killed = True
        if member.process:
            self.process_ends(member.process)
        self._crew.idle.pop(member.number, None)
        return Kill(member.number)

    def _give_up_on(self, member: WorkerState, now: float) -> Kill:
        """Kill a worker for its own sake; nobody is to blame."""
        if self._limit.died(now):
            self._degrade_after_deaths(self._limit, "does not answer")
        member.stopping = 0
        return self._kill(member)

    def _start_one(self, now: float, *, host: bool = False, thread: bool = False) -> Start:
        if thread and not self._process:
            self._process = self._next_number()
        process = self._process if thread else 0
        number = self._next_number()
        left = math.inf if host or thread else self._tasks_max
        self._crew.add(WorkerState(number, now, host=host, process=process, left=left))
        if self._next_look is None:
            self._next_look = now + START_S
        return Start(number, process)

    def _next_number(self) -> int:
        number, self._next_worker = self._next_worker, self._next_worker + 1
        return number

    def _degrade_after_deaths(self, limit: RestartLimit, how: str) -> None:
        within = f" within {limit.within_s:g} s" if math.isfinite(limit.within_s) else " in a row"
        self._degrade(
            f"{limit.deaths + 1} workers ended{within} without a task to blame; the last one {how}. No more are started"
        )
        self.initializer_has_failed = limit is not self._limit

    def _degrade(self, why: str) -> None:
        self.degraded = True
        self.reports.degraded = why
        self._return_all()

    def _return_all(self) -> None:
        for queue in self._queues:
            for attempt in queue.clear():
                self._return(attempt)

    def _return(self, attempt: Attempt) -> None:
        self._forget(attempt)
        self.reports.returned.append(attempt.ref)

    def _suspect(self, attempt: Attempt) -> None:
        self._suspects[attempt.job, attempt.index] = None
        if len(self._suspects) > SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]

    def _finish_stopped(self, attempt: Attempt, member: WorkerState, elapsed_s: float) -> None:
        """End what was stopped: by its deadline, or cancelled."""
        if attempt.wish is Disposition.TIME_OUT:
            message = f"task {attempt.name} ran longer than its timeout of {attempt.timeout_s:g} s and was stopped"
            message += f" after {elapsed_s:.2f} s"
            self._finish_report(attempt, Status.TIMEOUT, message, member, elapsed_s)
        elif attempt.wish is Disposition.REFUSE:
            message = f"task {attempt.name} waits for tasks of its own, as {RESERVE_MAX} tasks of its slave do already"
            message += ": let fewer of them wait at once, or let a task return what is to be run next"
            body = _report(ErrorReport("TaskRefused", message, ""))
            self._finish(attempt, attempt.end(Status.ERROR, elapsed_s, member.pid, body))
        else:
            self._finish(attempt, attempt.end(Status.CANCELLED, elapsed_s, member.pid))

    def _finish_died(self, attempt: Attempt, member: WorkerState, how: str, elapsed_s: float) -> None:
        message = f"worker {member.pid} {member.how or how} while it ran task {attempt.name}"
        if member.is_broken:
            message = f"worker {member.pid} {member.how}; it had task {attempt.name}"
        self._finish_report(attempt, Status.DIED, message, member, elapsed_s)

    def _finish_report(
        self, attempt: Attempt, status: Status, message: str, member: WorkerState, elapsed_s: float
    ) -> None:
        body = _report(ErrorReport("", message, ""))
        self._finish(attempt, attempt.end(status, elapsed_s, member.pid, body))

    def _finish(self, attempt: Attempt, frame: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Report an attempt's end, once."""
        self._forget(attempt)
        if attempt.suspect and frame.status != Status.DIED:
            self._suspects.pop((attempt.job, attempt.index), None)
        self.reports.ended(attempt.job, frame, buffers)

    def _forget(self, attempt: Attempt) -> None:
        del self._attempts[attempt.ticket]
        del self._tickets[attempt.job, attempt.index, attempt.number]


def _is_older(one: AttemptQueue, other: AttemptQueue) -> bool:
    """Say whether the first of one queue came before the first of the other."""
    return one.first().ticket < other.first().ticket
