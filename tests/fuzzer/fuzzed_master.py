"""A master with good peers, and one bad peer at a time, each of whose actions has a seed of its own."""

import contextlib
import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.detached_jobs import DetachedLimits
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.transport.in_memory import InMemoryClient, InMemoryServer
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, decode, encode, function_digest
from concurrent_nb.wire.messages import Slice
from concurrent_nb.wire.session import Session
from tests.fuzzer.good_peers import GoodClient, GoodSlave
from tests.fuzzer.message_generator import KnownNames, MessageGenerator, buffers_of, item_buffers_of, members
from tests.fuzzer.reachable_names import find_names

EPOCH: Final = 7
SEGMENT_BYTES: Final = 64 * 1024
#: uses no memory, because nothing is written to it
SPARSE_BYTES: Final = 1 << 40
#: tasks of a good client in each sequence, before, between and after the actions of the bad peer
TASKS: Final = 6
#: turns within which good tasks must end, a few for each task
TURNS_MAX: Final = 400
#: state that may hold old names, because it is bounded: entries that a heap skips, run times of functions, subjects of
#: the rate-limited log, the last tasks, events, jobs and graphs, why detached jobs were dropped, and objects that the
#: scheduler lists for slaves (but not of tasks that were refused)
BOUNDED: Final = (
    "._heap[]",
    ".estimates._average_s",
    "._log._subjects",
    ".task_log.",
    ".event_log.",
    ".ended_jobs",
    "measured._reports",
    ".locations.",
    ".graphs._graphs",
    "detached._gone",
)
#: the state of a session that is over is dropped within so many seconds
FORGOTTEN_S: Final = 20.0
#: detached jobs, which are cancelled when their application has gone, are dropped so many seconds after their end
DETACHED_S: Final = 1.0


class FuzzFailure(Exception):
    """Something that may not happen, whatever a bad peer does."""


