"""A crew of virtual workers: the real books of `workers.slave_side.pool`, obeyed in virtual time.

    SlaveCore --assign, withdraw--> VirtualCrew -- Books (real) --Give, Recall, Interrupt, Kill--> VirtualWorker
                                        ^----------------- facts: ready, results, died ----------------'

Implements `nodes.slave_core.Crew`. What a task does when it runs is asked of `Deeds`. Facts gather until `turn`, as
they wait in sockets and pipes while a slave is busy or frozen. No processes, and nothing of a task's code.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.slave_state import is_host, is_wide
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, pack_body, unpack_body
from concurrent_nb.workers.protocol.records import Result
from concurrent_nb.workers.slave_side.attempts import (
    Attempt,
    Command,
    Dismiss,
    GiveTasks,
    Interrupt,
    Kill,
    PoolReports,
    Recall,
    Start,
)
from concurrent_nb.workers.slave_side.pool_scheduler import LOOK_S, PoolScheduler
from tests.simulator.agenda import Action, Agenda
from tests.simulator.judge import check_references
from tests.simulator.plans import Deed, Deeds, Violation
from tests.unshared_pool import UnsharedPool, travelled

#: a worker needs so long to start, at most
START_S: Final = 0.3
#: what an interrupt, or a kill, takes to end a task, at most
STOP_S: Final = 0.01
#: results are kept back at most so long while there is more to run
FLUSH_S: Final = 0.001
#: the pages of busy workers are looked at ever less often while nothing happens, but at least every so many seconds
LOOK_AT_LEAST_S: Final = 0.5

#: something that has happened to a worker: told to the books, which say what is to be done
Fact = Callable[[float], list[Command]]


class VirtualWorker:
    """A worker: runs what it is given, one after another."""

    def __init__(self, crew: "VirtualPool", number: int, process: int) -> None:
        self.number = number
        self.process = process  #: it is a thread of this one; 0: it has one of its own
        self.queue: deque[tuple[Attempt, bytes]] = deque()  #: with the function
        self.ticket = 0  #: what its page shows
        self.started_at = 0.0
        self.alive = True
        self.attempt: Attempt | None = None  #: what it runs
        self.to_stop = 0  #: ticket that is to be stopped
        self._crew = crew
        self._deed: Deed | None = None
        self._unsent: list[tuple[Result, Buffers]] = []

    def give(self, function: bytes, attempts: Sequence[Attempt]) -> None:
        """Take tasks of a function."""
        self.queue.extend((attempt, function) for attempt in attempts)
        if self._deed is None:
            self._next()

    def recall(self) -> int:
        """Give back what has not begun; return how many."""
        count = len(self.queue)
        self.queue.clear()
        return count

    def interrupt(self, ticket: int) -> None:
        """Stop a task, unless it is over or does not care."""
        self.to_stop = ticket
        deed = self._deed
        if deed is not None and self.ticket == ticket and not deed.wanted.plan.stubborn:
            self._crew.agenda.after(self._crew.moment_s(STOP_S), lambda: self._stopped(deed))

    def mortal_in_s(self) -> float:
        """Return how long it will take to kill it."""
        stuck_until_s = self.started_at + (self._deed.wanted.plan.stuck_s if self._deed else 0.0)
        return max(stuck_until_s - self._crew.agenda.now, self._crew.moment_s(STOP_S))

    def die(self, how: str) -> None:
        """Die, with all threads of its process."""
        if not self.alive:
            return
        books, process = self._crew.books, self.process

        def tell_of_process(now: float) -> list[Command]:
            books.process_ends(process)
            return []

        mates = self._crew.mates(self)
        if process:
            self._crew.tell(tell_of_process)
        pages = {worker.number: worker.end() for worker in mates}
        if process:
            self._crew.tell(lambda now: books.process_died(how, pages, list(pages), now))
        else:
            ((number, page),) = pages.items()
            self._crew.tell(lambda now: books.worker_died(number, how, *page, now))

    def end(self) -> tuple[int, float]:
        """Be dead; results that were kept back are found in the page. Give what it shows: what ran, since when."""
        self.alive = False
        self._deed = None
        self.flush()
        return self.ticket, self.started_at

    def flush(self) -> None:
        """Send the results that were kept back."""
        if self._unsent:
            results = [result for result, _ in self._unsent]
            buffers = [buffer for _, own in self._unsent for buffer in own]
            self._unsent = []
            self._crew.tell(lambda now: self._crew.books.outcomes(self.number, results, buffers, now))

    def _next(self) -> None:
        """Begin the next task; those that take no time are over at once."""
        crew = self._crew
        while self.queue:
            attempt, function = self.queue.popleft()
            self.attempt, self.ticket, self.started_at = attempt, attempt.ticket, crew.agenda.now
            deed = self._deed = crew.begin(attempt, function)
            if self.to_stop == attempt.ticket:
                self._answer(deed, Status.CANCELLED)
                continue
            if deed.run_s is None:
                return
            if deed.run_s > 0:
                crew.agenda.after(deed.run_s, lambda deed=deed: self._over(deed))  # type: ignore[misc]
                return
            if not self._finish(deed):
                return
        self._deed, self.attempt, self.ticket = None, None, 0
        self.flush()

    def _over(self, deed: Deed) -> None:
        if self._deed is deed and self.alive and self._finish(deed):
            self._next()

    def _stopped(self, deed: Deed) -> None:
        if self._deed is deed and self.alive:
            self._answer(deed, Status.CANCELLED)
            self._next()

    def _finish(self, deed: Deed) -> bool:
        """End a run as it has to end; False if the worker is dead then."""
        deed.done()
        if deed.kills_slave:
            self.alive = False
            self._crew.killed()
            return False
        if deed.status is Status.DIED:
            self.die("died of SIGSEGV")
            return False
        self._answer(deed, deed.status)
        return True

    def _answer(self, deed: Deed, status: Status) -> None:
        body, sizes, buffers = pack_body(b"" if status is Status.CANCELLED else deed.value, ())
        elapsed_s = self._crew.agenda.now - self.started_at
        self._unsent.append((Result(self.ticket, status, elapsed_s, body, sizes), buffers))
        self._deed, self.attempt, self.ticket = None, None, 0
        if elapsed_s >= FLUSH_S:
            self.flush()


class VirtualPool(UnsharedPool):
    """The workers of one slave."""

    def __init__(
        self,
        agenda: Agenda,
        chance: random.Random,
        deeds: Deeds,
        name: str,
        slots: int,
        wake: Action,
        killed: Action,
    ) -> None:
        self.agenda = agenda
        self.books = PoolScheduler(slots)
        self.credit = slots  #: most attempts that its slave has ever offered to take in its session
        self.functions: dict[bytes, bytes] = {}
        self._chance = chance
        self._deeds = deeds
        self._name = name
        self._wake = wake
        self._killed = killed
        self._workers: dict[int, VirtualWorker] = {}
        self._open: set[tuple[bytes, int, int]] = set()  # assigned and not reported yet
        self._on_top: set[tuple[bytes, int, int]] = set()  # of these, and older ones: they do not count as credit
        self._facts: deque[Fact] = deque()
        self._output: list[tuple[m.TaskRef, int, bytes]] = []
        self.broken = False  #: no worker gets as far as its first task
        self._look_at = 0.0
        self._look_after_s = LOOK_S
        self._obey(self.books.start(agenda.now))

    # ---------------------------------------------------------------------------------------- what SlaveCore asks for

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a pickled function."""
        self.functions[digest] = bytes(unpack_body(body, travelled(buffers))[0])

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            if self.functions.pop(digest, None) is None:
                raise Violation(f"slave {self._name} is to drop function {digest.hex()[:8]}, which it does not have")
        self.books.forgotten(digests)

    def assign(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        tasks: Sequence[m.TaskFrame],
        buffers: ItemBuffers,
        now: float,
        needs: m.Needs | None = None,
    ) -> None:
        """Take a run of attempts in, and check that it is one that may come."""
        if function not in self.functions:
            raise Violation(f"slave {self._name} lacks function {function.hex()[:8]} of what it is assigned")
        keys = {(job, frame.index, frame.attempt) for frame in tasks}
        if len(keys) < len(tasks) or keys & self._open:
            raise Violation(f"slave {self._name} is assigned an attempt twice, of job {job.hex()[:4]}")
        self._open |= keys
        if is_host(needs) or is_wide(needs):
            self._on_top |= keys
        elif len(self._open - self._on_top) > self.credit:
            raise Violation(f"slave {self._name} has {len(self._open)} attempts, its credit is {self.credit}")
        self._obey(self.books.assigned(job, function, timeout_s, tasks, buffers, now, needs))

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Give back what has not started; with `stop`, stop what has."""
        self._obey(self.books.withdrawn(tasks, stop, now))

    def renew(self, now: float, *, stop: bool) -> None:
        """Have fresh workers."""
        self._obey(self.books.renewed(now, stop=stop))

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return self.books.outdated

    def take_reports(self) -> PoolReports:
        """Give what has happened, and check that it is about what was assigned, each attempt once."""
        reports = self.books.take_reports()
        reports.output, self._output = self._output, []
        for job, frames, _ in reports.outcomes:
            refs = [m.TaskRef(job, frame.index, frame.attempt) for frame in frames]
            check_references(f"slave {self._name}", refs, self._open)
        check_references(f"slave {self._name}", reports.returned, self._open)
        if reports.degraded and not self.broken:
            raise Violation(f"slave {self._name} gives up: {reports.degraded}")
        return reports

    # ------------------------------------------------------------------------------------------ what the slave asks for

    def next_deadline(self) -> float:
        """Say when `turn` is to be called at the latest."""
        due = self.books.next_deadline()
        return float("inf") if due is None else max(due, self._look_at)

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once."""
        return self.books.usable_slots

    def drain(self, now: float) -> None:
        """Return what has not started, now and from now on."""
        self._obey(self.books.drained())

    def turn(self, ready: Mapping[int, int], now: float) -> None:
        """Take in what has happened to workers, and look at those that are busy."""
        if self._facts:
            self._look_after_s = LOOK_S
            self._look_at = now + LOOK_S
        while self._facts:
            self._obey(self._facts.popleft()(now))
        if now >= self._look_at:
            self._look_after_s = min(2 * self._look_after_s, LOOK_AT_LEAST_S)
            self._look_at = now + self._look_after_s
            for number in self.books.busy():
                worker = self._workers[number]
                worker.flush()
                self._obey(self.books.looked(number, worker.ticket, worker.started_at, False, now))
            self._obey(self.books.tick(now))

    def reset(self) -> None:
        """Forget everything that was assigned, functions too, and stop what runs."""
        self.drop_functions(list(self.functions))
        self._open.clear()
        self._on_top.clear()
        self._output.clear()
        self._obey(self.books.reset())

    @property
    def provided(self) -> bool:
        """Say whether every worker has something to run next."""
        return self.books.provided

    @property
    def unfinished(self) -> int:
        """Return how many attempts have not been reported."""
        return len(self._open)

    def killed(self) -> None:
        """Let the slave be gone at once: a task has killed it."""
        self.agenda.after(0.0, self._killed)  # and not now, in the middle of its turn

    def lose_a_worker(self) -> None:
        """Let a worker be killed by somebody else, whatever it does."""
        living = [worker for worker in self._workers.values() if worker.alive]
        if living:
            self._chance.choice(living).die("died of SIGKILL")

    def break_down(self) -> int:
        """Let all workers die, and all that are started from now on. Return how many have died."""
        self.broken = True
        living = [worker for worker in self._workers.values() if worker.alive]
        for worker in living:
            worker.die("died of SIGSEGV")
        return len(living)

    def stop(self) -> None:
        """Let all workers be gone: their slave has crashed."""
        for worker in self._workers.values():
            worker.alive = False

    # ------------------------------------------------------------------------------------------- what workers ask for

    def begin(self, attempt: Attempt, function: bytes) -> Deed:
        """Begin a run, and check that there is a slot for it."""
        running = [worker.attempt for worker in self._workers.values() if worker.alive and worker.attempt is not None]
        if (used := sum(map(self._width, running))) > self.books.slots:
            raise Violation(f"slave {self._name} uses {used} slots, it has {self.books.slots}")
        if (hosts := sum(is_host(other.needs) for other in running)) > m.HOSTS_MAX:
            raise Violation(f"slave {self._name} has {hosts} hosts, at most {m.HOSTS_MAX} are allowed")
        body = bytes(unpack_body(attempt.body, attempt.buffers)[0])
        deed = self._deeds.begin(function, body, self.agenda.now)
        for piece in range(1, deed.wanted.plan.writes + 1):
            self._output.append((attempt.ref, 1, f"{deed.wanted.name} {deed.run} {piece}".encode()))
        return deed

    def _width(self, attempt: Attempt) -> int:
        """Return how many slots an attempt takes."""
        if attempt.needs is None:
            return 1
        return 0 if is_host(attempt.needs) else min(attempt.needs.cores or self.books.slots, self.books.slots)

    def mates(self, worker: VirtualWorker) -> list[VirtualWorker]:
        """List the living that die with a worker."""
        if not worker.process:
            return [worker]
        return [other for other in self._workers.values() if other.alive and other.process == worker.process]

    def tell(self, fact: Fact) -> None:
        """Have the slave learn something in its next turn."""
        self._facts.append(fact)
        self._wake()

    def moment_s(self, most_s: float) -> float:
        """Draw a time of at most so many seconds."""
        return self._chance.uniform(0, most_s)

    def _obey(self, commands: Sequence[Command]) -> None:
        todo = deque(commands)
        while todo:
            command = todo.popleft()
            if isinstance(command, Start):
                self._start(command.worker, command.process)
                continue
            worker = self._workers[command.worker]
            if isinstance(command, GiveTasks):
                self._look_at = min(self._look_at, self.agenda.now + LOOK_S)
                if worker.alive:  # else its death is about to be told
                    worker.give(self.functions[command.function], command.attempts)
            elif isinstance(command, Recall):
                todo.extend(self.books.gave_back(worker.number, worker.recall(), self.agenda.now))
            elif isinstance(command, Interrupt):
                worker.interrupt(command.ticket)
            elif isinstance(command, Dismiss):
                self.agenda.after(self.moment_s(STOP_S), lambda worker=worker: worker.die("ended with exit code 0"))  # type: ignore[misc]
            elif isinstance(command, Kill):
                self.agenda.after(worker.mortal_in_s(), lambda worker=worker: worker.die("was killed"))  # type: ignore[misc]

    def _start(self, number: int, process: int) -> None:
        worker = self._workers[number] = VirtualWorker(self, number, process)

        def ready() -> None:
            if worker.alive and self.broken:
                worker.die("died of SIGSEGV")
            elif worker.alive:
                self.tell(lambda now: self.books.worker_ready(number, 1000 + number, now))

        self.agenda.after(self.moment_s(START_S), ready)
