"""Finds the address of this machine at which other machines reach it. Sends nothing."""

import contextlib
import ipaddress
import socket

import psutil

from concurrent_nb.errors import LaunchFailed


def address_towards(host: str, port: int = 9) -> str:
    """Return the address of this machine from which it would send to a host.

    Raises LaunchFailed if the host's name is unknown, or no interface leads there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # a UDP socket: this chooses an interface, and sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise LaunchFailed(
            f"this machine does not know how to reach {host} ({error.strerror or error}): correct the name, or give the"
            " interface by which slaves reach this machine"
        ) from None


def address_of_interface(interface: str) -> str:
    """Return the address of an interface, "ib0"; an address is returned as it is, if this machine has it.

    Raises LaunchFailed if there is none.
    """
    there = {
        name: [each.address for each in addresses if each.family in (socket.AF_INET, socket.AF_INET6)]
        for name, addresses in psutil.net_if_addrs().items()
    }
    if interface in there:
        usable = [each for each in there[interface] if not each.lower().startswith("fe80:")]
        if usable:
            return usable[0]
    elif any(interface in addresses for addresses in there.values()):
        return interface
    shown = ", ".join(f"{name} ({', '.join(addresses)})" for name, addresses in sorted(there.items()) if addresses)
    raise LaunchFailed(f"this machine has no address for interface {interface!r}: it has {shown or 'none'}")


def beyond_loopback(address: str) -> tuple[str, ...]:
    """Return the addresses on which a master must listen, besides loopback, so that it is reached by this one."""
    return () if ipaddress.ip_address(address.partition("%")[0]).is_loopback else (address,)


def why_out_of_reach(host: str) -> str:
    """Return why a slave on a host cannot reach a master that listens on loopback; "" if it is on this machine.

    Args:
        host: an IP address; a name counts as this machine's.
    """
    with contextlib.suppress(ValueError):
        there = ipaddress.ip_address(host.partition("%")[0])
        ours = {each.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for each in all_of}
        if not there.is_loopback and str(there) not in ours:
            return (
                "it is on another machine, and slaves reach this one by loopback only: name the engine's address in the"
                " network instead of a local one, or give --interface"
            )
    return ""
