"""The simulator's nodes: the real cores and loops, on a simulated network, in virtual time.

    ApplicationActor: ClientLoop --link--> gate --> MasterActor: MasterLoop --> gate --link--> SlaveActor: SlaveLoop

An actor only waits, and acts on the verdicts of its loop, as the process of its node does with a poller. While a node
waits for an answer on the control channel it handles nothing else.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any, TypeVar

from concurrent_nb.errors import MasterUnreachable, ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.application import client_loop
from concurrent_nb.nodes.application import client_tasks as t
from concurrent_nb.nodes.application.client_loop import ClientLoop
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota
from concurrent_nb.nodes.common.registration import CALL_TIMEOUT_S
from concurrent_nb.nodes.common.session_loop import Verdict
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.loop import MasterLoop
from concurrent_nb.nodes.slave import process
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.nodes.slave.loop import SlaveLoop
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.wire.bound_tasks import ResultParts, bind
from concurrent_nb.wire.codec import move_long_body, pack_body
from concurrent_nb.wire.messages import TaskKind
from concurrent_nb.wire.session import Session
from tests.simulator.checkers import UNREGISTERED
from tests.simulator.network import SimulatedCall, SimulatedLink
from tests.simulator.plans import Violation, WantedTask
from tests.simulator.simulated_world import SimulatedWorld
from tests.simulator.virtual_clock import Action, Actor, Steps
from tests.simulator.virtual_workers import VirtualPool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SimulatedMembership:
    """A registration, as `nodes.common.registration.Membership`."""

    session_id: SessionId
    epoch: int
    name: str
    link: SimulatedLink


class CheckedMasterCore(MasterCore):
    """The real core; every session that it ends is checked."""

    world: SimulatedWorld

    def remove(
        self, session_id: SessionId, reason: str, now: float, linger_s: float = 0.0, *, left: bool = False
    ) -> bool:
        """End a session."""
        if (peer := self.peers.get(session_id)) is not None:
            self.world.trace("master", f"{peer.role} {peer.name} is removed: {reason}")
            self.world.checker.removed(peer.role, peer.name, reason)
        return super().remove(session_id, reason, now, linger_s, left=left)


class MasterActor(Actor):
    """One life of the master."""

    def __init__(self, world: SimulatedWorld, epoch: int, *, same_port: bool) -> None:
        super().__init__(world.clock, "master", world.settings.turn_s)
        self._world = world
        settings = world.settings
        scheduler = Scheduler(
            settings.strategy(),
            grace_s=settings.grace_s,
            deaths_allowed=settings.deaths_allowed,
            results_kept_bytes=settings.results_kept_bytes,
        )
        self.core = CheckedMasterCore(epoch, scheduler, Liveness(), kept_s=settings.kept_s)
        self.core.world = world
        gate = world.network.listen(self.wake, self._ask, same_port=same_port)
        self._loop: MasterLoop[SimulatedLink] = MasterLoop(self.core, gate, interval_s=1.0)
        self._turns = self._validate_at = 0
        self.begin(self._run())

    def crash(self, *, noticed: bool) -> None:
        """Crash, with everything in memory. `noticed`: its system closes the connections."""
        self._world.network.hang_up(noticed=noticed)
        self.end()

    def stop(self) -> None:
        """Stop the cluster, and inform all nodes."""
        self._loop.stop()
        self.end()
        # What was sent last still has a moment to leave, as in `transport.compute`.
        self.clock.after(0.2, lambda: self._world.network.hang_up(noticed=True))

    def register(self, role: str, key: bytes, name: str, **facts: Any) -> Callable[[float], tuple[SessionId, int, str]]:
        """Return a function that does what the methods register_client and register_slave do."""

        def registered(now: float) -> tuple[SessionId, int, str]:
            session_id = SessionId(b"s" + self._world.chance.randbytes(15))
            given = name
            if role == "client":
                self.core.add_client(session_id, key, name, now, **facts)
            else:
                given = self.core.add_slave(session_id, key, name, facts["slots"], facts["credit"], now)
            self._world.session_checker.watch(session_id, role)
            self._world.session_checker.listen(session_id, True, self.core.peers[session_id].session)
            return session_id, self.core.epoch, given

        return registered

    def _ask(self, call: SimulatedCall) -> None:
        self._loop.questions.append(call.ask)
        self.wake()

    def _run(self) -> Steps:
        while True:
            yield self.core.next_deadline(self.clock.now)
            self._take_turn(self.clock.now)

    def _take_turn(self, now: float) -> None:
        core = self.core
        self._loop.answer(now)
        self._loop.turn(True, now)
        self._turns += 1
        if self._turns >= self._validate_at:
            core.scheduler.validate()
            # Validation reads every task, so it is done less often where there are many.
            tasks = sum(len(job.tasks) for job in core.scheduler.jobs.values())
            self._validate_at = self._turns + self._world.settings.validate_each + tasks // 4


class Node(Actor):
    """What slaves and applications have in common: a host, a key, the control channel, a link."""

    def __init__(self, world: SimulatedWorld, role: str, name: str) -> None:
        super().__init__(world.clock, name, world.settings.turn_s)
        self.role = role
        self.host = world.network.host()
        self.key = f"key of {name}".encode()
        self.link: SimulatedLink | None = None
        self.session_id: SessionId | None = None  #: of its last session
        self._world = world

    def crash(self, *, noticed: bool) -> None:
        """Crash. `noticed`: its system closes the connection, because only the process has died."""
        if self.link is not None:
            self.link.close() if noticed else self.link.vanish()
        self.end()

    def _call(self, question: Callable[[float], T]) -> Generator[float, None, T]:
        """Ask the master; raises MasterUnreachable."""
        call = self._world.network.call(self.host, question, self.wake)
        deadline = self.clock.now + CALL_TIMEOUT_S
        while not call.done and self.clock.now < deadline:
            yield deadline
        answer: T = call.result()
        return answer

    def _register(self, **facts: Any) -> Generator[float, None, SimulatedMembership]:
        """Register with the master that runs when the call arrives. Raises MasterUnreachable."""

        def question(now: float) -> tuple[SessionId, int, str]:
            return self._world.master.register(self.role, self.key, self.name, **facts)(now)

        session_id, epoch, given = yield from self._call(question)
        self._world.trace(self.name, f"has registered as {given} in epoch {epoch}")
        return SimulatedMembership(
            session_id, epoch, given, self._world.network.connect(self.host, session_id, self.key, self.wake)
        )

    def _still_known(self, member: SimulatedMembership) -> Generator[float, None, bool]:
        return (yield from self._call(lambda now: self._world.master.core.heartbeat(member.session_id, now)))

    def _leave(self, member: SimulatedMembership) -> Generator[float, None, None]:
        with suppress(MasterUnreachable):
            yield from self._call(lambda now: self._leaves(member, now))
        member.link.close()

    def _leaves(self, member: SimulatedMembership, now: float) -> bool:
        return self._world.master.core.remove(member.session_id, UNREGISTERED, now, left=True)

    def _follow_session(self, member: SimulatedMembership, session: Session) -> None:
        self.link, self.session_id = member.link, member.session_id
        self._world.session_checker.listen(member.session_id, False, session)

    def _broken(self, error: Exception, session: Session) -> None:
        """Raise unless a node's session has failed because the master is another one by now."""
        if not isinstance(error, ProtocolError):
            raise error
        if session.epoch == self._world.master.core.epoch:
            raise Violation(f"{self.name} ended its session: {error}") from error


