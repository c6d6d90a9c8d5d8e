"""Addresses to listen on and addresses to advertise, for the control channel: resolve, bind, advertise.

An advertised address is never "all interfaces", to which no client can connect, and is the loopback address only if
there is no other, because on another machine it means that machine.
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence

import psutil

from concurrent_nb.errors import ConfigurationError

log = logging.getLogger(__name__)

#: connections that may wait to be accepted
BACKLOG = 128


def resolve(addresses: Sequence[str]) -> list[str]:
    """Return the IP addresses of names and addresses, each once. Raises ConfigurationError for what is neither."""
    if isinstance(addresses, str) or not addresses or not all(addresses):
        raise ConfigurationError(f"addresses to listen on are a list of host names or IP addresses, not {addresses!r}")
    found: dict[str, None] = {}
    for address in addresses:
        try:
            entries = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"cannot listen on {address!r}: {error}") from None
        found.update((str(entry[4][0]), None) for entry in entries)
    return list(found)


def bind(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Listen on IP addresses, on the same port where possible; return the sockets.

    Raises ConfigurationError if an address or the port is not available. Without IPv6, an IPv6 address is skipped if
    there is another address, because the name localhost has both everywhere.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port {port} is invalid: choose one from 1 to 65535, or 0 for a free one")
    sockets: list[socket.socket] = []
    for address in sorted(addresses, key=lambda address: ":" in address):
        try:
            # With port 0, the first address gets a free port and the others use the same.
            wanted = port or (sockets[0].getsockname()[1] if sockets else 0)
            sockets.append(_listen(address, wanted, port_may_differ=port == 0))
        except OSError as error:
            if ":" in address and sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                log.warning("not listening on %s: this machine does not have it", address)
                continue
            for sock in sockets:
                sock.close()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(f"cannot listen on port {port} of {address}: {reason}") from None
    return sockets


def advertised(sock: socket.socket) -> list[str]:
    """Return the HOST:PORT texts under which clients reach a listening socket, the best first."""
    host, port = sock.getsockname()[:2]
    hosts = _interfaces(sock.family) if ipaddress.ip_address(host).is_unspecified else [host]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def plain_host(address: str) -> str:
    """Return an IP address in its usual form: without zone, and as IPv4 if it is IPv4 mapped into IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an IP address."""
    return ipaddress.ip_address(plain_host(address)).is_loopback


def _listen(address: str, port: int, port_may_differ: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if port_may_differ and port and error.errno == errno.EADDRINUSE:
            return _listen(address, 0, port_may_differ=False)
        raise
    sock.setblocking(False)
    return sock


def _interfaces(family: int) -> list[str]:
    """Return this machine's addresses of a family, loopback last; not link-local ones, which need a zone."""
    entries = [entry.address for group in psutil.net_if_addrs().values() for entry in group if entry.family == family]
    hosts = sorted({host for host in entries if not ipaddress.ip_address(host).is_link_local}, key=is_loopback)
    return [host for host in hosts if not is_loopback(host)] or hosts
