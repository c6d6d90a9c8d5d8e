"""A slow link to a cluster on this machine: a SOCKS5 proxy that delays what passes.

    with SlowLink(delay_s=0.001) as link:
        far = link.connection_file(cluster.connection_file, "far.json")
        app = concurrent_nb.connect(far)        # its tasks and answers take 1 ms longer, each way

It delays, and does nothing else: it loses nothing, and does not limit the bandwidth. The control channel, over which
applications register, is not delayed.
"""

import select
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final, Self

import msgspec

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.transport import connection_file

_PIECE_BYTES: Final = 1 << 18
#: a client that does not name its destination within this time is disconnected
_HANDSHAKE_TIMEOUT_S: Final = 5.0
_GRANTED: Final = b"\x05\x00\x00\x01" + bytes(6)


class _Direction:
    """One direction of a connection, and the data that waits in it."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.open = True  #: the source may send more
        self.pieces: deque[tuple[float, memoryview]] = deque()  # due time and content; the empty one is the end

    @property
    def over(self) -> bool:
        """Return whether everything has been forwarded."""
        return not self.open and not self.pieces


class SlowLink:
    """A SOCKS5 proxy on loopback that forwards everything late, from `start` to `close`. A context manager does both.

    Args:
        delay_s: seconds by which everything is delayed, each way.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._directions: list[_Direction] = []
        self._thread = threading.Thread(target=self._run, name="slow link", daemon=True)

    @property
    def address(self) -> str:
        """Return the proxy's address as "HOST:PORT"."""
        host, port = self._server.getsockname()
        return f"{host}:{port}"

    def connection_file(self, of: Path | None, path: Path | str) -> Path:
        """Write a connection file that leads to a cluster through this link, and return its path.

        Args:
            of: the cluster's own connection file (`Cluster.connection_file`).
            path: of the new file.

        Raises ConfigurationError if the cluster has none yet, and OSError if the file cannot be written.
        """
        if of is None:
            raise ConfigurationError("the cluster has not been started, so it has no connection file")
        info = msgspec.structs.replace(connection_file.read(of), compute_proxy=self.address)
        return connection_file.write(info, path)

    def start(self) -> Self:
        """Accept connections from now on; return this link."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Cut all connections; data on the way is lost."""
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- in our thread

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            dues = [direction.pieces[0][0] for direction in self._directions if direction.pieces]
            sinks = [
                direction.sink for direction in self._directions if direction.pieces and direction.pieces[0][0] <= now
            ]
            sources = [direction.source for direction in self._directions if direction.open]
            wait_s = min((due - now for due in dues if due > now), default=None)
            # Not a selector of the standard library: most of them round to whole milliseconds.
            readable, writable, _ = select.select([self._woken, self._server, *sources], sinks, [], wait_s)
            if self._woken in readable:
                break
            if self._server in readable:
                self._accept()
            for direction in list(self._directions):
                if direction.source in readable or direction.sink in writable:
                    self._move(direction, direction.source in readable, direction.sink in writable)
        for direction in self._directions:
            direction.source.close()

    def _accept(self) -> None:
        client, _ = self._server.accept()
        client.settimeout(_HANDSHAKE_TIMEOUT_S)
        try:
            there = socket.create_connection(_destination(client), _HANDSHAKE_TIMEOUT_S)
            client.sendall(_GRANTED)
        except OSError:
            client.close()
            return
        for sock in (client, there):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        self._directions += [_Direction(client, there), _Direction(there, client)]

    def _move(self, direction: _Direction, readable: bool, writable: bool) -> None:
        """Receive what has arrived, and forward what is due."""
        try:
            if readable:
                piece = direction.source.recv(_PIECE_BYTES)
                direction.open = bool(piece)
                direction.pieces.append((time.monotonic() + self.delay_s, memoryview(piece)))
            if writable:
                due, piece_due = direction.pieces.popleft()
                if not piece_due:
                    direction.sink.shutdown(socket.SHUT_WR)
                elif left := piece_due[direction.sink.send(piece_due) :]:
                    direction.pieces.appendleft((due, left))
        except OSError:  # one of the two is gone, so the other is disconnected
            self._drop(direction)
            return
        back = next((each for each in self._directions if each.source is direction.sink), None)
        if direction.over and (back is None or back.over):
            self._drop(direction)

    def _drop(self, direction: _Direction) -> None:
        ends = (direction.source, direction.sink)
        self._directions = [each for each in self._directions if each.source not in ends]
        for end in ends:
            end.close()


def _destination(client: socket.socket) -> tuple[str, int]:
    """Return the destination that a client of SOCKS5 asks for. Raises OSError if it does not speak SOCKS5."""
    version, methods = _exactly(client, 2)
    _exactly(client, methods)
    client.sendall(b"\x05\x00")  # no authentication
    version, command, _, kind = _exactly(client, 4)
    if (version, command) != (5, 1):
        raise OSError("the client does not ask for a connection by SOCKS5")
    if kind == 3:
        host = _exactly(client, _exactly(client, 1)[0]).decode("ascii", "replace")
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _exactly(client, size))
    (port,) = struct.unpack("!H", _exactly(client, 2))
    return host, port


def _exactly(sock: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes. Raises OSError if the other side sends fewer."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise OSError("the client has left in the middle of its handshake")
        data += piece
    return data
