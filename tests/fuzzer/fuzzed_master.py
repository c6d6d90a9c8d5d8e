"""A master with good peers, and one bad peer at a time: what it does is an `Act`, made from a seed of its own."""

import contextlib
import itertools
import os
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.core import MasterCore
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
from tests.fuzzer.odd import Known, Odd, buffers_of, item_buffers_of, members
from tests.fuzzer.reach import reach

EPOCH: Final = 7
SEGMENT_BYTES: Final = 64 * 1024
#: takes no memory, because nothing is written to it
SPARSE_BYTES: Final = 1 << 40
#: tasks of a good client in each sequence, before, between and after the acts of the bad one
TASKS: Final = 6
#: turns in which good tasks must have ended, a few of them for each task
TURNS_MAX: Final = 400
#: books that may hold old names, because they are bounded: entries that a heap skips, run times of functions, whom
#: lines of the log were about, and what the scheduler believes that slaves have (not so of tasks that were refused)
BOUNDED: Final = ("._heap[]", ".estimates._average_s", "._log._subjects", ".locations.")
#: what a session leaves is forgotten after so long
FORGOTTEN_S: Final = 20.0


class Wrong(Exception):
    """Something that must not be, whatever a bad peer does."""


class Rogue:
    """A registered peer that does as it likes. It numbers its envelopes itself."""

    def __init__(self, role: str, name: str, link: InMemoryClient, known: Known) -> None:
        self.role = role
        self.name = name
        self.link = link
        self.known = known
        self.over: str | None = None  #: why the master has ended the session
        self.assigned: set[tuple[bytes, int]] = set()
        self._seq = self._heard = 0
        self.fds: list[int] = []

    def envelope(
        self, *messages: Any, seq: int | None = None, ack: int | None = None, version: int = 0
    ) -> list[Buffer]:
        """Make an envelope, the next one unless told otherwise."""
        if seq is None:
            self._seq += 1
            seq = self._seq
        buffers = [buffer for message in messages for buffer in buffers_of(message)]
        own = self._heard if ack is None else ack
        return encode(Envelope(version or m.PROTOCOL_VERSION, EPOCH, seq, own, list(messages)), buffers)

    def envelopes(self, said: Sequence[Any], now: float) -> list[list[Buffer]]:
        """Make the next envelopes as a good peer does, which cuts what is large."""
        session = Session(EPOCH, f"to_{self.role}")
        session._last_seq, session._received_seq = self._seq, self._heard
        for message in said:
            buffers = item_buffers_of(message)
            session.send(message, buffers if any(buffers) else ())
        frames = session.flush(now)
        self._seq = session._last_seq
        return frames

    def hear(self) -> None:
        """Take what has come, and learn from it."""
        for frames in self.link.receive():
            with contextlib.suppress(ProtocolError):
                envelope, items = decode(frames, f"to_{self.role}")
                if envelope.seq:
                    self._heard = max(self._heard, envelope.seq)
                for item in items:
                    self._learn(item.message)

    def _learn(self, message: Any) -> None:
        if isinstance(message, m.Assign):
            self.known.refs += [m.TaskRef(message.job, task.index, task.attempt) for task in message.tasks]
            self.assigned |= {(message.job, task.index) for task in message.tasks}
            self.known.odd_slices += [size for task in message.tasks for size in task.sizes if isinstance(size, Slice)]
        elif isinstance(message, m.Outcomes):
            slices = [size for item in message.items for size in item.sizes if isinstance(size, Slice)]
            self.known.odd_slices += slices
        elif isinstance(message, m.Bye):
            self.over = message.reason

    def share(self, size: int, *, filled: bool) -> None:
        """Make shared memory of its own, and know slices of it."""
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
        """Give all descriptors back."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class FuzzedMaster:
    """A master, two good clients and two good slaves, of each one that shares memory and one that does not."""

    def __init__(self, seed: int) -> None:
        self.now = 100.0
        self.trace: list[str] = []
        self._numbers = itertools.count(1)
        self._ids = random.Random(seed)
        self.shelf, self.store = SegmentReader(), ObjectStore()
        scheduler = Scheduler(PullRoundRobinStrategy())
        self.core = MasterCore(EPOCH, scheduler, Liveness(), 1.0, self.shelf, self.store)
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
        self._work(TASKS)
        self._rest("before anything bad")

    def _session(self) -> SessionId:
        return SessionId(self._ids.randbytes(16))

    @staticmethod
    def _key(name: str) -> bytes:
        return name.replace(" ", "-").encode().ljust(40, b"x")

    def close(self) -> None:
        """Give all descriptors back."""
        for peer in self._peers:
            peer.close()
        self.shelf.close()
        self.store.close()

    @property
    def _peers(self) -> list[GoodClient | GoodSlave]:
        return [*self.clients, *self.slaves]

    # ------------------------------------------------------------------------------------------------- one sequence

    def play(self, role: str, seed: int, acts: Sequence[int]) -> None:
        """Have a bad peer of this role do something for each seed of `acts`. Raises Wrong, or what the core raises."""
        chance = random.Random(seed)
        rogue = self._join(role, chance)
        try:
            self._prelude(rogue, chance)
            self._work(chance.randint(0, TASKS))
            self._turn(rogue)
            for act in acts:
                self._act(rogue, random.Random(act))
                if rogue.over is not None:
                    break
            self._work(2)
            for _ in range(4):
                self._turn(rogue)
            self._leave(rogue)
        finally:
            rogue.close()
        self._rest("after it had gone")
        self._forget()
        self._check(rogue)

    def _join(self, role: str, chance: random.Random) -> Rogue:
        number = next(self._numbers)
        name = f"rogue{number}-{self._ids.randbytes(6).hex()}"
        key, session = self._key(name), self._session()
        known = Known(indexes=itertools.count())
        if role == "client":
            self.core.add_client(session, key, name, self.now, chance.random() < 0.5)
        else:
            self.core.add_slave(session, key, name, 2, 4, self.now)
        rogue = Rogue(role, name, self.gate.connect(session, key), known)
        self.session, self.key = session, key
        for size, filled in ((SEGMENT_BYTES, True), (SPARSE_BYTES, False)):
            if chance.random() < 0.8:
                rogue.share(size, filled=filled)
        known.add("job", self._ids.randbytes(16))
        known.add("job", self._ids.randbytes(16))
        body = b"f" + self._ids.randbytes(8)
        known.functions.append(_function(body))
        known.add("digest", known.functions[0].digest)
        known.others["job"] = [bytes(job.id) for job in self.core.scheduler.jobs.values()][:3]
        known.others["segment"] = [slice_.segment for client in self.clients for slice_ in client.slices()][:2]
        known.others["segment"] += list(self.shelf._opened)[:2]
        known.others["digest"] = [digest for client in self.clients for digest in client.digests][:3]
        known.odd_slices += [*self.clients[0].slices()[:2], Slice(self._ids.randbytes(16), 0, 100, 1)]
        return rogue

    def _prelude(self, rogue: Rogue, chance: random.Random) -> None:
        """Do first what every peer does, mostly."""
        said: list[Any] = [m.ShareMemory()] if chance.random() < 0.5 else []
        if chance.random() < 0.8:
            said += [m.Segment(*handle) for handle in rogue.known.handles]
        if rogue.role == "client" and chance.random() < 0.8:
            said += [m.OpenJob(rogue.known.own["job"][0], "bad", False, False), rogue.known.functions[0]]
        self._say(rogue, rogue.envelope(*said), said)

    def _act(self, rogue: Rogue, chance: random.Random) -> None:
        odd = Odd(chance, rogue.known)
        how = chance.random()
        if how < 0.15:
            said = odd.flow(client=rogue.role == "client")
            self._say(rogue, _encoded(rogue, said), said)
        elif how < 0.22:
            self._say_as_a_session_does(rogue, odd.flow(client=rogue.role == "client"), chance)
        elif how < 0.72:
            said = [self._message(rogue, odd) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
            self._say(rogue, _encoded(rogue, said), said)
        elif how < 0.80:
            said = [self._message(rogue, odd)]
            self._say(rogue, mutated(_encoded(rogue, said) or [b""], chance), ["mutated", *said])
        elif how < 0.86:
            said = [self._message(rogue, odd)]
            numbers = {"seq": chance.choice((0, 1, 2, 5, 100, 200, -1, 2**63)), "ack": chance.choice((0, 1, 2**40, -1))}
            with contextlib.suppress(OverflowError, TypeError, ValueError):
                self._say(rogue, rogue.envelope(*said, **numbers), [numbers, *said])
        elif how < 0.93:
            self._work(chance.randint(1, TASKS))
        elif how < 0.97:
            self.now += chance.choice((0.02, 0.5, 1.5, 2.5))
            self.trace.append(f"time goes on to {self.now:.2f}")
        else:
            return  # it says nothing for a turn
        if chance.random() < 0.7:
            self._turn(rogue)

    def _message(self, rogue: Rogue, odd: Odd) -> Any:
        kinds = members(m.FromClient if rogue.role == "client" else m.FromSlave)
        kinds = kinds if odd.chance.random() < 0.1 else tuple(kind for kind in kinds if kind is not m.Bye)
        if odd.chance.random() < 0.01:
            kinds = members(m.AnyMessage)
        return odd.message(odd.chance.choice(kinds))

    def _say(self, rogue: Rogue, frames: Sequence[Buffer] | None, said: Sequence[Any]) -> None:
        if frames is None:  # what no encoder takes cannot be sent either
            return
        self.trace.append(f"{rogue.role} says {', '.join(brief(message) for message in said)}")
        rogue.link.send(frames)
        self._turn(rogue)

    def _say_as_a_session_does(self, rogue: Rogue, said: Sequence[Any], chance: random.Random) -> None:
        """Say something in as many envelopes as it takes; sometimes not to its end."""
        frames = rogue.envelopes(said, self.now)
        if chance.random() < 0.3:
            del frames[chance.randrange(len(frames)) :]
        self.trace.append(f"{rogue.role} says, in {len(frames)} envelopes, {', '.join(map(brief, said))}")
        for each in frames:
            rogue.link.send(each)
        self._turn(rogue)

    def _leave(self, rogue: Rogue) -> None:
        self.core.remove(self.session, "it has unregistered", self.now)
        self._turn(rogue)
        rogue.link.close()

    # ------------------------------------------------------------------------------------------------------- time

    def _turn(self, rogue: Rogue | None = None) -> None:
        """Have everybody do what there is to do, once."""
        self.now += 0.003
        for session, key, frames in self.gate.receive():
            self.core.received(session, key, frames, self.now)
        for session, frames_out in self.core.step(self.now):
            if not self.gate.send(session, frames_out):
                self.core.unreachable(session, self.now)
        self.core.next_deadline(self.now)
        if rogue is not None:
            rogue.hear()
            for client in self.clients:
                client.excused |= rogue.assigned
        for peer in self._peers:
            peer.turn(self.now)

    def _work(self, count: int) -> None:
        for client in self.clients if count else ():
            client.submit(count)

    def _rest(self, when: str) -> None:
        """Let good tasks end, which they have to soon."""
        for turn in range(TURNS_MAX):
            if not any(client.open for client in self.clients):
                return
            self._turn()
            if turn % 40 == 39:
                self.now += 0.5
        left = {client.name: len(client.open) for client in self.clients}
        closed = {peer.name: peer.closed for peer in self._peers if peer.closed}
        raise Wrong(f"{when}: good tasks have not ended: {left}; sessions that are over: {closed}")

    def _forget(self) -> None:
        """Let so much time pass that whatever lingers is over."""
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

    def _check(self, rogue: Rogue) -> None:
        """Look whether everything is as if the bad peer had never been there."""
        wrong = [text for client in self.clients for text in client.wrong]
        for peer in self._peers:
            if peer.closed is not None:
                wrong.append(f"the session of {peer.name} was ended: {peer.closed}")
        if list(self.core.peers) != self.good:
            wrong.append(f"the master has {len(self.core.peers)} peers, not {len(self.good)}")
        self.core.scheduler.validate()
        self.core.status(self.now, sees_all=True)
        held, _ = reach(self.core, "core", self._names(rogue))
        kept = sorted({text for text in held if not any(book in text for book in BOUNDED)})
        wrong += [f"held: {text}" for text in kept[:8]]
        for slave in self.slaves:
            if slave.crew.waiting:
                wrong.append(f"{slave.name} still has {len(slave.crew.waiting)} tasks")
        if wrong:
            raise Wrong("; ".join(wrong))

    def _names(self, rogue: Rogue) -> dict[bytes, str]:
        """List what was the bad one's, and should be nowhere."""
        names = {bytes(self.session): "its session", self.key: "its key"}
        names |= dict.fromkeys(rogue.known.own.get("job", ()), "its job")
        names |= dict.fromkeys(rogue.known.own.get("segment", ()), "its segment")
        names |= dict.fromkeys(rogue.known.own.get("digest", ()), "its function")
        return names


def _function(body: bytes) -> m.Function:
    return m.Function(function_digest([body]), body)


def _encoded(rogue: Rogue, said: Sequence[Any]) -> list[Buffer] | None:
    """Encode an envelope; None for what msgpack cannot say."""
    try:
        return rogue.envelope(*said)
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        rogue._seq -= 1
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
    """Write a message for people, cut if it is long."""
    text = repr(message)
    return text if len(text) <= 700 else f"{text[:600]}... ({len(text)} characters)"
