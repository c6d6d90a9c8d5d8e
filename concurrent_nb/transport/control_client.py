"""Calls the master's methods over the control channel: for slaves, applications and the command line. Synchronous.

    client = ControlClient(info.endpoints, info.tokens["client"], info.certificate_pem)
    client.call("status", jobs=True)

A new connection first requests a ping, so that no token and no call reaches a server that is not a master. After that a
call is sent once: if its answer does not arrive, MasterUnreachable is raised, and it may have been carried out or not.
Starts quickly: no asyncio, no Tornado.
"""

import itertools
import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NoReturn

from concurrent_nb.errors import (
    AccessRefused,
    ConcurrentError,
    ConfigurationError,
    MasterUnreachable,
    ProtocolError,
    TooLarge,
)
from concurrent_nb.transport.http_link import Deadline, Endpoint, HttpLink, Reply
from concurrent_nb.wire import jsonrpc

_REMEDY: Final = (
    "Is the cluster running, and can this machine reach it? A connection file that outlived its master can be deleted."
)


class ControlClient:
    """Calls one master, which may have several endpoints. Any thread may call; calls run one after another."""

    def __init__(
        self, endpoints: Sequence[str], token: str, certificate_pem: str | None = None, timeout_s: float = 5.0
    ) -> None:
        """Create a client; the first call connects.

        Args:
            endpoints: URLs like http://127.0.0.1:8000, tried in this order; plain HTTP on this machine only.
            token: its role decides which methods may be called.
            certificate_pem: the only TLS certificate to accept; None for those that the system trusts.
            timeout_s: seconds after which each call ends.

        Raises ConfigurationError for invalid arguments.
        """
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigurationError(f"endpoints are a list of URLs, not {endpoints!r}")
        if not token.isascii() or not token.isprintable():
            raise ConfigurationError("the token is not a line of printable ASCII")
        if not timeout_s > 0:
            raise ConfigurationError(f"timeout_s is {timeout_s}, it must be more than 0")
        self._endpoints = [Endpoint.of(url, certificate_pem) for url in endpoints]
        self._certificate_pem = certificate_pem
        self._token = token
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._link: HttpLink | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"ControlClient({[endpoint.url for endpoint in self._endpoints]})"

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The URL that the next call tries first: the last one that worked."""
        return self._endpoints[0].url

    def separate(self, timeout_s: float) -> "ControlClient":
        """Return a client of the same master with a connection of its own: neither waits for the other's calls."""
        urls = [endpoint.url for endpoint in self._endpoints]
        return ControlClient(urls, self._token, self._certificate_pem, timeout_s)

    def call(self, method: str, /, **params: object) -> Any:
        """Call a method and return its result. A ConcurrentError that the method raises is raised here with its class.

        Raises MasterUnreachable if no master answers in time, AccessRefused if it refuses the token or has another
        certificate, ProtocolError if the answer is not from a master of this protocol, TooLarge for too large a call.
        """
        deadline = Deadline(self._timeout_s)
        call_id = next(self._ids)
        body = jsonrpc.encode_call(method, params, call_id)
        if len(body) > jsonrpc.MAX_BODY_BYTES:
            text = f"the call of {method} has {len(body)} bytes, and a master reads {jsonrpc.MAX_BODY_BYTES}"
            raise TooLarge(text, len(body), jsonrpc.MAX_BODY_BYTES)
        self._forget_parent()
        if not self._lock.acquire(timeout=self._timeout_s):
            raise MasterUnreachable(f"{method} was not called: other threads' calls to the master took all the time")
        try:
            link = self._usable_link(deadline)
            reply = self._post(link, method, body, deadline)
        finally:
            self._lock.release()
        return _result(link.endpoint.url, reply, call_id)

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        self._forget_parent()
        with self._lock:
            self._drop()

    def _forget_parent(self) -> None:
        """After a fork, drop the parent's connection: two processes on one would read each other's answers."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _post(self, link: HttpLink, method: str, body: bytes, deadline: Deadline) -> Reply:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            return link.exchange("POST", jsonrpc.API_PATH, headers, body, deadline)
        except ConcurrentError:
            self._drop()
            raise
        except OSError as error:
            self._drop()
            text = f"the master at {link.endpoint.url} got the call of {method}, but its answer did not come"
            raise MasterUnreachable(f"{text} ({_reason(error)}). It may have been carried out or not.") from None
        except BaseException:  # an interrupt: the next call would read this answer
            self._drop()
            raise

    def _usable_link(self, deadline: Deadline) -> HttpLink:
        if self._link is not None and not self._link.is_fresh():
            self._drop()
        if self._link is None:
            self._link = self._connect(deadline)
        return self._link

    def _connect(self, deadline: Deadline) -> HttpLink:
        """Try each endpoint, with an equal share of the remaining time, and move the one that works to the front."""
        failures: list[tuple[Endpoint, Exception]] = []
        for tried, endpoint in enumerate(self._endpoints):
            try:
                share_s = deadline.left_s() / (len(self._endpoints) - tried)
                link = _connect_and_ping(endpoint, Deadline(share_s))
            except (OSError, ConcurrentError) as error:
                failures.append((endpoint, error))
            else:
                self._endpoints.insert(0, self._endpoints.pop(tried))
                return link
        _raise_all(failures)


def _connect_and_ping(endpoint: Endpoint, deadline: Deadline) -> HttpLink:
    """Connect, and check with a ping that a master answers."""
    link = HttpLink(endpoint, deadline)
    try:
        reply = link.exchange("GET", jsonrpc.PING_PATH, {}, b"", deadline)
        if (reply.status, reply.body) != (200, jsonrpc.PONG):
            raise _odd_reply(reply)
    except BaseException:
        link.close()
        raise
    return link


def _result(url: str, reply: Reply, call_id: int) -> Any:
    """Return the result in a reply, or raise its error."""
    if reply.status == 200:
        return jsonrpc.read_answer(reply.body, call_id)
    try:
        jsonrpc.read_answer(reply.body, call_id)
    except ProtocolError as error:
        if type(error) is not ProtocolError:
            raise
    if reply.status in (401, 403):
        raise AccessRefused(f"the master at {url} refused the token: read the cluster's connection file again")
    raise _odd_reply(reply, f"{url}: ")


def _odd_reply(reply: Reply, where: str = "") -> ProtocolError:
    start = jsonrpc.printable(reply.body[:60].decode("utf-8", "replace"))
    return ProtocolError(f"{where}not a concurrent_nb master, but a server that answers {reply.status} {start!r}")


def _raise_all(failures: list[tuple[Endpoint, Exception]]) -> NoReturn:
    """Raise one error for all endpoints: AccessRefused if any refused, else ProtocolError, else MasterUnreachable."""
    lines = [f"  {endpoint.url}: {_reason(error)}" for endpoint, error in failures]
    text = "\n".join(["no master answers:", *lines, _REMEDY])
    kinds = [type(error) for _, error in failures]
    for kind in (AccessRefused, ProtocolError):
        if any(issubclass(found, kind) for found in kinds):
            raise kind(text) from None
    unreachable = MasterUnreachable(text)
    unreachable.__context__ = failures[0][1]  # not shown; `shortage` looks for its errno
    raise unreachable from None


def _reason(error: Exception) -> str:
    """Describe an error in a few words, without its errno."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (isinstance(error, OSError) and error.strerror) or str(error)
