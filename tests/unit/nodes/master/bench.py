"""A master on a bench: its core, the other ends of its links, and a clock that stands still."""

from collections import defaultdict
from collections.abc import Sequence

from concurrent_nb.ids import SessionId, digest_of
from concurrent_nb.nodes.common.shared_memory_link import PeerSegments
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers
from concurrent_nb.wire.session import Session

ALICE, BOB, EAST = SessionId(b"alice's session."), SessionId(b"bob's session..."), SessionId(b"east's session..")
KEYS = {ALICE: b"alice's key", BOB: b"bob's key", EAST: b"east's key"}
JOB = b"j" * 16


class Bench:
    """A master, and the other ends of the links of its peers."""

    def __init__(
        self, store: ObjectStore | None = None, shelf: PeerSegments | None = None, limits: Limits = DEFAULT
    ) -> None:
        self.core = MasterCore(
            7, Scheduler(PullRoundRobinStrategy()), Liveness(), reader=shelf, store=store, limits=limits
        )
        self.ends: dict[SessionId, Session] = {}
        self.now = 0.0

    def client(self, session: SessionId, comes_back: bool = True) -> None:
        self.core.add_client(session, KEYS[session], "somebody", self.now, comes_back)
        self.ends[session] = Session(7, "to_client")
        self.say(session)

    def slave(self, session: SessionId, slots: int = 1, *, shares_memory: bool = False) -> str:
        name = self.core.add_slave(session, KEYS[session], "east", slots, 100, self.now)
        self.ends[session] = Session(7, "to_slave")
        self.say(session, *([m.ShareMemory()] if shares_memory else []))
        return name

    def say(self, session: SessionId, *said: m.AnyMessage, buffers: Sequence[Buffers] = (), key: bytes = b"") -> None:
        end = self.ends[session]
        for message in said:
            end.send(message, buffers)
        for frames in end.flush(self.now) or [end.keepalive()]:
            self.core.received(session, key or KEYS[session], frames, self.now)

    def told(self, to: SessionId) -> list[m.AnyMessage]:
        """What the master tells a peer now. What it tells others is gone."""
        return self.told_all()[to]

    def told_all(self) -> defaultdict[SessionId, list[m.AnyMessage]]:
        """What the master tells each peer now."""
        heard: defaultdict[SessionId, list[m.AnyMessage]] = defaultdict(list)
        for session, frames in self.core.step(self.now):
            if session in self.ends:
                heard[session] += [item.message for item in self.ends[session].receive(frames, self.now)]
        return heard


def function(body: bytes = b"a pickled function") -> m.Function:
    return m.Function(digest_of(body), body)
