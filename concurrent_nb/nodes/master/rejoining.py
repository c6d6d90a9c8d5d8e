"""How a restarted master waits for its slaves before it assigns tasks. Pure, a part of `nodes.master.core`.

A slave that comes back has attempts of tasks that only seem to wait: assigned elsewhere, they would run twice. Until
all have come, or the time is over, slaves that join are suspected, so they get nothing new.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.scheduling import events as e


class Rejoining:
    """Waits for slaves.

    Args:
        peers: the registered peers.
        emit: called with events for the scheduler.
        gone: called with the key of each slave that has not come back.
    """

    def __init__(
        self, peers: Mapping[SessionId, Peer], emit: Callable[[e.Event], None], gone: Callable[[bytes], None]
    ) -> None:
        self.due_s = inf  #: until when they are waited for; infinity: no one is
        self._peers = peers
        self._emit = emit
        self._gone = gone
        self._awaited: set[bytes] = set()  # keys

    @property
    def is_waiting(self) -> bool:
        """Return whether no task may be assigned yet."""
        return self.due_s < inf

    def wait_for(self, keys: Iterable[bytes], until_s: float) -> None:
        """Wait for slaves with these keys."""
        self._awaited = set(keys)
        if self._awaited:
            self.due_s = until_s

    def joined(self, slave: Peer) -> None:
        """Note that a slave has joined."""
        if self.is_waiting:
            self._emit(e.SlaveSuspected(slave.session_id))

    def offered(self, slave: Peer) -> None:
        """Note that a slave has said which attempts it has."""
        self._awaited.discard(slave.key)
        if not self._awaited:
            self._end()

    def tick(self, now: float) -> None:
        """Stop waiting when it is time."""
        if now >= self.due_s:
            self._end()

    def _end(self) -> None:
        if not self.is_waiting:
            return
        self.due_s = inf
        for key in sorted(self._awaited):
            self._gone(key)
        self._awaited.clear()
        for peer in self._peers.values():
            if peer.role == "slave" and peer.joined and not peer.is_silent and not peer.is_full:
                self._emit(e.SlaveTrusted(peer.session_id))
