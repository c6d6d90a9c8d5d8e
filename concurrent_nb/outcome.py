"""How a task can end: one enumeration, used from the worker's result to the user's future."""

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """The end of an attempt, as it is sent."""

    OK = 0  #: the function returned; the payload is the pickled value
    HIT = 1  #: as OK, and the value satisfies the job's `until`: the job is over
    ERROR = 2  #: the function raised; the payload is an ErrorReport
    CANCELLED = 3  #: it was cancelled before or while it ran; no payload
    TIMEOUT = 4  #: it ran longer than its timeout_s; payload: ErrorReport without an exception
    DIED = 5  #: its worker died while it ran; ErrorReport. The master runs it again, or quarantines it
    POISON = 6  #: its worker, or its slave, died too often; ErrorReport
    NOT_PICKLABLE = 7  #: its result cannot be pickled; ErrorReport
    NOT_LOADABLE = 8  #: its function or arguments cannot be unpickled in the worker; ErrorReport
    REFUSED = 9  #: the master did not accept it; ErrorReport


#: statuses that count as a success
SUCCESSES = frozenset({Status.OK, Status.HIT})
#: statuses after which `retries` may run the task again
RETRIABLE = frozenset({Status.ERROR, Status.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Hit:
    """A function returns `Hit(value)` to end its job (`until`). The worker reports it as Status.HIT."""

    value: object
