"""The compute channel: ZeroMQ with CURVE, and a ZAP handler that fails closed. Carries frames, decodes no message.

    ComputeClient (DEALER) ---- CURVE over TCP ---- ComputeServer (ROUTER + ZAP)

The master's compute thread polls a `ComputeServer`, the poll loop of a slave or an application a `ComputeClient`;
neither has a thread of its own. The handshake fails unless `admit` accepts the peer's key. A routing id is the ROUTER's
own name for a connection. The session id of a message precedes its header, and the owner of the server binds a session
to the connection over which the holder of its key last sent. So naming a session is not enough to receive its messages.
Limits on size and handshake time apply before authentication; connections that deliver nothing are cut (`connections`).
"""

import logging
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import zmq
import zmq.utils.z85

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import ID_BYTES
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.transport import tcp
from concurrent_nb.transport.connections import LOOK_S, SILENT_MAX, Connection, Connections
from concurrent_nb.transport.poller import has_message
from concurrent_nb.wire.codec import FRAME_BYTES, Buffer

log = logging.getLogger(__name__)

#: FRAME_BYTES, and room for the frame's header and the overhead of CURVE
MAX_FRAME_BYTES: Final = FRAME_BYTES + 64 * 1024
#: a peer that has not finished its handshake after this time is cut
HANDSHAKE_MS: Final = 3000
#: frames of at least this size are passed to ZeroMQ without a copy
ZERO_COPY_BYTES: Final = 64 * 1024
#: messages in a connection's queue at most; sessions keep below it
QUEUE: Final = 256
#: while more messages wait than one turn receives, connections are checked this often
LOOK_AT_LEAST_S: Final = 1.0
#: seconds in which a connection must deliver its first message
SILENT_S: Final = 10.0
#: oldest libzmq whose CURVE code has no known hole
LIBZMQ_NEEDED: Final = (4, 3, 5)
#: libzmq's own heartbeat, which detects a cut cable or a vanished host although nothing is sent
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000

# Plain integers, because combining pyzmq's enumerations takes longer than sending.
_DONTWAIT: Final = int(zmq.DONTWAIT)
_SEND_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"concurrent_nb"

#: a monitor's first frame: the event, and its value
_EVENT: Final = struct.Struct("=HI")
_ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)

#: returns the number of sessions that are registered with a z85 public key; with none, the key is refused
Admit = Callable[[bytes], int]


def _check_libzmq() -> None:
    if zmq.zmq_version_info() < LIBZMQ_NEEDED:
        have, need = zmq.zmq_version(), ".".join(map(str, LIBZMQ_NEEDED))
        raise ConfigurationError(f"libzmq {have} is too old to be secure, {need} is needed: upgrade pyzmq")


