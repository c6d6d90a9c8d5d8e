"""Wait for one ZeroMQ socket and any number of plain descriptors with one system call.

zmq.Poller queries every socket on every turn, which costs more than the rest of a turn. ZeroMQ's own descriptor only
shows that *something* happened since the last query of the socket, so a loop must query the socket before it waits on
the descriptor. This class does both; the poll loops of all nodes use it.
"""

import select
from typing import Any

import zmq

POLLIN, POLLOUT = select.POLLIN, select.POLLOUT
# A plain integer: looking up a name in pyzmq's enumerations takes longer than the call.
_ZMQ_POLLIN = int(zmq.POLLIN)


class Poller:
    """Polls `socket`, which the caller's loop reads and writes, and added descriptors."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.fd: int = fd_of(socket)  #: the key in `wait`'s result if the socket may have a message
        self._poll = select.poll()
        self._poll.register(self.fd, POLLIN)

    def add(self, fd: int, events: int = POLLIN) -> None:
        """Watch a descriptor, or change the events for which it is watched."""
        self._poll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching a descriptor."""
        self._poll.unregister(fd)

    def wait(self, timeout_s: float) -> dict[int, int]:
        """Wait until a descriptor is ready, at most `timeout_s` seconds; return events by descriptor."""
        return self.poll(0.0 if has_message(self._socket) else timeout_s)

    def poll(self, timeout_s: float) -> dict[int, int]:
        """As `wait`, without querying the socket: for callers that have just done so."""
        return dict(self._poll.poll(timeout_s * 1000 if timeout_s > 0 else 0))


def fd_of(socket: "zmq.Socket[bytes]") -> int:
    """Return the descriptor that becomes readable when something happens to a socket."""
    fd: Any = socket.getsockopt(zmq.FD)
    return int(fd)


def has_message(socket: "zmq.Socket[bytes]") -> bool:
    """Return whether a message waits in the socket; the query arms its descriptor again."""
    # Cheaper than the option EVENTS, which pyzmq looks up in an enumeration each time.
    return bool(zmq.zmq_poll([(socket, _ZMQ_POLLIN)], 0))