class SlaveActor(Node):
    """A slave and its pool of workers."""

    def __init__(self, world: SimulatedWorld, name: str, slots: int, credit: int) -> None:
        super().__init__(world, "slave", name)
        self.slots = slots
        self.credit = credit
        self.pool = VirtualPool(world.clock, world.chance, world.catalog, name, slots, self.wake, self._killed)
        self.core: SlaveCore | None = None
        self.leaving = False  #: it unregisters after this turn
        self.is_drained = False  #: it was asked to leave in its last session, so it does not look for a master again
        world.checker.fewest_slots = min(world.checker.fewest_slots, slots)
        self.begin(self._run())

    def crash(self, *, noticed: bool) -> None:
        """Crash, with all workers."""
        super().crash(noticed=noticed)
        self.pool.stop()

    def _killed(self) -> None:
        """Crash, killed by a task."""
        if self.alive:
            self._world.slave_killed(self)

    def leave(self) -> None:
        """Unregister after the current turn: what runs here runs elsewhere."""
        self.leaving = True
        self.wake()

    def resize(self, slots: int, credit: int) -> None:
        """Offer other numbers from now on, in this session."""
        if self.core is not None:
            self._world.checker.fewest_slots = min(self._world.checker.fewest_slots, slots or inf)
            self.pool.credit = max(self.pool.credit, credit)
            self.core.resize(slots, credit)
            self.wake()

    def _run(self) -> Steps:
        member = yield from self._join()
        again = True
        while again:
            again = (yield from self._serve(member)) and not self.is_drained
            if again:
                member = yield from self._join()

    def _join(self) -> Generator[float, None, SimulatedMembership]:
        while True:
            try:
                return (yield from self._register(slots=self.slots, credit=self.credit))
            except MasterUnreachable:
                yield self.clock.now + process.RETRY_S

    def _serve(self, member: SimulatedMembership) -> Generator[float, None, bool]:
        """Serve in one session. True to search for a master again."""
        core = self.core = SlaveCore(member.name, member.epoch, self.pool, interval_s=1.0)
        self._follow_session(member, core.session)
        self.pool.credit = self.credit
        loop = SlaveLoop(
            core,
            self.pool,
            self.pool.turn,
            member.link,
            self._world.settings.silence_s,
            self.credit // self.slots,
            self.slots,
            self.clock.now,
        )
        try:
            while not self.leaving:
                yield loop.next_deadline()
                verdict = loop.turn({}, member.link.disturbed(), self.clock.now)
                if core.closed_by_master is not None:
                    self._world.trace(self.name, f"its session is over: {core.closed_by_master}")
                if verdict is Verdict.REJOIN:
                    return True
                if verdict is Verdict.END:
                    return False
                if verdict is Verdict.LEAVE:
                    self.leaving = True
                elif verdict is Verdict.ASK:
                    if not (yield from self._still_known(member)):
                        return True
                    loop.confirmed(self.clock.now)
            self.pool.reset()
            yield from self._leave(member)
        except MasterUnreachable:
            return True
        except ProtocolError as error:
            self._broken(error, core.session)
            return True
        finally:
            self.core = None
            self.is_drained = loop.is_draining
            self.pool.reset()
            member.link.close()
        return False


