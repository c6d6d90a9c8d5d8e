"""A master on a bench: its core, the other ends of its links, and a clock that stands still."""

from collections import defaultdict
from collections.abc import Sequence

from concurrent_nb.ids import SessionId, digest_of
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.nodes.common.shared_memory_link import PeerSegments
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.detached_jobs import DetachedLimits
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers
from concurrent_nb.wire.session import Session

ALICE, BOB, EAST = SessionId(b"alice's session."), SessionId(b"bob's session..."), SessionId(b"east's session..")
WEST = SessionId(b"west's session..")
KEYS = {ALICE: b"alice's key", BOB: b"bob's key", EAST: b"east's key", WEST: b"west's key"}
JOB = b"j" * 16


class Bench:
    """A master, and the other ends of the links of its peers."""

    def __init__(
        self,
        store: ObjectStore | None = None,
        reader: PeerSegments | None = None,
        limits: Limits = DEFAULT,
        detached: DetachedLimits | None = None,
        journal: JournalStore | None = None,
    ) -> None:
        self.core = MasterCore(
            7,
            Scheduler(PullRoundRobinStrategy()),
            Liveness(),
            reader=reader,
            store=store,
            limits=limits,
            detached=detached,
            journal=journal,
        )
        self.ends: dict[SessionId, Session] = {}
        self.now = 0.0

    def client(self, session: SessionId, comes_back: bool = True) -> None:
        self.core.add_client(session, KEYS[session], "somebody", self.now, comes_back)
        self.ends[session] = Session(7, "to_client")
        self.send(session)

    def slave(self, session: SessionId, slots: int = 1, *, shares_memory: bool = False) -> str:
        name = self.core.add_slave(session, KEYS[session], "east", slots, 100, self.now)
        self.ends[session] = Session(7, "to_slave")
        self.send(session, *([m.ShareMemory()] if shares_memory else []))
        return name

    def send(
        self, session: SessionId, *sent_messages: m.AnyMessage, buffers: Sequence[Buffers] = (), key: bytes = b""
    ) -> None:
        end = self.ends[session]
        for message in sent_messages:
            end.send(message, buffers)
        for frames in end.flush(self.now) or [end.heartbeat()]:
            self.core.received(session, key or KEYS[session], frames, self.now)

    def sent_to(self, to: SessionId) -> list[m.AnyMessage]:
        """The messages that the master sends to a peer now. Those to other peers are lost."""
        return self.all_sent()[to]

    def all_sent(self) -> defaultdict[SessionId, list[m.AnyMessage]]:
        """The messages that the master sends to each peer now."""
        received: defaultdict[SessionId, list[m.AnyMessage]] = defaultdict(list)
        for session, frames in self.core.step(self.now):
            if session in self.ends:
                received[session] += [item.message for item in self.ends[session].receive(frames, self.now)]
        return received


def with_two_clients(slots: int) -> Bench:
    """Return a master with the applications of Alice and Bob, and one slave of some slots."""
    bench = Bench()
    bench.client(ALICE)
    bench.client(BOB)
    bench.slave(EAST, slots=slots)
    return bench


def function(body: bytes = b"a pickled function") -> m.Function:
    return m.Function(digest_of(body), body)