class ComputeServer:
    """The master's end.

    Args:
        addresses: IP addresses to listen on; each gets a free port.
        public_key, secret_key: the master's CURVE pair, z85.
        admit: returns how many sessions are registered with a client key (z85) now.
        silent_s: seconds in which a connection must deliver its first message.
        silent_max: most connections that have delivered none.
        ports: a port for each of some addresses; one that is taken is replaced by a free one.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        public_key: bytes,
        secret_key: bytes,
        admit: Admit,
        *,
        silent_s: float = SILENT_S,
        silent_max: int = SILENT_MAX,
        ports: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        _check_libzmq()
        self._admit = admit
        self._connections = Connections(silent_s, silent_max)
        self._bound: dict[bytes, Connection] = {}  # by session
        self._left: list[bytes] = []  # sessions whose connection has ended
        self._look_at = 0.0
        self._limited_log = RateLimitedLog(log, lines=1)
        self._context = zmq.Context()
        self.zap_socket = self._context.socket(zmq.ROUTER)
        self.zap_socket.linger = 0
        self.zap_socket.bind(_ZAP_ENDPOINT)
        self.socket = self._context.socket(zmq.ROUTER)
        _set_common(self.socket)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.ROUTER_HANDOVER, 0),  # a routing id in use stays with its connection
            (zmq.ZAP_DOMAIN, _DOMAIN),
            (zmq.ZAP_ENFORCE_DOMAIN, 1),  # without it ZeroMQ admits every peer when the ZAP handler is gone
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_PUBLICKEY, public_key),
            (zmq.CURVE_SECRETKEY, secret_key),
        ):
            self.socket.setsockopt(option, value)
        self.monitor = self.socket.get_monitor_socket(_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.ports = {address: self._listen(address, ports.get(address, 0)) for address in addresses}
        self._port_numbers = frozenset(self.ports.values())

    def _listen(self, address: str, port: int) -> int:
        host = f"[{address}]" if ":" in address else address
        if ":" in address:
            self.socket.ipv6 = True
        if port:
            try:
                self.socket.bind(f"tcp://{host}:{port}")
            except zmq.ZMQError as error:  # nodes hear of another one when they register
                log.warning("port %d of %s, which the last master had, cannot be used: %s", port, address, error)
            else:
                return port
        self.socket.bind(f"tcp://{host}:*")
        endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return int(endpoint.rpartition(":")[2])

    def answer_zap(self) -> None:
        """Answer every waiting ZAP request (RFC 27): the key must be registered, and the mechanism must be CURVE."""
        while True:
            try:
                frames = self.zap_socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            peer, _, version, request, domain, _address, _identity, mechanism, *credentials = [*frames, *[b""] * 9][:10]
            key = zmq.utils.z85.encode(credentials[0]) if len(credentials[0]) == 32 else b""
            known = mechanism == b"CURVE" and domain == _DOMAIN and bool(key) and self._admit(key) > 0
            code, text, user = (b"200", b"OK", key) if known else (b"400", b"not registered", b"")
            self.zap_socket.send_multipart([peer, b"", version, request, code, text, user, b""])

    def receive(self, limit: int = 256) -> Iterator[tuple[Connection, bytes, list[memoryview]]]:
        """Yield (connection, claimed session id, frames) of what has arrived, at most `limit` messages.

        The caller must check that the connection's key is the session's.
        """
        while limit > 0 and has_message(self.socket):
            limit -= 1
            first, *frames = _receive(self.socket)
            connection = self._connections.get(first.bytes) or self._named(first)
            if connection.is_cut:
                continue
            connection.delivered = True
            buffers = [frame.buffer for frame in frames]
            session = buffers[0][:ID_BYTES].tobytes() if buffers else b""
            if buffers:
                buffers[0] = buffers[0][ID_BYTES:]
            yield connection, session, buffers

    def _named(self, first: zmq.Frame) -> Connection:
        """Record the peer of a connection whose routing id is new, and return the connection."""
        self._note_events()
        fd, key = int(str(first.get("__fd"))), str(first.get("User-Id")).encode()
        connection = self._connections.named(first.bytes, key, self._admit(key), fd, time.monotonic())
        if first.get("Identity"):
            self._connections.cut(connection, "it asked for a routing id of its own")
        return connection

    def bind(self, session: bytes, connection: Connection) -> None:
        """Send messages for a session over this connection from now on."""
        self._bound[session] = connection

    def take_left(self, has_news: bool = True) -> list[bytes]:
        """Return the sessions whose connection has ended since the last call. `has_news`: the monitor has events."""
        if has_news:
            self._note_events()
        left, self._left = self._left, []
        return left

    def _note_events(self) -> None:
        """Record connections that were opened and closed."""
        while self.monitor.poll(0):
            event, value = _EVENT.unpack(self.monitor.recv_multipart(zmq.DONTWAIT)[0])
            if event == _ACCEPTED:
                self._connections.accepted(value, tcp.ends_of(value, self._port_numbers), time.monotonic())
            elif (gone := self._connections.closed(value)) is not None and gone.routing_id:
                left = [session for session, connection in self._bound.items() if connection is gone]
                for session in left:
                    del self._bound[session]
                self._left += left

    def look(self, now: float) -> float:
        """Cut the connections that exceed a limit. Must be called after `receive`, which counts as delivery.

        Returns the time of the next check, infinity where connections cannot be checked.
        """
        if now >= self._look_at and (now >= self._look_at + LOOK_AT_LEAST_S or not has_message(self.socket)):
            self._look_at = now + LOOK_S
            self._connections.look(now, self._admit, _received_bytes)
            for connection, why in self._connections.take_cut():
                ends = connection.ends
                if ends is not None and tcp.cut(connection.fd, ends):
                    self._limited_log.warning(why[:20], now, "cut the connection of %s: %s", ends[1][0], why)
        return self._look_at if tcp.IS_AVAILABLE and len(self._connections) else float("inf")

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        """Put frames into the queue of the connection to which a session is bound. Return False if it has none.

        What does not fit into a full queue is lost; the session sends it again.
        """
        connection = self._bound.get(session)
        if connection is None:
            return False
        if not self.answer(connection, frames):
            del self._bound[session]
            return False
        return True

    def answer(self, connection: Connection, frames: Sequence[Buffer]) -> bool:
        """Put frames into the queue of a connection, as `send`."""
        try:
            _send(self.socket, [connection.routing_id, *frames])
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        """Close; the last messages still have 0.2 s to leave."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=200)
        self.zap_socket.close(linger=0)
        self._context.term()


