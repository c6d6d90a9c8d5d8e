"""One kept-alive HTTP connection to one endpoint, on which every exchange ends by its deadline. For the control client.

The standard library's HTTP client limits the wait for each piece of an answer, so a peer that sends single bytes can
hold it for ever. Here the remaining time is set before every piece. The client follows no redirect, uses no proxy, and
sends nothing twice.
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

#: most bytes of an answer; a master's largest is a list of all its jobs
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
#: seconds; shorter than the master's limit for idle connections, so that no call uses a closing one
MAX_IDLE_S: Final = 5.0


class Deadline:
    """A point in time."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds

    def left_s(self) -> float:
        """Return the remaining seconds, more than 0. Raises TimeoutError if there are none."""
        left_s = self._at - monotonic()
        if left_s <= 0:
            raise TimeoutError("out of time")
        return left_s


class Reply(NamedTuple):
    """Status and body of a reply."""

    status: int
    body: bytes


class Endpoint(NamedTuple):
    """The parsed URL of a control channel."""

    url: str
    host: str
    port: int
    context: ssl.SSLContext | None  #: None for plain HTTP
    certificate_pem: str | None  #: the only accepted certificate; None for those that the system trusts

    @classmethod
    def of(cls, url: str, certificate_pem: str | None) -> "Endpoint":
        """Parse a URL. Raises ConfigurationError for an invalid one, and for plain HTTP to another machine."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, port, bare = parts.hostname, parts.port, parts.path in ("", "/")
        except ValueError:
            host, port, bare = None, None, False
        if not host or not port or not bare or parts.scheme not in ("http", "https"):
            raise ConfigurationError(f"{url!r} is not an endpoint: write http://HOST:PORT or https://HOST:PORT")
        if parts.scheme == "https":
            context = tls.client_context(certificate_pem) if certificate_pem else ssl.create_default_context()
            return cls(url, host, port, context, certificate_pem)
        if not is_loopback(host):
            raise ConfigurationError(f"{url} is plain HTTP to another machine, which would show the token: use https")
        return cls(url, host, port, None, None)


class HttpLink:
    """A connection to an endpoint. One exchange at a time; after an error only `close` may be called."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        """Connect. Raises OSError if that fails, AccessRefused for another certificate, ProtocolError without TLS."""
        self.endpoint = endpoint
        self._socket = _connect(endpoint, deadline)
        self._timed = _TimedSocket(self._socket)
        self._used_at = monotonic()

    def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes, deadline: Deadline) -> Reply:
        """Send a request and read the whole reply.

        Raises OSError without a complete reply in time, ProtocolError if the peer does not use HTTP, TooLarge if the
        reply is too large.
        """
        self._timed.deadline = deadline
        connection = http.client.HTTPConnection(self.endpoint.host, self.endpoint.port)
        connection.sock = self._timed  # it has the methods of a socket that an HTTPConnection uses
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
        """Return whether another exchange may start: used recently, and no data and no end of file arrived since."""
        return monotonic() - self._used_at < MAX_IDLE_S and not _is_readable(self._socket)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class _TimedSocket:
    """The methods of a socket that the HTTP client uses, with one deadline for all of them."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unsent = bytearray()
        self.deadline = Deadline(0)

    def sendall(self, data: bytes) -> None:
        """Keep the data: head and body arrive separately, and are sent together."""
        self._unsent += data

    def flush(self) -> None:
        """Send the kept data."""
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
        """Do nothing: an HTTPConnection closes its socket before the reply is read. The link closes the real one."""


class _Incoming(io.RawIOBase):
    """The receiving half of a timed socket, as a file."""

    def __init__(self, sock: _TimedSocket) -> None:
        self._timed = sock
        self._started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        count = self._timed.receive_into(buffer)
        # A ZeroMQ port, for example, sends a few bytes and then waits for ours, so do not wait for the end of a line.
        if not self._started and not b"HTTP/".startswith(bytes(buffer[: min(count, 5)])):
            raise ProtocolError("not an HTTP server")
        self._started = True
        return count


def _connect(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    address = _resolve(endpoint, deadline)
    sock = socket.create_connection((address, endpoint.port), timeout=deadline.left_s())
    try:
        # A call is one short message each way, so Nagle's algorithm would delay it.
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
        raise ProtocolError("it does not use TLS, or no version that we support") from None
    try:
        if endpoint.certificate_pem is not None:
            tls.check_pinned(wrapped, endpoint.certificate_pem)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _resolve(endpoint: Endpoint, deadline: Deadline) -> str:
    """Return the endpoint's address. A name look-up has no time limit, so it runs in a thread."""
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


def _is_readable(sock: socket.socket) -> bool:
    """Return whether data or the end of file has arrived."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