class ApplicationActor(Node):
    """An application; `users` decides what its user does."""

    def __init__(self, world: SimulatedWorld, name: str) -> None:
        super().__init__(world, "client", name)
        self.core: ClientCore[WantedTask] = ClientCore(interval_s=1.0)
        self._loop = ClientLoop(self.core, self._take_news, "simulated")
        chance = Random(
            f"limits of {name}: {world.settings}"
        )  # a generator of its own: the history stays the same without limits
        few = Quota(tasks=chance.randint(1, 30), bytes=chance.randint(2_000, 10_000))
        self._quota = few if chance.random() < 0.4 else UNLIMITED
        self.broken = False  #: the master was gone for too long
        self.leaving = False  #: leave when no task is open
        self.gone = False  #: it has left
        self.is_seen_ended = False  #: the master's host reports that its process has ended
        self._inbox: deque[Action] = deque()
        self._held: list[t.TaskEntry[WantedTask]] = []  # that wait for results
        self.kept: dict[WantedTask, t.ClientJob[WantedTask]] = {}  #: tasks whose results are kept in the cluster
        self.frees = False  #: nothing is kept any more
        self._asked: set[WantedTask] = set()  # those whose results were asked for
        self.begin(self._run())

    def post(self, what: Action) -> None:
        """Call something in its next turn."""
        self._inbox.append(what)
        self.wake()

    def crash(self, *, noticed: bool) -> None:
        """Crash; its tasks have no owner any more."""
        super().crash(noticed=noticed)
        self.is_seen_ended = noticed
        self._drop_all()

    @property
    def is_idle(self) -> bool:
        """Return whether it waits for nothing and has sent everything."""
        session = self.core.session
        quiet = session is None or not (session.in_flight or session.backlog)
        return not self.alive or (quiet and not self._inbox and not self.core.jobs)

    def _run(self) -> Steps:
        member: SimulatedMembership | None = None
        while member is None:
            try:
                member = yield from self._join()
            except MasterUnreachable:
                yield self.clock.now + client_loop.RETRY_S
        self._attach(member)
        while not (self.leaving and not self.core.has_entries() and not self._inbox):
            member = yield from self._turn(member)
            if member is None:
                return
        self._loop.acknowledge()
        yield from self._leave(member)
        self.gone = True

    def _join(self) -> Generator[float, None, SimulatedMembership]:
        return (yield from self._register(is_alive=lambda: not self.is_seen_ended, replaces=self.session_id))

    def _turn(self, member: SimulatedMembership) -> Generator[float, None, SimulatedMembership | None]:
        yield self.clock.now if self._inbox or self._held_due() else self.core.next_deadline()
        now = self.clock.now
        while self._inbox:
            self._inbox.popleft()()
        self._loop.receive(now)
        if self._loop.error is not None:
            assert self.core.session is not None
            self._broken(self._loop.error, self.core.session)
        for unsent in self.core.take_unsent():
            wanted, job = unsent.entry.handle, unsent.entry.job
            is_too_large = unsent.size_bytes and not wanted.inputs  # results that it needs may be large
            may_end = wanted.cancelled or job.until or job.stop_on_error or (unsent.size_bytes and wanted.inputs)
            if is_too_large or not may_end:
                raise Violation(f"{wanted.name} is not submitted, although it was not cancelled")
            wanted.dropped = True
        self._look_after_held()
        verdict = self._loop.send(member.link.disturbed(), now)
        self._held += self.core.take_held()
        return member if verdict is Verdict.STAY else (yield from self._look_for_master(member, verdict))

    def _note_kept(self, entry: t.TaskEntry[WantedTask]) -> None:
        wanted = entry.handle
        wanted.is_kept = True
        self.core.keep(entry.job)
        self.kept[wanted] = entry.job
        if self.frees:
            self.free(wanted)

    def free(self, wanted: WantedTask) -> None:
        """Have a kept result dropped."""
        wanted.lost = wanted.lost or not wanted.has_come
        wanted.is_kept = False
        self.core.free(self.kept.pop(wanted), wanted.index)

    def fetch(self, wanted: WantedTask) -> None:
        """Ask for a kept result, unless that was done."""
        if wanted not in self._asked:
            self._asked.add(wanted)
            job = self.kept[wanted]

            def fetched(news: t.ResultFetched | None) -> None:
                if news is not None and not wanted.lost:
                    self._world.checker.fetched(wanted, news)

            self.core.fetch(job, wanted.index, fetched)

    def _look_after_held(self) -> None:
        """Give held tasks the results that they need once they are here, or end them."""
        held, self._held = [*self._held, *self.core.take_held()], []
        for entry in held:
            inputs: Sequence[WantedTask] = entry.payload.inputs  # type: ignore[assignment]
            absent = [needed for needed in inputs if not self.core.is_unanswered(needed)]
            ended = [needed for needed in inputs if needed.over]
            away = [needed for needed in absent if needed.is_kept and not needed.has_come]
            for needed in away:
                self.fetch(needed)
            if any(needed.status not in SUCCESSES or needed.lost for needed in ended):
                if self.core.drop_held(entry):
                    self._world.checker.failed_here(entry.handle)
            elif all(needed.over for needed in absent) and not away:
                values = [ResultParts(it.job.id, it.index, *pack_body(it.value, ())) for it in ended]
                bound = bind(entry.payload.kind, entry.payload.body, entry.payload.sizes, entry.payload.buffers, values)
                left = tuple(needed for needed in inputs if not needed.over)
                payload = t.Payload(*move_long_body(*bound), None, int(TaskKind.BOUND), left)
                self.core.give(entry, payload)
            else:
                self._held.append(entry)

    def _take_news(self, envelope: Iterable[t.News[WantedTask]]) -> None:
        for news in envelope:
            if type(news) is t.TaskEnded:
                self._loop.sessions_in_vain = 0
                self._world.trace(self.name, f"{news.entry.handle.name} is {news.frame.status}")
                self._world.checker.answered(news)
                if news.frame.status == Status.KEPT:
                    self._note_kept(news.entry)
            elif type(news) is t.ResultFetched:
                news.then(news)
            elif type(news) is t.TaskWrote:
                self._world.checker.wrote(news)
            elif type(news) is t.TaskRunning:
                news.entry.handle.seen_running = True
            else:
                raise Violation(f"{self.name} is informed of shared memory, and shares none: {news}")

    def _look_for_master(
        self, member: SimulatedMembership, verdict: Verdict
    ) -> Generator[float, None, SimulatedMembership | None]:
        loop = self._loop
        if verdict is not Verdict.END:
            verdict = loop.next_attempt(self.clock.now)
        while verdict is not Verdict.END:
            try:
                if verdict is Verdict.ASK and (yield from self._still_known(member)):
                    loop.confirmed(self.clock.now)
                    return member
                fresh = yield from self._join()
            except MasterUnreachable as error:
                loop.attempt_failed(str(error))
                yield self.clock.now + client_loop.RETRY_S
                verdict = loop.next_attempt(self.clock.now)
                continue
            member.link.close()
            self._attach(fresh)
            return fresh
        self._give_up(member)
        return None

    def _attach(self, member: SimulatedMembership) -> None:
        dropped = self._loop.attach(
            member.link, member.epoch, self._world.settings.silence_s, self.clock.now, quota=self._quota
        )
        assert self.core.session is not None
        self._follow_session(member, self.core.session)
        for entry in dropped:
            wanted = entry.handle
            if not wanted.cancelled:
                raise Violation(f"{wanted.name} is not submitted again, although it was not cancelled")
            wanted.dropped = True

    def _held_due(self) -> bool:
        """Return whether a held task has what it waits for."""
        return any(
            all(
                it.done() and (it.has_come or not it.is_kept)  # type: ignore[attr-defined]
                for it in entry.payload.inputs
                if not self.core.is_unanswered(it)
            )
            for entry in self._held
        )

    def _give_up(self, member: SimulatedMembership) -> None:
        if not self._world.checker.faults and self._world.master.alive:
            raise Violation(f"{self.name} gave up although there is no fault")
        self._world.trace(self.name, "gives up")
        self.broken = True
        member.link.close()
        self._drop_all()

    def _drop_all(self) -> None:
        for entry in self.core.drop_all():
            entry.handle.dropped = True
