"""Every error that a user of concurrent_nb can meet, on one page.

`ConcurrentError` is the root. Below it: what is wrong with *your call or configuration*, what is wrong with *a peer*,
what is wrong with *the cluster*, and what happened to *a task*. Every message says what happened, to which id, and what
to do; the data behind the message is in attributes. Imports nothing of ours.
"""

import concurrent.futures
import pickle
from collections.abc import Sequence


class ConcurrentError(Exception):
    """Root of all errors that concurrent_nb raises by itself."""


# ------------------------------------------------------------------------------------------ your call or configuration


class ConfigurationError(ConcurrentError, ValueError):
    """An option, a configuration item or a component is not acceptable."""


class CellError(ConcurrentError):
    """A notebook cell cannot become a task: its syntax or a construct in it has no meaning on a cluster."""


class CompileError(CellError):
    """A cell for Cython is not Cython; `problems` has the line, the column and the message of each."""

    def __init__(self, message: str, problems: Sequence[tuple[int, int, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class BuildFailed(ConcurrentError):
    """A compiled cell cannot be built or loaded on a machine; the message says why and what to install."""


class CaptureError(ConcurrentError):
    """A name that a cell or function uses cannot travel; `name` says which."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class NotPicklable(ConcurrentError, pickle.PicklingError):
    """A function or an argument cannot be pickled, so it cannot be sent."""


class TooLarge(ConcurrentError, ValueError):
    """Something that should travel is over its limit; `size_bytes` and `limit_bytes` say by how much."""

    def __init__(self, message: str, size_bytes: int = 0, limit_bytes: int = 0) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


# ---------------------------------------------------------------------------------------------------------- a peer


class ProtocolError(ConcurrentError):
    """A peer sent what the protocol (wire/PROTOCOL.md) does not allow."""


class VersionMismatch(ProtocolError):
    """Two nodes differ in a version that matters; the message names both."""


class AccessRefused(ConcurrentError, PermissionError):
    """A token, a key, a role or an address was refused, or a key file is readable by others."""


# ------------------------------------------------------------------------------------------------------ the cluster


class ClusterError(ConcurrentError):
    """Something is wrong with the cluster as a whole."""


class ClusterNotFound(ClusterError, FileNotFoundError):
    """No connection file of that name."""


class ClusterStartFailed(ClusterError):
    """A node of the cluster did not come up; the message holds the end of its log."""


class InitializerFailed(ClusterStartFailed, concurrent.futures.BrokenExecutor):
    """The initializer of the workers has failed, so no task can run; the message holds its traceback."""


class MasterUnreachable(ClusterError, ConnectionError):
    """There is a connection file, but no master answers at its endpoints."""


class MasterLost(ClusterError, concurrent.futures.BrokenExecutor):
    """The master was there and is gone, and none came back in time. Open futures end with this."""


class LimitExceeded(ClusterError, concurrent.futures.BrokenExecutor):
    """A node made the master hold, or asked it for, more than a limit allows; the message names limit and setting."""


class KernelUnavailable(ClusterError):
    """A slave did not become a Jupyter kernel; the message says why and what to do."""


# ------------------------------------------------------------------------------------------------------------ a task


class TaskError(ConcurrentError):
    """Something other than the task's own exception ended a task.

    `task` is "job/index", `slave` and `worker` say where its last attempt ran ("" and 0 if it never did).
    """

    def __init__(self, message: str, task: str = "", slave: str = "", worker: int = 0) -> None:
        super().__init__(message)
        self.task = task
        self.slave = slave
        self.worker = worker


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its `timeout_s` and was stopped."""


class WorkerDied(TaskError):
    """The worker process died while it ran the task, and the task may not be run again."""


class PoisonTask(WorkerDied):
    """The task was there when several workers or slaves died, so it is quarantined; the message lists how each died."""


class ResultNotPicklable(TaskError):
    """The task finished, but its result cannot be pickled; the message holds the result's repr."""


class ResultNotLoadable(TaskError):
    """The task's result arrived, but cannot be unpickled here."""


class FunctionNotLoadable(TaskError):
    """A worker cannot unpickle the task's function or arguments (a module that it lacks, for example)."""


class SetupFailed(TaskError):
    """A setup of the application has failed in a worker, so no task that needs it can run there."""


class TaskRefused(TaskError):
    """The master did not accept the task; the message says why."""


class SystemStalled(ConcurrentError):
    """A task system has no task left and is not complete, so nothing would ever happen any more."""


class RemoteError(TaskError):
    """Stands for an exception that the task raised and that cannot be pickled; `type_name` is its class."""

    def __init__(self, message: str, task: str = "", slave: str = "", worker: int = 0, type_name: str = "") -> None:
        super().__init__(message, task, slave, worker)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that a task raised: where it was raised, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'