class ComputeClient:
    """A slave's or an application's end.

    Args:
        endpoint: of the ComputeServer, as "tcp://host:port".
        session: the session id from the registration; it precedes every envelope.
        server_key: the master's public key, z85.
        public_key, secret_key: this node's registered CURVE pair, z85.
        proxy: SOCKS5 proxy to use, as "host:port"; it sees encrypted data only.
    """

    def __init__(
        self,
        endpoint: str,
        session: bytes,
        server_key: bytes,
        public_key: bytes,
        secret_key: bytes,
        proxy: str | None = None,
    ) -> None:
        _check_libzmq()
        self._session = session
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        _set_common(self.socket)
        for option, value in (
            (zmq.CURVE_SERVERKEY, server_key),
            (zmq.CURVE_PUBLICKEY, public_key),
            (zmq.CURVE_SECRETKEY, secret_key),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 1000),
        ):
            self.socket.setsockopt(option, value)
        if "[" in endpoint:
            self.socket.ipv6 = True
        if proxy is not None:
            self.socket.setsockopt_string(zmq.SOCKS_PROXY, proxy)
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self.socket.connect(endpoint)

    def disturbed(self) -> bool:
        """Return whether the connection was cut or refused since the last call (ZeroMQ reconnects by itself)."""
        return _drain(self.monitor)

    def receive(self, limit: int = 256) -> Iterator[list[memoryview]]:
        """Yield the frames of what has arrived, at most `limit` messages."""
        while limit > 0 and has_message(self.socket):
            limit -= 1
            yield [frame.buffer for frame in _receive(self.socket)]

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Put frames into the queue. Return False if it is full (the session sends them again)."""
        try:
            _send(self.socket, [self._session + frames[0], *frames[1:]])
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close; the last messages still have 0.2 s to leave."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=200)
        self._context.term()


def _received_bytes(connection: Connection) -> int | None:
    return None if connection.ends is None else tcp.received_bytes(connection.fd, connection.ends)


def _drain(monitor: zmq.Socket[bytes]) -> bool:
    """Drop all waiting events of a monitor; return whether there was one."""
    seen = False
    while monitor.poll(0):
        monitor.recv_multipart(zmq.DONTWAIT)
        seen = True
    return seen


def _set_common(socket: zmq.Socket[bytes]) -> None:
    socket.linger = 200
    for option, value in (
        (zmq.MAXMSGSIZE, MAX_FRAME_BYTES),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
        (zmq.SNDHWM, QUEUE),
        (zmq.RCVHWM, QUEUE),
    ):
        socket.setsockopt(option, value)


def _send(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send a multipart message; large frames without a copy."""
    last = len(frames) - 1
    for at, frame in enumerate(frames):
        socket.send(frame, _SEND_MORE if at < last else _DONTWAIT, copy=len(frame) < ZERO_COPY_BYTES)


def _receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Receive the waiting message."""
    frames = [socket.recv(_DONTWAIT, copy=False)]
    while frames[-1].more:
        frames.append(socket.recv(_DONTWAIT, copy=False))
    return frames
