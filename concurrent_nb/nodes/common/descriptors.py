"""How many descriptors a node may have open: the system's limit, and a reserve for the nodes that are registered."""

import os
import sys
from typing import Final

from concurrent_nb.errors import ConfigurationError, LimitExceeded

if sys.platform != "win32":
    import resource

#: fewest that a node needs
NEEDED_MIN: Final = 64
#: a node needs no more, and some programs loop over all that they may have
USEFUL_MAX: Final = 1 << 16
#: no node is registered when fewer are left, because the registered ones need them
RESERVED: Final = 32


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many descriptors as the system allows.

    Must be called at the start of a node, and before nodes are started. Raises ConfigurationError if they are too few.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USEFUL_MAX if hard == resource.RLIM_INFINITY else min(hard, USEFUL_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # a system that allows less than it reports
            wanted = soft
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < NEEDED_MIN:
        raise ConfigurationError(
            f"this process may open {soft} files and connections, a node needs at least {NEEDED_MIN}: raise `ulimit -n`"
        )


def share_of_limit(part: float, at_most: int) -> int:
    """Return a part of the number of descriptors that this process may have, at most `at_most`."""
    if sys.platform == "win32":
        return at_most
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return at_most if limit == resource.RLIM_INFINITY else min(at_most, int(limit * part))


def refuse_if_full(what: str) -> None:
    """Raise LimitExceeded, which names `what`, if fewer than RESERVED descriptors are left."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    if sys.platform == "win32" or not os.path.isdir(folder):
        return  # the system does not report how many are open
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir(folder))
    except OSError:  # there is none left even for this call
        used = limit
    if limit != resource.RLIM_INFINITY and limit - used < RESERVED:
        raise LimitExceeded(
            f"the master is full: it has {used} of {limit} files and connections open, and no room for {what}: "
            "start it with a higher limit (`ulimit -n`)"
        )
