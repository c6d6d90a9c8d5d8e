"""Wait for one ZeroMQ socket and any number of plain descriptors with one system call.

zmq.Poller asks every socket on every turn, which costs more than all the rest of a turn. ZeroMQ's own descriptor tells
only that *something* happened since the socket was last looked at, so whoever waits on it has to look at the socket
before. That is what this class is for; the poll loops of all nodes use it.
"""

import select
from typing import Any

import zmq

POLLIN, POLLOUT = select.POLLIN, select.POLLOUT
# As plain integers: to look a name up in pyzmq's enumerations takes longer than the call that it is for.
_ZMQ_POLLIN = int(zmq.POLLIN)


class Poller:
    """Polls `socket`, which its loop both reads and writes, and descriptors that are added."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.fd: int = fd_of(socket)  #: what `wait` names when the socket may have something
        self._poll = select.poll()
        self._poll.register(self.fd, POLLIN)

    def add(self, fd: int, events: int = POLLIN) -> None:
        """Watch a descriptor, or watch it for other events than before."""
        self._poll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Watch a descriptor no more."""
        self._poll.unregister(fd)

    def wait(self, timeout_s: float) -> dict[int, int]:
        """Wait until something is ready, at most so many seconds; give events by descriptor."""
        return self.poll(0.0 if has_mail(self._socket) else timeout_s)

    def poll(self, timeout_s: float) -> dict[int, int]:
        """Do as `wait`, for who has looked at the socket himself: waits although the socket may have mail."""
        return dict(self._poll.poll(timeout_s * 1000 if timeout_s > 0 else 0))


def fd_of(socket: "zmq.Socket[bytes]") -> int:
    """Return the descriptor by which ZeroMQ tells that something happened to a socket."""
    fd: Any = socket.getsockopt(zmq.FD)
    return int(fd)


def has_mail(socket: "zmq.Socket[bytes]") -> bool:
    """Say whether a message waits in the socket; looks at the socket, so that its descriptor tells news again."""
    # Cheaper than asking for the option EVENTS, which pyzmq looks up in an enumeration each time.
    return bool(zmq.zmq_poll([(socket, _ZMQ_POLLIN)], 0))
