"""One kept-alive HTTP connection to one endpoint, on which every exchange ends by its deadline. For the control client.

The standard library's HTTP client limits the wait for each piece of an answer, so a peer that sends a byte now and then
can hold it for ever. Here the time left is set anew before every piece. No redirect is followed, no proxy is used, and
nothing is sent twice.
"""

import contextlib
import http.client
import io
import ipaddress
import queue
import select
import socket
import ssl
import threading
import urllib.parse
from typing import Final, NamedTuple

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import AccessRefused, ConfigurationError, ProtocolError, TooLarge
from concurrent_nb.transport import tls
from concurrent_nb.transport.addresses import is_loopback

#: what is read of an answer; a master's largest is a list of all its jobs
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
#: the master closes a connection after 10 s of silence; we leave earlier, so that a call never meets a closing one
MAX_IDLE_S: Final = 5.0


class Deadline:
    """A point in time, and how long it is until then."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds

    def left_s(self) -> float:
        """Give the seconds that are left, more than 0; TimeoutError if there are none."""
        left_s = self._at - monotonic()
        if left_s <= 0:
            raise TimeoutError("out of time")
        return left_s


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Endpoint(NamedTuple):
    """The URL of a control channel, taken apart."""

    url: str
    host: str
    port: int
    context: ssl.SSLContext | None  #: None for plain HTTP
    certificate_pem: str | None  #: the only certificate that is accepted; None for those that the system trusts

    @classmethod
    def of(cls, url: str, certificate_pem: str | None) -> "Endpoint":
        """Take a URL apart. ConfigurationError for what is none, and for plain HTTP to another machine."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, port, bare = parts.hostname, parts.port, parts.path in ("", "/")
        except ValueError:
            host, port, bare = None, None, False
        if not host or not port or not bare or parts.scheme not in ("http", "https"):
            raise ConfigurationError(f"{url!r} is no endpoint: write http://HOST:PORT or https://HOST:PORT")
        if parts.scheme == "https":
            context = tls.client_context(certificate_pem) if certificate_pem else ssl.create_default_context()
            return cls(url, host, port, context, certificate_pem)
        if not is_loopback(host):
            raise ConfigurationError(f"{url} is plain HTTP to another machine, which would show the token: use https")
        return cls(url, host, port, None, None)


class HttpLink:
    """A connection to an endpoint. One exchange at a time; after an error it is only good for `close`."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        """Connect. OSError: it cannot be done in time. AccessRefused: another certificate. ProtocolError: no TLS."""
        self.endpoint = endpoint
        self._socket = _connect(endpoint, deadline)
        self._timed = _TimedSocket(self._socket)
        self._used_at = monotonic()

    def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes, deadline: Deadline) -> Reply:
        """Send a request and read the whole reply.

        OSError: no complete reply came in time. ProtocolError: the peer does not speak HTTP. TooLarge: so is the reply.
        """
        self._timed.deadline = deadline
        connection = http.client.HTTPConnection(self.endpoint.host, self.endpoint.port)
        connection.sock = self._timed  # it has what an HTTPConnection uses of a socket
        try:
            connection.request(method, path, body, headers)
            self._timed.flush()
            with connection.getresponse() as response:
                data = response.read(MAX_ANSWER_BYTES + 1)
                missing_bytes = response.length or 0
        except http.client.RemoteDisconnected:
            raise
        except (http.client.HTTPException, ValueError) as error:
            raise ProtocolError(f"not an HTTP server, or a broken one: {type(error).__name__}") from None
        if len(data) > MAX_ANSWER_BYTES:
            raise TooLarge(f"the reply is over {MAX_ANSWER_BYTES} bytes", len(data), MAX_ANSWER_BYTES)
        if missing_bytes:
            raise ConnectionResetError(f"the connection ended {missing_bytes} bytes before the reply did")
        self._used_at = monotonic() if not response.will_close else float("-inf")
        return Reply(response.status, data)

    def is_fresh(self) -> bool:
        """Tell whether another exchange may start: used a moment ago, and nothing (so no end either) came in since."""
        return monotonic() - self._used_at < MAX_IDLE_S and not _has_news(self._socket)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class _TimedSocket:
    """As much of a socket as the HTTP client uses, with one deadline for all that it does."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unsent = bytearray()
        self.deadline = Deadline(0)

    def sendall(self, data: bytes) -> None:
        """Keep the data: head and body come one by one, and are sent as one."""
        self._unsent += data

    def flush(self) -> None:
        """Send what was kept."""
        with memoryview(bytes(self._unsent)) as rest:
            self._unsent.clear()
            sent_bytes = 0
            while sent_bytes < len(rest):
                self._socket.settimeout(self.deadline.left_s())
                sent_bytes += self._socket.send(rest[sent_bytes:])

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def receive_into(self, buffer: "memoryview[int]") -> int:
        self._socket.settimeout(self.deadline.left_s())
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        """Leave it open: an HTTPConnection closes its socket before the reply is read. The link closes it."""


class _Incoming(io.RawIOBase):
    """The receiving half of a timed socket, as a file."""

    def __init__(self, sock: _TimedSocket) -> None:
        self._timed = sock
        self._started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        count = self._timed.receive_into(buffer)
        # A ZeroMQ port, for one, greets with a few bytes and then waits for ours: no need to wait for a line's end.
        if not self._started and not b"HTTP/".startswith(bytes(buffer[: min(count, 5)])):
            raise ProtocolError("not an HTTP server")
        self._started = True
        return count


def _connect(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    address = _resolve(endpoint, deadline)
    sock = socket.create_connection((address, endpoint.port), timeout=deadline.left_s())
    try:
        # A call is one short message each way, and no acknowledgement may wait for the next.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if endpoint.context is None else _wrap(sock, endpoint, endpoint.context, deadline)
    except BaseException:
        sock.close()
        raise


def _wrap(sock: socket.socket, endpoint: Endpoint, context: ssl.SSLContext, deadline: Deadline) -> ssl.SSLSocket:
    sock.settimeout(deadline.left_s())
    try:
        wrapped = context.wrap_socket(sock, server_hostname=endpoint.host)
    except ssl.SSLCertVerificationError as error:
        pinned = "it is not the one in the connection file" if endpoint.certificate_pem else error.verify_message
        raise AccessRefused(f"its TLS certificate is not accepted: {pinned}") from None
    except ssl.SSLEOFError:
        raise ConnectionResetError("it closed the connection") from None
    except ssl.SSLError:
        raise ProtocolError("it does not speak TLS, or none that we speak") from None
    try:
        if endpoint.certificate_pem is not None:
            tls.check_pinned(wrapped, endpoint.certificate_pem)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _resolve(endpoint: Endpoint, deadline: Deadline) -> str:
    """Give the endpoint's address. Nothing limits the time of a name look-up, so a name is looked up in a thread."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(endpoint.host))
    found: queue.SimpleQueue[str | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(str(socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)[0][4][0]))
        except OSError as error:
            found.put(error)

    threading.Thread(target=look_up, name=f"look up {endpoint.host}", daemon=True).start()
    try:
        answer = found.get(timeout=deadline.left_s())
    except queue.Empty:
        raise TimeoutError(f"the name {endpoint.host} was not found in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _has_news(sock: socket.socket) -> bool:
    """Tell whether something came in, or the end did."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