@dataclass(eq=False)
class BadPeer:
    """A registered peer that keeps to no rule. It numbers its envelopes itself."""

    role: str
    name: str
    link: InMemoryClient
    known: KnownNames
    end_reason: str | None = None  #: why the master has ended the session
    assigned: set[tuple[bytes, int]] = field(default_factory=set)
    fds: list[int] = field(default_factory=list)
    _seq: int = 0
    _heard: int = 0

    def envelope(
        self, *messages: Any, seq: int | None = None, ack: int | None = None, version: int = 0
    ) -> list[Buffer]:
        """Return an envelope: the next one, unless `seq` is given."""
        if seq is None:
            self._seq += 1
            seq = self._seq
        buffers = [buffer for message in messages for buffer in buffers_of(message)]
        own = self._heard if ack is None else ack
        return encode(Envelope(version or m.PROTOCOL_VERSION, EPOCH, seq, own, list(messages)), buffers)

    def envelopes(self, messages: Sequence[Any], now: float) -> list[list[Buffer]]:
        """Return the next envelopes as a good peer makes them, who splits what is large."""
        session = Session(EPOCH, f"to_{self.role}")
        session._last_seq, session._received_seq = self._seq, self._heard
        for message in messages:
            buffers = item_buffers_of(message)
            session.send(message, buffers if any(buffers) else ())
        frames = session.flush(now)
        self._seq = session._last_seq
        return frames

    def receive(self) -> None:
        """Receive what has arrived, and note the names in it."""
        for frames in self.link.receive():
            with contextlib.suppress(ProtocolError):
                envelope, items = decode(frames, f"to_{self.role}")
                if envelope.seq:
                    self._heard = max(self._heard, envelope.seq)
                for item in items:
                    self._note_names(item.message)

    def _note_names(self, message: Any) -> None:
        if isinstance(message, m.Assign):
            self.known.refs += [m.TaskRef(message.job, task.index, task.attempt) for task in message.tasks]
            self.assigned |= {(message.job, task.index) for task in message.tasks}
            self.known.odd_slices += [size for task in message.tasks for size in task.sizes if isinstance(size, Slice)]
        elif isinstance(message, m.Outcomes):
            slices = [size for item in message.items for size in item.sizes if isinstance(size, Slice)]
            self.known.odd_slices += slices
        elif isinstance(message, m.Bye):
            self.end_reason = message.reason

    def share(self, size: int, *, filled: bool) -> None:
        """Create shared memory, and note slices of it."""
        handle = segments.create(size)
        self.fds.append(handle.fd)
        known, name = self.known, handle.segment
        known.handles.append((name, os.getpid(), handle.fd, size))
        known.add("segment", name)
        if filled:
            os.pwrite(handle.fd, b"s" * 8192, 0)
            known.slices += [Slice(name, 0, 64, 1), Slice(name, 4096, 4096, 2), Slice(name, 0, 64, 3)]
        known.odd_slices += [
            Slice(name, 0, size + 1, 4),
            Slice(name, size - 1, 2, 5),
            Slice(name, 2**63 - 1, 2**63 - 1, 6),
            Slice(name, 0, size, 7),
        ]

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class FuzzedMaster:
    """A master, two good clients and two good slaves; one of each shares memory."""

    def __init__(self, seed: int) -> None:
        self.now = 100.0
        self.trace: list[str] = []
        self._numbers = itertools.count(1)
        self._ids = random.Random(seed)
        self.reader, self.store = SegmentReader(), ObjectStore()
        scheduler = Scheduler(PullRoundRobinStrategy())
        detached = DetachedLimits(results_s=DETACHED_S)
        self.core = MasterCore(EPOCH, scheduler, Liveness(), 1.0, self.reader, self.store, detached=detached)
        self.gate = InMemoryServer()
        self.clients: list[GoodClient] = []
        self.slaves: list[GoodSlave] = []
        for shares in (True, False):
            session = self._session()
            self.core.add_client(session, self._key(f"good client {shares}"), f"client {shares}", self.now)
            link = self.gate.connect(session, self._key(f"good client {shares}"))
            self.clients.append(GoodClient(f"client {shares}", link, EPOCH, shares=shares))
            session = self._session()
            key = self._key(f"good slave {shares}")
            name = self.core.add_slave(session, key, f"slave {shares}", 2, 4, self.now)
            self.slaves.append(GoodSlave(name, self.gate.connect(session, key), EPOCH, shares=shares))
        self.good = list(self.core.peers)
        self._submit_good_tasks(TASKS)
        self._finish_tasks("before the bad peer")

    def _session(self) -> SessionId:
        return SessionId(self._ids.randbytes(16))

    @staticmethod
    def _key(name: str) -> bytes:
        return name.replace(" ", "-").encode().ljust(40, b"x")

    def close(self) -> None:
        """Close all descriptors."""
        for peer in self._peers:
            peer.close()
        self.reader.close()
        self.store.close()

    @property
    def _peers(self) -> list[GoodClient | GoodSlave]:
        return [*self.clients, *self.slaves]

    # ------------------------------------------------------------------------------------------------- one sequence

    def run_sequence(self, role: str, seed: int, actions: Sequence[int]) -> None:
        """Run a bad peer of this role for these actions. Raises FuzzFailure, or an exception of the core."""
        chance = random.Random(seed)
        bad = self._join(role, chance)
        try:
            self._prelude(bad, chance)
            self._submit_good_tasks(chance.randint(0, TASKS))
            self._turn(bad)
            for action in actions:
                self._do_action(bad, random.Random(action))
                if bad.end_reason is not None:
                    break
            self._submit_good_tasks(2)
            for _ in range(4):
                self._turn(bad)
            self._leave(bad)
        finally:
            bad.close()
        self._finish_tasks("after the bad peer has left")
        self._expire_sessions()
        self._check(bad)

    def _join(self, role: str, chance: random.Random) -> BadPeer:
        number = next(self._numbers)
        name = f"bad peer {number}-{self._ids.randbytes(6).hex()}"
        key, session = self._key(name), self._session()
        known = KnownNames(indexes=itertools.count())
        if role == "client":
            self.core.add_client(session, key, name, self.now, chance.random() < 0.5)
        else:
            self.core.add_slave(session, key, name, 2, 4, self.now)
        bad = BadPeer(role, name, self.gate.connect(session, key), known)
        self.session, self.key = session, key
        for size, filled in ((SEGMENT_BYTES, True), (SPARSE_BYTES, False)):
            if chance.random() < 0.8:
                bad.share(size, filled=filled)
        known.add("job", self._ids.randbytes(16))
        known.add("job", self._ids.randbytes(16))
        body = b"f" + self._ids.randbytes(8)
        known.functions.append(_function(body))
        known.add("digest", known.functions[0].digest)
        known.others["job"] = [bytes(job.id) for job in self.core.scheduler.jobs.values()][:3]
        known.others["segment"] = [slice_.segment for client in self.clients for slice_ in client.slices()][:2]
        known.others["segment"] += list(self.reader._opened)[:2]
        known.others["digest"] = [digest for client in self.clients for digest in client.digests][:3]
        known.odd_slices += [*self.clients[0].slices()[:2], Slice(self._ids.randbytes(16), 0, 100, 1)]
        return bad

    def _prelude(self, bad: BadPeer, chance: random.Random) -> None:
        """Send what most peers send first."""
        messages: list[Any] = [m.ShareMemory()] if chance.random() < 0.5 else []
        if chance.random() < 0.8:
            messages += [m.Segment(*handle) for handle in bad.known.handles]
        if bad.role == "client" and chance.random() < 0.8:
            messages += [m.OpenJob(bad.known.own["job"][0], "bad", False, False), bad.known.functions[0]]
        self._send(bad, bad.envelope(*messages), messages)

    def _do_action(self, bad: BadPeer, chance: random.Random) -> None:
        generator = MessageGenerator(chance, bad.known)
        how = chance.random()
        if how < 0.15:
            messages = generator.flow(client=bad.role == "client")
            self._send(bad, _encoded(bad, messages), messages)
        elif how < 0.22:
            self._send_as_session(bad, generator.flow(client=bad.role == "client"), chance)
        elif how < 0.72:
            messages = [self._message(bad, generator) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
            self._send(bad, _encoded(bad, messages), messages)
        elif how < 0.80:
            messages = [self._message(bad, generator)]
            self._send(bad, mutated(_encoded(bad, messages) or [b""], chance), ["mutated", *messages])
        elif how < 0.86:
            messages = [self._message(bad, generator)]
            numbers = {"seq": chance.choice((0, 1, 2, 5, 100, 200, -1, 2**63)), "ack": chance.choice((0, 1, 2**40, -1))}
            with contextlib.suppress(OverflowError, TypeError, ValueError):
                self._send(bad, bad.envelope(*messages, **numbers), [numbers, *messages])
        elif how < 0.93:
            self._submit_good_tasks(chance.randint(1, TASKS))
        elif how < 0.97:
            self.now += chance.choice((0.02, 0.5, 1.5, 2.5))
            self.trace.append(f"time is now {self.now:.2f}")
        else:
            return  # it sends nothing for a turn
        if chance.random() < 0.7:
            self._turn(bad)

    def _message(self, bad: BadPeer, generator: MessageGenerator) -> Any:
        kinds = members(m.FromClient if bad.role == "client" else m.FromSlave)
        kinds = kinds if generator.chance.random() < 0.1 else tuple(kind for kind in kinds if kind is not m.Bye)
        if generator.chance.random() < 0.01:
            kinds = members(m.AnyMessage)
        return generator.message(generator.chance.choice(kinds))

    def _send(self, bad: BadPeer, frames: Sequence[Buffer] | None, messages: Sequence[Any]) -> None:
        if frames is None:  # what cannot be encoded cannot be sent
            return
        self.trace.append(f"{bad.role} sends {', '.join(brief(message) for message in messages)}")
        bad.link.send(frames)
        self._turn(bad)

    def _send_as_session(self, bad: BadPeer, messages: Sequence[Any], chance: random.Random) -> None:
        """Send messages in as many envelopes as they need; sometimes not all of these."""
        frames = bad.envelopes(messages, self.now)
        if chance.random() < 0.3:
            del frames[chance.randrange(len(frames)) :]
        self.trace.append(f"{bad.role} sends, in {len(frames)} envelopes, {', '.join(map(brief, messages))}")
        for each in frames:
            bad.link.send(each)
        self._turn(bad)

    def _leave(self, bad: BadPeer) -> None:
        self.core.remove(self.session, "it has unregistered", self.now)
        self._turn(bad)
        bad.link.close()

    # ------------------------------------------------------------------------------------------------------- time

    def _turn(self, bad: BadPeer | None = None) -> None:
        """Let the master and all peers take one turn."""
        self.now += 0.003
        for session, key, frames in self.gate.receive():
            self.core.received(session, key, frames, self.now)
        for session, frames_out in self.core.step(self.now):
            if not self.gate.send(session, frames_out):
                self.core.unreachable(session, self.now)
        self.core.next_deadline(self.now)
        if bad is not None:
            bad.receive()
            for client in self.clients:
                client.excused |= bad.assigned
        for peer in self._peers:
            peer.turn(self.now)

    def _submit_good_tasks(self, count: int) -> None:
        for client in self.clients if count else ():
            client.submit(count)

    def _finish_tasks(self, when: str) -> None:
        """Take turns until all good tasks have ended. Raises FuzzFailure if that takes too long."""
        for turn in range(TURNS_MAX):
            if not any(client.open for client in self.clients):
                return
            self._turn()
            if turn % 40 == 39:
                self.now += 0.5
        left = {client.name: len(client.open) for client in self.clients}
        closed = {peer.name: peer.closed for peer in self._peers if peer.closed}
        raise FuzzFailure(f"{when}: good tasks have not ended: {left}; sessions that are over: {closed}")

    def _expire_sessions(self) -> None:
        """Let the time pass after which the state of ended sessions is dropped."""
        for job in list(self.core.detached.jobs):
            if job in self.core.scheduler.jobs:
                self.core.requests.cancel(job, None, None, self.now)
        until = self.now + FORGOTTEN_S
        while self.now < until:
            self.now += 0.9
            for _ in range(2):
                self._turn()
        for _ in range(60):
            if not any(peer.session.in_flight or peer.session.backlog for peer in self.core.peers.values()):
                break
            self._turn()

    # ------------------------------------------------------------------------------------------------------ checks

    def _check(self, bad: BadPeer) -> None:
        """Check that the master is in the state in which it was without the bad peer."""
        wrong = [text for client in self.clients for text in client.wrong]
        for peer in self._peers:
            if peer.closed is not None:
                wrong.append(f"the session of {peer.name} was ended: {peer.closed}")
        if list(self.core.peers) != self.good:
            wrong.append(f"the master has {len(self.core.peers)} peers, not {len(self.good)}")
        self.core.scheduler.validate()
        self.core.status(self.now, sees_all=True)
        held, _ = find_names(self.core, "core", self._names(bad))
        kept = sorted({text for text in held if not any(state in text for state in BOUNDED)})
        wrong += [f"held: {text}" for text in kept[:8]]
        for slave in self.slaves:
            if slave.pool.waiting:
                wrong.append(f"{slave.name} still has {len(slave.pool.waiting)} tasks")
        if wrong:
            raise FuzzFailure("; ".join(wrong))

    def _names(self, bad: BadPeer) -> dict[bytes, str]:
        """Return the names of the bad peer, which the core may not hold."""
        names = {bytes(self.session): "its session", self.key: "its key"}
        names |= dict.fromkeys(bad.known.own.get("job", ()), "its job")
        names |= dict.fromkeys(bad.known.own.get("segment", ()), "its segment")
        names |= dict.fromkeys(bad.known.own.get("digest", ()), "its function")
        return names


def _function(body: bytes) -> m.Function:
    return m.Function(function_digest([body]), body)


def _encoded(bad: BadPeer, messages: Sequence[Any]) -> list[Buffer] | None:
    """Return an encoded envelope; None if msgpack cannot encode it."""
    try:
        return bad.envelope(*messages)
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        bad._seq -= 1
        return None


def mutated(frames: Sequence[Buffer], chance: random.Random) -> list[Buffer]:
    """Change a few bytes of an envelope, or its frames."""
    out: list[Buffer] = [bytearray(frame) for frame in frames]
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        at = chance.randrange(len(out))
        frame = out[at] = bytearray(out[at])
        where = chance.randrange(len(frame) + 1)
        how = chance.randrange(8)
        if how < 4 and where < len(frame):
            frame[where] = chance.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xCF, 0xDD, 0xDF, 0xFF, chance.randrange(256)))
        elif how == 4:
            frame[where:where] = chance.randbytes(chance.choice((1, 8, 100)))
        elif how == 5:
            del frame[where : where + chance.choice((1, 8, 100))]
        elif how == 6:
            out.insert(at, bytes(frame))
        elif len(out) > 1:
            out.pop(at)
    return out


def brief(message: Any) -> str:
    """Return a message as text, cut if it is long."""
    text = repr(message)
    return text if len(text) <= 700 else f"{text[:600]}... ({len(text)} characters)"
