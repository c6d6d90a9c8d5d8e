"""Who is connected to the compute channel, and which connections have to go. Decides; `compute.Gate` acts.

    accepted -> (handshake) -> named by its first message -> closed
       |             |                  |
       too many, or silent for long     too many of its key, its key withdrawn, a message that never ends: cut

What happened goes in, with the time; `take_cut` gives the connections that are to be ended, each with why.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from concurrent_nb.transport.tcp import Ends

#: connections that have delivered nothing yet; one more costs the oldest of them its place
SILENT_MAX: Final = 256
#: connections of one key; one more costs the oldest of them its place
KEY_MAX: Final = 8
#: a connection may receive so much without delivering a whole message; no node sends a larger one (wire/PROTOCOL.md)
UNDELIVERED_BYTES: Final = 32 * 1024 * 1024
#: a connection whose key is not registered any more has so long to hear why
WITHDRAWN_S: Final = 2.0
#: connections are looked at this often, so many of them at a time
LOOK_S: Final = 0.1
LOOKS: Final = 200


class Connection:
    """One connection. `routing_id` and `key` are known from its first message on."""

    __slots__ = (
        "accepted_at",
        "answered_at",
        "baseline_bytes",
        "delivered",
        "ends",
        "fd",
        "is_cut",
        "key",
        "routing_id",
        "since",
    )

    def __init__(self, fd: int, ends: Ends | None, now: float) -> None:
        self.fd = fd  #: -1 if it is not known
        self.ends = ends  #: None if it cannot be looked at
        self.accepted_at = now
        self.routing_id = b""
        self.key = b""  #: CURVE public key of the peer, z85
        self.is_cut = False  #: it has to go
        self.delivered = True  #: a whole message came since the last look
        self.baseline_bytes = 0  #: what had come by the last look that found a message delivered
        self.since: float | None = None  #: when its key was first found to be withdrawn
        self.answered_at = float("-inf")  #: when it was last told that its session is over


class Connections:
    """All connections of a gate.

    Args:
        silent_s: seconds in which a connection has to deliver its first message.
        silent_max: connections that may have delivered none.
    """

    def __init__(self, silent_s: float, silent_max: int = SILENT_MAX) -> None:
        self._silent_s = silent_s
        self._silent_max = silent_max
        self._by_fd: dict[int, Connection] = {}
        self._by_routing_id: dict[bytes, Connection] = {}
        self._by_key: dict[bytes, list[Connection]] = {}
        self._silent: dict[int, Connection] = {}  # by descriptor, the oldest first
        self._to_look: deque[Connection] = deque()
        self._cut: list[tuple[Connection, str]] = []

    def __len__(self) -> int:
        return len(self._by_fd)

    def get(self, routing_id: bytes) -> Connection | None:
        """Give the connection of a routing id that has been named."""
        return self._by_routing_id.get(routing_id)

    def accepted(self, fd: int, ends: Ends | None, now: float) -> None:
        """Learn that somebody has connected."""
        self.closed(fd)  # the descriptor is free again, whether we have heard of that or not
        connection = self._by_fd[fd] = self._silent[fd] = Connection(fd, ends, now)
        self._to_look.append(connection)
        if len(self._silent) > self._silent_max:
            self.cut(next(iter(self._silent.values())), f"more than {self._silent_max} have delivered nothing yet")

    def named(self, routing_id: bytes, key: bytes, fd: int, now: float) -> Connection:
        """Learn whose a connection is, of a message of one that is not known by its routing id."""
        connection = self._by_fd.get(fd)
        if connection is None:  # it has ended, and this is what it has left
            connection = Connection(-1, None, now)
            connection.routing_id, connection.key = routing_id, key
            return connection
        self._forget(connection)
        self._silent.pop(fd, None)
        connection.routing_id, connection.key = routing_id, key
        self._by_routing_id[routing_id] = connection
        if not connection.is_cut:
            of_key = self._by_key.setdefault(key, [])
            of_key.append(connection)
            if len(of_key) > KEY_MAX:
                self.cut(of_key[0], f"its key has more than {KEY_MAX} connections")
        return connection

    def closed(self, fd: int) -> Connection | None:
        """Learn that a connection has ended; give it."""
        connection = self._by_fd.pop(fd, None)
        if connection is not None:
            self._silent.pop(fd, None)
            self._forget(connection)
            connection.fd = -1
        return connection

    def cut(self, connection: Connection, why: str) -> None:
        """Have a connection ended; what comes over it until then counts for nothing."""
        if not connection.is_cut:
            connection.is_cut = True
            self._silent.pop(connection.fd, None)
            self._count_no_longer(connection)
            self._cut.append((connection, why))

    def _forget(self, connection: Connection) -> None:
        if connection.routing_id:
            self._by_routing_id.pop(connection.routing_id, None)
            self._count_no_longer(connection)

    def _count_no_longer(self, connection: Connection) -> None:
        of_key = self._by_key.get(connection.key, [])
        if connection in of_key:
            of_key.remove(connection)
            if not of_key:
                del self._by_key[connection.key]

    def take_cut(self) -> list[tuple[Connection, str]]:
        """Give what is to be ended, with why, since the last call."""
        cut, self._cut = self._cut, []
        return cut

    def look(
        self, now: float, admits: Callable[[bytes], bool], received_bytes: Callable[[Connection], int | None]
    ) -> None:
        """Look at the next connections. To be called when nothing that was delivered waits to be received."""
        while self._silent:
            oldest = next(iter(self._silent.values()))
            if now - oldest.accepted_at < self._silent_s:
                break
            self.cut(oldest, f"it has delivered nothing for {self._silent_s:.0f} s")
        for _ in range(min(LOOKS, len(self._to_look))):
            connection = self._to_look.popleft()
            if connection.fd < 0 or connection.is_cut:
                continue
            self._to_look.append(connection)
            self._look_at(connection, now, admits, received_bytes)

    def _look_at(
        self,
        connection: Connection,
        now: float,
        admits: Callable[[bytes], bool],
        received_bytes: Callable[[Connection], int | None],
    ) -> None:
        if connection.key and not admits(connection.key):
            connection.since = now if connection.since is None else connection.since
            if now - connection.since >= WITHDRAWN_S:
                self.cut(connection, "its key is not registered any more")
            return
        connection.since = None
        received = received_bytes(connection)
        if received is None:
            return
        if connection.delivered:
            connection.delivered, connection.baseline_bytes = False, received
        elif received - connection.baseline_bytes > UNDELIVERED_BYTES:
            self.cut(connection, f"{received - connection.baseline_bytes:,} bytes came without a whole message")
