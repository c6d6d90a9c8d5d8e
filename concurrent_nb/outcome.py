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
    TAKEN_BACK = 10  #: it had not begun, and its application has taken it back to run it itself; no payload
    DEPENDENCY_FAILED = 11  #: a task whose result it needs has failed or was cancelled; the ErrorReport of that task
    INPUT_GONE = 12  #: the master does not have a result that it needs, and its application has it; no payload
    KEPT = 13  #: as OK, and its result stays in the cluster; no payload


#: statuses that count as a success
SUCCESSES = frozenset({Status.OK, Status.HIT, Status.KEPT})
#: statuses after which `retries` may run the task again
RETRIABLE = frozenset({Status.ERROR, Status.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Hit:
    """A value that ends its whole job: return `Hit(value)` from a function of a job that was started with `until`.

    >>> def is_square(n):
    ...     if int(n ** 0.5) ** 2 == n:
    ...         return concurrent_nb.Hit(n)
    >>> job = app.start_job(is_square, [(n,) for n in range(90, 110)], until=True)
    >>> job.wait()
    True
    >>> job.hit.result()
    100

    The future of the task has the value. Tasks that have not ended are cancelled. In a job without `until`, and outside
    of tasks, `Hit` has no effect. In a notebook, `%%concurrent_task --until` starts such a job.
    """

    value: object  #: the result of the task
