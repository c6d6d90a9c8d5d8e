"""A slow link to a cluster on this machine: a SOCKS5 proxy that holds back what passes.

    with SlowLink(delay_s=0.001) as link:
        far = link.connection_file(cluster.connection_file, "far.json")
        app = concurrent_nb.connect(far)        # its tasks and answers take 1 ms longer, each way

It delays and does nothing else: no loss, no limit to the bandwidth, and what is sent in one piece arrives in one. The
control channel, over which applications register, is not held back.
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
#: a client that does not say within this time where it wants to go is sent away
_HANDSHAKE_TIMEOUT_S: Final = 5.0
_GRANTED: Final = b"\x05\x00\x00\x01" + bytes(6)


class _Way:
    """One direction of a connection: what has come and has to wait."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.open = True  #: the source may send more
        self.pieces: deque[tuple[float, memoryview]] = deque()  # due time and content; the empty one is the end

    @property
    def over(self) -> bool:
        """Tell whether everything has been handed on."""
        return not self.open and not self.pieces


class SlowLink:
    """Carries connections to where their clients want, from its start until it is closed.

    Args:
        delay_s: seconds by which everything is held back, each way.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._ways: list[_Way] = []
        self._thread = threading.Thread(target=self._run, name="slow link", daemon=True)

    @property
    def address(self) -> str:
        """Give HOST:PORT of the proxy."""
        host, port = self._server.getsockname()
        return f"{host}:{port}"

    def connection_file(self, of: Path | None, path: Path | str) -> Path:
        """Write a copy of a cluster's connection file, with which one connects through this link; return its place.

        Raises ConfigurationError if the cluster has none yet.
        """
        if of is None:
            raise ConfigurationError("the cluster has not been started, so it has no connection file")
        info = msgspec.structs.replace(connection_file.read(of), compute_proxy=self.address)
        return connection_file.write(info, path)

    def start(self) -> Self:
        """Begin to carry."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End it: what is on the way is lost, and connections are cut."""
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
            dues = [way.pieces[0][0] for way in self._ways if way.pieces]
            sinks = [way.sink for way in self._ways if way.pieces and way.pieces[0][0] <= now]
            sources = [way.source for way in self._ways if way.open]
            wait_s = min((due - now for due in dues if due > now), default=None)
            # Not a selector of the standard library: most of them round to whole milliseconds.
            readable, writable, _ = select.select([self._woken, self._server, *sources], sinks, [], wait_s)
            if self._woken in readable:
                break
            if self._server in readable:
                self._accept()
            for way in list(self._ways):
                if way.source in readable or way.sink in writable:
                    self._move(way, way.source in readable, way.sink in writable)
        for way in self._ways:
            way.source.close()

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
        self._ways += [_Way(client, there), _Way(there, client)]

    def _move(self, way: _Way, readable: bool, writable: bool) -> None:
        """Take what has come, and hand on what is due."""
        try:
            if readable:
                piece = way.source.recv(_PIECE_BYTES)
                way.open = bool(piece)
                way.pieces.append((time.monotonic() + self.delay_s, memoryview(piece)))
            if writable:
                due, piece_due = way.pieces.popleft()
                if not piece_due:
                    way.sink.shutdown(socket.SHUT_WR)
                elif left := piece_due[way.sink.send(piece_due) :]:
                    way.pieces.appendleft((due, left))
        except OSError:  # one of the two is gone, so the other is told
            self._drop(way)
            return
        back = next((each for each in self._ways if each.source is way.sink), None)
        if way.over and (back is None or back.over):
            self._drop(way)

    def _drop(self, way: _Way) -> None:
        ends = (way.source, way.sink)
        self._ways = [each for each in self._ways if each.source not in ends]
        for end in ends:
            end.close()


def _destination(client: socket.socket) -> tuple[str, int]:
    """Hear from a client of SOCKS5 where it wants to go. Raises OSError for what is none."""
    version, methods = _exactly(client, 2)
    _exactly(client, methods)
    client.sendall(b"\x05\x00")  # nobody has to prove who he is
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
    """Receive so many bytes. Raises OSError if the other side says less."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise OSError("the client has left in the middle of its handshake")
        data += piece
    return data
