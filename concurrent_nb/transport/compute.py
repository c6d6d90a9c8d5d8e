"""The compute channel: ZeroMQ with CURVE, and a doorman that fails closed. Carries frames, knows no message.

    Link (DEALER) ---- CURVE over TCP ---- Gate (ROUTER + ZAP)

A `Gate` is polled by the master's compute thread, a `Link` by that of a slave or an application; neither has a thread
of its own. Nobody gets past the handshake unless `admit` knows his key, and whoever receives matches every message with
the key of its session again, because ZeroMQ does not cut a connection whose key was withdrawn, and lets any
authenticated peer claim any routing id. Limits on size and handshake time bind before authentication.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import zmq
import zmq.utils.z85

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.transport.waiting import has_mail
from concurrent_nb.wire.codec import FRAME_BYTES, Buffer

#: room for the header of a frame of FRAME_BYTES and what CURVE adds
MAX_FRAME_BYTES: Final = FRAME_BYTES + 64 * 1024
#: a peer that has not finished its handshake by then is cut
HANDSHAKE_MS: Final = 3000
#: frames from here on are handed to ZeroMQ without a copy
ZERO_COPY_BYTES: Final = 64 * 1024
#: messages that may lie in a socket's queue; sessions keep far below it
QUEUE: Final = 4096
#: oldest libzmq whose CURVE code has no known hole
LIBZMQ_NEEDED: Final = (4, 3, 5)
#: libzmq's own keepalive, so that a cut cable or a vanished host is noticed although nothing is sent
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000

# As plain integers, because combining pyzmq's enumerations takes longer than sending.
_DONTWAIT: Final = int(zmq.DONTWAIT)
_SEND_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"concurrent_nb"

#: z85 public key -> may it come in?
Admit = Callable[[bytes], bool]


def _check_libzmq() -> None:
    if zmq.zmq_version_info() < LIBZMQ_NEEDED:
        have, need = zmq.zmq_version(), ".".join(map(str, LIBZMQ_NEEDED))
        raise ConfigurationError(f"libzmq {have} is too old to face a network, {need} is needed: upgrade pyzmq")


class Gate:
    """The master's end.

    Args:
        addresses: IP addresses to listen on; each gets a free port.
        public_key, secret_key: the master's CURVE pair, z85.
        admit: says whether a client key (z85) is registered right now.
    """

    def __init__(self, addresses: Sequence[str], public_key: bytes, secret_key: bytes, admit: Admit) -> None:
        _check_libzmq()
        self._admit = admit
        self._context = zmq.Context()
        self.zap_socket = self._context.socket(zmq.ROUTER)
        self.zap_socket.linger = 0
        self.zap_socket.bind(_ZAP_ENDPOINT)
        self.socket = self._context.socket(zmq.ROUTER)
        _set_common(self.socket)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.ROUTER_HANDOVER, 1),  # a node that reconnects takes its id back; the key is checked per message
            (zmq.ZAP_DOMAIN, _DOMAIN),
            (zmq.ZAP_ENFORCE_DOMAIN, 1),  # without it ZeroMQ lets everybody in when the doorman is gone
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_PUBLICKEY, public_key),
            (zmq.CURVE_SECRETKEY, secret_key),
        ):
            self.socket.setsockopt(option, value)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.ports = {address: self._bind(address) for address in addresses}

    def _bind(self, address: str) -> int:
        host = f"[{address}]" if ":" in address else address
        if ":" in address:
            self.socket.ipv6 = True
        self.socket.bind(f"tcp://{host}:*")
        endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return int(endpoint.rpartition(":")[2])

    def answer_doorbell(self) -> None:
        """Answer every waiting ZAP request (RFC 27): the key must be registered, and the mechanism be CURVE."""
        while True:
            try:
                frames = self.zap_socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            peer, _, version, request, domain, _address, _identity, mechanism, *credentials = [*frames, *[b""] * 9][:10]
            key = zmq.utils.z85.encode(credentials[0]) if len(credentials[0]) == 32 else b""
            known = mechanism == b"CURVE" and domain == _DOMAIN and bool(key) and self._admit(key)
            code, text, user = (b"200", b"OK", key) if known else (b"400", b"not registered", b"")
            self.zap_socket.send_multipart([peer, b"", version, request, code, text, user, b""])

    def receive(self, limit: int = 256) -> Iterator[tuple[bytes, bytes, list[memoryview]]]:
        """Yield (routing id, key in z85, frames) of what has arrived, at most `limit` messages."""
        while limit > 0 and has_mail(self.socket):
            limit -= 1
            first, *frames = _receive(self.socket)
            yield first.bytes, str(first.get("User-Id")).encode(), [frame.buffer for frame in frames]

    def someone_left(self) -> bool:
        """Say whether a connection has ended since the last call; sending tells whose."""
        return _drain(self.monitor)

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        """Hand frames to a peer's queue. False if the peer is not connected.

        What does not fit into the queue of a peer that takes nothing is lost; its session sends it again.
        """
        try:
            _send(self.socket, [session, *frames])
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        """Close; what was sent last still has a moment to leave."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=200)
        self.zap_socket.close(linger=0)
        self._context.term()


class Link:
    """A slave's or an application's end.

    Args:
        endpoint: the Gate's, as "tcp://host:port".
        session: routing id, the session id that the master has given.
        server_key: the master's public key, z85.
        public_key, secret_key: this node's pair, z85, the one that it has registered.
        proxy: SOCKS5 proxy on the way, as "host:port"; all that it sees is encrypted.
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
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        _set_common(self.socket)
        for option, value in (
            (zmq.ROUTING_ID, session),
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
        """Say whether the connection was cut or refused since the last call (ZeroMQ connects again by itself)."""
        return _drain(self.monitor)

    def receive(self, limit: int = 256) -> Iterator[list[memoryview]]:
        """Yield the frames of what has arrived, at most `limit` messages."""
        while limit > 0 and has_mail(self.socket):
            limit -= 1
            yield [frame.buffer for frame in _receive(self.socket)]

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Hand frames to the queue. False if it is full (the session sends them again)."""
        try:
            _send(self.socket, frames)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close; what was sent last still has a moment to leave."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=200)
        self._context.term()


def _drain(monitor: zmq.Socket[bytes]) -> bool:
    """Throw all waiting events of a monitor away; say whether there was one."""
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
    """Receive the message that is there."""
    frames = [socket.recv(_DONTWAIT, copy=False)]
    while frames[-1].more:
        frames.append(socket.recv(_DONTWAIT, copy=False))
    return frames
