"""What a master does in each turn of its compute thread, without sockets, threads and clocks.

    other threads' questions, envelopes, lost connections -> MasterLoop.turn: MasterCore -> envelopes

Called by `process`, which waits with a poller, and by the simulator, which waits in virtual time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from concurrent_nb.ids import SessionId
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.nodes.master.core import MasterCore, Outgoing
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.wire.codec import Buffer
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: the reason in the Bye to a node whose session is over
SESSION_OVER: Final = "this session is over: register again"


class PeerConnection(Protocol):
    """A connection of a node to the master."""

    answered_at: float  #: when an envelope of it was last refused with an answer

    @property
    def key(self) -> bytes:
        """Return the CURVE public key that has proved itself on it."""


ConnectionT = TypeVar("ConnectionT", bound=PeerConnection)


class ComputeGate(Protocol[ConnectionT]):
    """The master's end of the compute channel; `transport.compute.ComputeServer` is the real one."""

    def receive(self) -> Iterable[tuple[ConnectionT, bytes, Sequence[Buffer]]]:
        """Yield the connection, the session that is named, and the frames of each envelope that has arrived."""

    def bind(self, session: bytes, connection: ConnectionT) -> None:
        """Send what is for a session over this connection from now on."""

    def answer(self, connection: ConnectionT, frames: Sequence[Buffer]) -> bool:
        """Send an envelope over a connection; False if it is gone."""

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        """Send an envelope to a session; False if it has no connection."""

    def take_left(self, has_news: bool) -> list[bytes]:
        """Return the sessions whose connection has ended since the last call; `has_news`: look for new ones."""


class MasterLoop(Generic[ConnectionT]):
    """The turns of a master.

    Args:
        core: decides; only these turns touch it.
        gate: the compute channel.
        interval_s: seconds between two answers to envelopes that are refused on one connection.
        journal: no envelope leaves before the records of what was handled up to then are committed; or None.
    """

    def __init__(
        self,
        core: MasterCore,
        gate: ComputeGate[ConnectionT],
        interval_s: float,
        journal: JournalStore | None = None,
    ) -> None:
        self.questions: deque[Callable[[float], None]] = deque()  #: of other threads; each is called with the time
        self._core = core
        self._gate = gate
        self._interval_s = interval_s
        self._limited_log = RateLimitedLog(log, lines=1)
        self._journal = journal
        self._uncommitted: deque[tuple[int, Outgoing]] = deque()  # envelopes, and the records that they wait for

    def answer(self, now: float) -> None:
        """Answer the questions of other threads: a session that they register is known before its first envelope."""
        while self.questions:
            self.questions.popleft()(now)

    def turn(self, has_left: bool, now: float) -> None:
        """Handle what has arrived, and send what is due.

        Args:
            has_left: whether a connection may have ended since the last turn.
        """
        core, gate = self._core, self._gate
        for connection, session, frames in gate.receive():
            peer = core.peers.get(SessionId(session))
            if peer is None or peer.link_key != connection.key:
                self._refuse(connection, is_known=peer is not None, now=now)
                continue
            gate.bind(session, connection)
            core.received(session, connection.key, frames, now)
        for session in gate.take_left(has_left):
            core.unreachable(SessionId(session), now)
        outgoing: Iterable[Outgoing] = core.step(now)
        if self._journal is not None:
            outgoing = self._committed(outgoing, self._journal)
        for session_id, envelope in outgoing:
            if not gate.send(session_id, envelope):
                core.unreachable(session_id, now)

    def _committed(self, outgoing: Iterable[Outgoing], journal: JournalStore) -> list[Outgoing]:
        """Return the envelopes that may leave now, of these and of former ones that have waited."""
        waiting, appended = self._uncommitted, journal.appended
        waiting.extend((appended, each) for each in outgoing)
        committed = journal.committed
        free: list[Outgoing] = []
        while waiting and waiting[0][0] <= committed:
            free.append(waiting.popleft()[1])
        return free

    def stop(self) -> None:
        """End all sessions: the cluster is stopped."""
        for session, envelope in self._core.stop():
            self._gate.send(session, envelope)

    def _refuse(self, connection: ConnectionT, now: float, *, is_known: bool) -> None:
        """Drop an envelope that names a session which is not its sender's; answer an unknown session with a Bye."""
        if is_known:
            self._limited_log.warning("key", now, "dropped an envelope that names the session of another key")
        elif now - connection.answered_at >= self._interval_s:
            connection.answered_at = now
            self._limited_log.warning("session", now, "dropped an envelope of a session that is over, or never was")
            self._gate.answer(connection, Session(self._core.epoch, "from_client").bye(SESSION_OVER))
