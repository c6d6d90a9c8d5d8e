"""How much the master accepts from one node at a time, and how the jobs of an application share it. Pure.

The master announces its limits when an application registers. Tasks beyond them wait in the application's client core,
so a user who submits a million tasks is slowed down, and not refused.

No job may use all: a job may have SHARE times as much at the master as is then still free (dynamic thresholds, as in
switches that share their memory). One job alone uses 7/8 of the limit. The next one finds room immediately, however
large the first is, and as results come all get the same.
"""

import sys
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.errors import ProtocolError

#: a job may have this many times as much at the master as is free
SHARE: Final = 7


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the master accepts from one node at a time."""

    tasks: int = sys.maxsize  #: of an application, without an outcome
    bytes: int = sys.maxsize  #: of their arguments and functions, without those in shared memory
    segments: int = sys.maxsize  #: of shared memory that the master must keep open
    object: int = sys.maxsize  #: bytes of one result of a slave that is not in shared memory


#: of a master that announces none
UNLIMITED: Final = Quota()
_NAMES: Final = ("tasks", "bytes", "segments", "object")


def parse_limits(limits: Any) -> Quota:
    """Read the limits of a master; those that are missing do not apply. Raises ProtocolError."""
    if limits is None:
        return UNLIMITED
    if not isinstance(limits, dict):
        raise ProtocolError(f"the master announces limits that are a {type(limits).__name__}")
    known = {name: limits[name] for name in _NAMES if limits.get(name) is not None}
    for name, limit in known.items():
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ProtocolError(f"the master announces {limit!r:.100} as its limit of {name}")
    return Quota(**known)


def room(limit: int, used: int, own: int) -> int:
    """Return how much more a job may have at the master: it has `own` there, and all jobs together have `used`."""
    free = limit - used
    return min(free, (SHARE * free - own) // (SHARE + 1)) if own else min(free, max(1, SHARE * free // (SHARE + 1)))
