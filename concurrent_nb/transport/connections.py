"""Which connections the compute channel has, and which must be cut. Decides; `compute.ComputeServer` acts.

    accepted -> (handshake) -> named by its first message -> closed
       |             |                  |
       too many, or silent for long     too many of its key, its key withdrawn, a message that never ends: cut

Events go in, with the time; `take_cut` returns the connections to end, each with the reason.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from concurrent_nb.transport.tcp import Ends

#: most connections that have delivered nothing yet; one more cuts the oldest of them
SILENT_MAX: Final = 256
#: most connections of one key for each session registered with it, plus this number; one more cuts the oldest of them
KEY_MAX: Final = 4
#: bytes that a connection may receive without a whole message; no node sends a larger one (wire/PROTOCOL.md)
UNDELIVERED_BYTES: Final = 32 * 1024 * 1024
#: seconds in which a connection whose key is no longer registered may receive the reason
WITHDRAWN_S: Final = 2.0
#: seconds between two checks, and connections of each check
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
        self.fd = fd  #: -1 if unknown
        self.ends = ends  #: None if it cannot be checked
        self.accepted_at = now
        self.routing_id = b""
        self.key = b""  #: CURVE public key of the peer, z85
        self.is_cut = False  #: it must be ended
        self.delivered = True  #: a whole message has arrived since the last check
        self.baseline_bytes = 0  #: bytes received at the last check that found a message delivered
        self.since: float | None = None  #: when its key was first found to be unregistered
        self.answered_at = float("-inf")  #: when it last received that its session is over


class Connections:
    """All connections of a server.

    Args:
        silent_s: seconds in which a connection must deliver its first message.
        silent_max: most connections that have delivered none.
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
        """Return the connection of a routing id that has been named."""
        return self._by_routing_id.get(routing_id)

    def accepted(self, fd: int, ends: Ends | None, now: float) -> None:
        """Record a new connection."""
        self.closed(fd)  # its descriptor was free, so an earlier connection with it has ended
        connection = self._by_fd[fd] = self._silent[fd] = Connection(fd, ends, now)
        self._to_look.append(connection)
        if len(self._silent) > self._silent_max:
            self.cut(next(iter(self._silent.values())), f"more than {self._silent_max} have delivered nothing yet")

    def named(self, routing_id: bytes, key: bytes, sessions: int, fd: int, now: float) -> Connection:
        """Record the peer of a connection from a message with a new routing id, and return the connection.

        Args:
            sessions: how many are registered with its key.
        """
        connection = self._by_fd.get(fd)
        if connection is None:  # it has ended; this is its last message
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
            if len(of_key) > (limit := KEY_MAX * (sessions + 1)):
                self.cut(of_key[0], f"its key has more than {limit} connections")
        return connection

    def closed(self, fd: int) -> Connection | None:
        """Record that a connection has ended, and return it."""
        connection = self._by_fd.pop(fd, None)
        if connection is not None:
            self._silent.pop(fd, None)
            self._forget(connection)
            connection.fd = -1
        return connection

    def cut(self, connection: Connection, why: str) -> None:
        """Mark a connection to be ended; its further messages are ignored."""
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
        """Return the connections to end since the last call, each with the reason."""
        cut, self._cut = self._cut, []
        return cut

    def look(
        self, now: float, admits: Callable[[bytes], int], received_bytes: Callable[[Connection], int | None]
    ) -> None:
        """Check the next connections. Must be called when no delivered message waits to be received."""
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
        admits: Callable[[bytes], int],
        received_bytes: Callable[[Connection], int | None],
    ) -> None:
        if connection.key and not admits(connection.key):
            connection.since = now if connection.since is None else connection.since
            if now - connection.since >= WITHDRAWN_S:
                self.cut(connection, "its key is no longer registered")
            return
        connection.since = None
        received = received_bytes(connection)
        if received is None:
            return
        if connection.delivered:
            connection.delivered, connection.baseline_bytes = False, received
        elif received - connection.baseline_bytes > UNDELIVERED_BYTES:
            self.cut(connection, f"{received - connection.baseline_bytes:,} bytes arrived without a whole message")
