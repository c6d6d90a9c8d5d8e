"""The outcomes of attempts that no worker reports: those that were stopped, and those that were lost with a worker."""

from typing import Final

import msgspec

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import ErrorReport, OutcomeFrame
from concurrent_nb.workers.slave_side.attempts import Attempt, Disposition
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState

#: most workers in the reserve, so at most this many tasks are blocked at the same time
RESERVE_MAX: Final = 128

_encode: Final = msgspec.msgpack.Encoder().encode


def stopped(attempt: Attempt, worker: WorkerState, elapsed_s: float) -> OutcomeFrame:
    """Return the outcome of an attempt that was stopped: by its timeout, refused, or cancelled."""
    if attempt.disposition is Disposition.TIME_OUT:
        message = f"task {attempt.name} ran longer than its timeout of {attempt.timeout_s:g} s and was stopped"
        message += f" after {elapsed_s:.2f} s"
        return attempt.end(Status.TIMEOUT, elapsed_s, worker.pid, _encode(ErrorReport("", message, "")))
    if attempt.disposition is Disposition.REFUSE:
        message = f"task {attempt.name} waits for tasks of its own, as {RESERVE_MAX} tasks of its slave do already"
        message += ": let fewer of them wait at the same time, or let a task return what should run next"
        return attempt.end(Status.ERROR, elapsed_s, worker.pid, _encode(ErrorReport("TaskRefused", message, "")))
    return attempt.end(Status.CANCELLED, elapsed_s, worker.pid)


def died(attempt: Attempt, worker: WorkerState, reason: str, elapsed_s: float) -> OutcomeFrame:
    """Return the outcome of an attempt that is to blame for its worker's death, `reason` as in "died of SIGSEGV"."""
    message = f"worker {worker.pid} {worker.death_reason or reason} while it ran task {attempt.name}"
    if worker.is_broken:
        message = f"worker {worker.pid} {worker.death_reason}; it had task {attempt.name}"
    return attempt.end(Status.DIED, elapsed_s, worker.pid, _encode(ErrorReport("", message, "")))
