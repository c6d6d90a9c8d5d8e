"""How many descriptors a node may have open: as many as the system lets it, and some of them kept for emergencies."""

import os
import sys
from typing import Final

from concurrent_nb.errors import ConfigurationError, LimitExceeded

if sys.platform != "win32":
    import resource

#: a node cannot do its work with fewer
NEEDED_MIN: Final = 64
#: more are of no use to a node, and some programs go through all that they may have
USEFUL_MAX: Final = 1 << 16
#: no node is registered when fewer are left: those that are there need them
RESERVED: Final = 32


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many descriptors as the system allows.

    To be called at the start of a node, and by who starts nodes. Raises ConfigurationError if these are too few.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USEFUL_MAX if hard == resource.RLIM_INFINITY else min(hard, USEFUL_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # a system that allows less than it says
            wanted = soft
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < NEEDED_MIN:
        raise ConfigurationError(
            f"this process may open {soft} files and connections, a node needs at least {NEEDED_MIN}: raise `ulimit -n`"
        )


def share_of_limit(part: float, at_most: int) -> int:
    """Give how many descriptors something may take, if that is a part of all that this process may have."""
    if sys.platform == "win32":
        return at_most
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return at_most if limit == resource.RLIM_INFINITY else min(at_most, int(limit * part))


def refuse_if_full(what: str) -> None:
    """Raise LimitExceeded if there is no room for `what`, because hardly any descriptors are left."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    if sys.platform == "win32" or not os.path.isdir(folder):
        return  # nothing tells how many are open
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir(folder))
    except OSError:  # not even for this one
        used = limit
    if limit != resource.RLIM_INFINITY and limit - used < RESERVED:
        raise LimitExceeded(
            f"the master is full: it has {used} of {limit} files and connections open, and no room for {what}: "
            "start it with a higher limit (`ulimit -n`)"
        )
