"""Addresses to listen on and addresses to tell others, for the control channel: resolve, bind, advertise.

An address that is told to others is never "all interfaces", which no one can connect to, and never the loopback one
where there is any other, because on another machine that is another machine.
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence

import psutil
from tornado.netutil import bind_sockets

from concurrent_nb.errors import ConfigurationError

log = logging.getLogger(__name__)


def resolve(addresses: Sequence[str]) -> list[str]:
    """Give the IP addresses behind names and addresses, each once. ConfigurationError for what is neither."""
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
    """Listen on IP addresses, on one port if that can be had on all. ConfigurationError: an address or port cannot."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port {port} is none: choose one from 1 to 65535, or 0 for a free one")
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            # With port 0, the first address finds a port and the others follow.
            sockets += _bind_one(address, sockets[0].getsockname()[1] if sockets else port, may_differ=port == 0)
    except OSError as error:
        for sock in sockets:
            sock.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(f"cannot listen on port {port} of {address}: {reason}") from None
    if not sockets:
        raise ConfigurationError(f"this machine has none of the addresses {', '.join(addresses)}")
    return sockets


def advertised(sock: socket.socket) -> list[str]:
    """Give the HOST:PORT texts under which a listening socket can be reached, the best first."""
    host, port = sock.getsockname()[:2]
    hosts = _interfaces(sock.family) if ipaddress.ip_address(host).is_unspecified else [host]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def plain_host(address: str) -> str:
    """Give an IP address as one writes it: without zone, and IPv4 where it is that within IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_loopback(address: str) -> bool:
    """Tell whether an IP address is one that only this machine reaches."""
    return ipaddress.ip_address(plain_host(address)).is_loopback


def _bind_one(address: str, port: int, may_differ: bool) -> list[socket.socket]:
    try:
        return bind_sockets(port, address)
    except OSError as error:
        if may_differ and port and error.errno == errno.EADDRINUSE:
            return bind_sockets(0, address)
        raise


def _interfaces(family: int) -> list[str]:
    """Give this machine's addresses of a family, loopback last. Link-local ones need a zone, which no URL carries."""
    entries = [entry.address for group in psutil.net_if_addrs().values() for entry in group if entry.family == family]
    hosts = sorted({host for host in entries if not ipaddress.ip_address(host).is_link_local}, key=is_loopback)
    return [host for host in hosts if not is_loopback(host)] or hosts
