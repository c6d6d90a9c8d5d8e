"""Parses the value of `on=`: the launcher, its place, and for SSH the hosts with their numbers of workers. Pure."""

import re
from typing import Final, NamedTuple

from concurrent_nb.errors import ConfigurationError

_KIND: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
#: user (optional), then a name, an IPv4 address or an IPv6 address in brackets, then slots (optional)
_HOST: Final = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_.+-]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[\w.-]+))(?::(?P<slots>\d+))?"
)
#: most workers of one host
SLOTS_MAX: Final = 1000


class On(NamedTuple):
    """The parsed value of `on=`."""

    launcher: str  #: its short name
    place: str  #: where it starts slaves, in the launcher's own syntax; "" if nothing was given


class SshHost(NamedTuple):
    """A host that SSH reaches."""

    destination: str  #: for the command `ssh`: HOST or USER@HOST, an IPv6 address without brackets
    slots: int | None  #: workers there; None: as configured

    @property
    def name(self) -> str:
        """The host without the user."""
        return self.destination.rpartition("@")[2]


def parse_on(text: str) -> On:
    """Return launcher and place of "LAUNCHER" or "LAUNCHER:PLACE". Raises ConfigurationError.

    >>> parse_on("ssh:hostA,hostB:8")
    On(launcher='ssh', place='hostA,hostB:8')
    >>> parse_on("dask://host:8786")
    On(launcher='dask', place='//host:8786')
    """
    if not text.strip():
        raise ConfigurationError(f"on is {text!r}: it must be a launcher and a place, such as 'ssh:hostA,hostB:8'")
    launcher, _, place = text.strip().partition(":")
    if _KIND.fullmatch(launcher) is None:
        raise ConfigurationError(f"on is {text!r}: it must begin with a launcher, such as 'ssh:hostA,hostB:8'")
    return On(launcher, place.strip())


def parse_hosts(place: str) -> list[SshHost]:
    """Return the hosts of "hostA,user@hostB:8,[fd00::1]:4". Raises ConfigurationError that names the wrong part.

    >>> parse_hosts("hostA,me@[fd00::1]:8")
    [SshHost(destination='hostA', slots=None), SshHost(destination='me@fd00::1', slots=8)]
    """
    hosts: dict[str, SshHost] = {}
    for part in place.split(","):
        host = _read_host(part.strip())
        if host.destination in hosts:
            raise ConfigurationError(
                f"host {host.destination!r} is named twice: write it once, with its number of workers,"
                f" {host.destination}:N"
            )
        hosts[host.destination] = host
    return list(hosts.values())


def parse_range(text: str) -> tuple[int, int]:
    """Return the least and most slaves of "MIN:MAX". Raises ConfigurationError.

    >>> parse_range("0:16")
    (0, 16)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if match is None:
        raise ConfigurationError(f"adapt is {text!r}: it must be the least and the most slaves, such as 0:16")
    return check_range(int(match[1]), int(match[2]))


def check_range(least: object, most: object) -> tuple[int, int]:
    """Return the least and the most slaves. Raises ConfigurationError if they are not in order."""
    if type(least) is not int or type(most) is not int or not 0 <= least <= most or most < 1:
        raise ConfigurationError(
            f"adapt is from {least!r} to {most!r}: it must be two whole numbers of slaves, from 0, the larger one last"
        )
    return least, most


def _read_host(part: str) -> SshHost:
    if not part:
        raise ConfigurationError("on=ssh: needs hosts, separated by commas: ssh:hostA,user@hostB:8")
    match = _HOST.fullmatch(part)
    if match is None or (match["name"] or "x").startswith("-"):
        hint = ": an IPv6 address needs brackets, [fd00::1]:8" if part.count(":") > 1 and "[" not in part else ""
        raise ConfigurationError(f"{part!r} is not a host{hint or ', such as hostA, user@hostA or hostA:8'}")
    slots = None if match["slots"] is None else int(match["slots"])
    if slots is not None and not 1 <= slots <= SLOTS_MAX:
        raise ConfigurationError(
            f"{part!r} asks for {slots} workers, it must be from 1 to {SLOTS_MAX:,}; a port of SSH is set as"
            " --ssh-port N or in ~/.ssh/config"
        )
    host = match["v6"] or match["name"]
    return SshHost(f"{match['user']}@{host}" if match["user"] else host, slots)
