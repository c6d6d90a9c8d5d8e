"""Addresses to listen on and to advertise: check, resolve, bind, advertise; and the one definition of loopback.

An advertised address is never "all interfaces", to which no one can connect, and never a loopback one where there is
another, because on another machine that is another machine.
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence

from concurrent_nb.errors import ConfigurationError

log = logging.getLogger(__name__)

#: connections that may wait to be accepted
BACKLOG = 128


def resolve(addresses: Sequence[str]) -> list[str]:
    """Return the IP addresses behind names and addresses, each once. Raises ConfigurationError for what is neither."""
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


def own_addresses(addresses: Sequence[str], item: str) -> list[str]:
    """Return the IP addresses to bind; 0.0.0.0 and :: become all addresses of this machine, so that each is advertised.

    Raises ConfigurationError, which names the configuration item, for what is not an IP address of this machine. Names
    are not accepted: elsewhere they may mean another machine.
    """
    found: dict[str, None] = {}
    for address in addresses:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise ConfigurationError(
                f"{item} has {address!r}, which is no IP address: give one of this machine, such as 127.0.0.1, or "
                "0.0.0.0 for all of them"
            ) from None
        family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
        if str(parsed) in ("0.0.0.0", "::"):
            found.update(dict.fromkeys(_interface_addresses(family)))
            continue
        with socket.socket(family) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                raise ConfigurationError(
                    f"{item} has {address}, on which this machine cannot listen: {error.strerror}"
                ) from None
        found[address] = None
    return list(found)


def bind(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Listen on IP addresses, on the same port if it is free on all.

    Raises ConfigurationError if an address or the port is not available. An IPv6 address is left out where there is no
    IPv6 but another address, because the name localhost has both everywhere.
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
    """Return the HOST:PORT texts under which a listening socket can be reached, the best first."""
    host, port = sock.getsockname()[:2]
    hosts = [host]
    if ipaddress.ip_address(host).is_unspecified:
        hosts = [each for each in _interface_addresses(sock.family) if not ipaddress.ip_address(each).is_link_local]
        hosts = [each for each in hosts if not is_loopback(each)] or hosts
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def plain_host(address: str) -> str:
    """Return the usual spelling of an IP address: without zone, and IPv4 if it is mapped into IPv6. Names stay."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host: a loopback address in any spelling, or the name localhost.

    Plain HTTP, and so tokens without TLS, is allowed for these hosts alone. Any other name may be another machine.
    """
    try:
        return ipaddress.ip_address(plain_host(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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


def _interface_addresses(family: int) -> list[str]:
    """Return this machine's addresses of a family, each once; not those that need a zone, which no URL carries."""
    import psutil  # here: clients ask for `is_loopback` alone, and start without it

    entries = [entry.address for group in psutil.net_if_addrs().values() for entry in group if entry.family == family]
    return list(dict.fromkeys(address for address in entries if "%" not in address))
