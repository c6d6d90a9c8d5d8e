"""All errors that concurrent_nb raises.

`ConcurrentError` is the root. Below it: errors of *your call or configuration*, of *a peer*, of *the cluster*, and of
*a task*. Every message contains what happened, the id concerned, and a remedy; attributes hold the data of the message.
Imports no module of ours.
"""

import concurrent.futures
import pickle
from collections.abc import Sequence


class ConcurrentError(Exception):
    """Root of all errors of concurrent_nb."""


# ------------------------------------------------------------------------------------------ your call or configuration


class ConfigurationError(ConcurrentError, ValueError):
    """An option, a configuration item or a component is invalid."""


class CellError(ConcurrentError):
    """A notebook cell cannot become a task: a syntax error, or a construct that has no meaning on a cluster."""


class CompileError(CellError):
    """A Cython cell does not compile; `problems` lists (line, column, message)."""

    def __init__(self, message: str, problems: Sequence[tuple[int, int, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class BuildFailed(ConcurrentError):
    """A compiled cell cannot be built or loaded on a machine; the message contains the reason and what to install."""


class CaptureError(ConcurrentError):
    """A name that a cell or function uses cannot be sent to workers; `name` is that name."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class NotPicklable(ConcurrentError, pickle.PicklingError):
    """A function or an argument cannot be pickled, so it cannot be sent."""


class TooLarge(ConcurrentError, ValueError):
    """An object to send is larger than its limit; see `size_bytes` and `limit_bytes`."""

    def __init__(self, message: str, size_bytes: int = 0, limit_bytes: int = 0) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


# ---------------------------------------------------------------------------------------------------------- a peer


class ProtocolError(ConcurrentError):
    """A peer sent a message that the protocol (wire/PROTOCOL.md) does not allow."""


class VersionMismatch(ProtocolError):
    """Two nodes have incompatible versions; the message names both."""


class AccessRefused(ConcurrentError, PermissionError):
    """A token, a key, a role or an address was refused, or a key file is readable by others."""


# ------------------------------------------------------------------------------------------------------ the cluster


class ClusterError(ConcurrentError):
    """Base of errors of the cluster as a whole."""


class ClusterNotFound(ClusterError, FileNotFoundError):
    """There is no connection file of that name."""


class ClusterStartFailed(ClusterError):
    """A node of the cluster did not start; the message contains the end of its log."""


class LaunchFailed(ClusterStartFailed):
    """A launcher cannot start slaves, or they end again and again; the message contains the end of their log."""


class InitializerFailed(ClusterStartFailed, concurrent.futures.BrokenExecutor):
    """The initializer of the workers has failed, so no task can run; the message contains its traceback."""


class MasterUnreachable(ClusterError, ConnectionError):
    """There is a connection file, but no master answers at its endpoints."""


class MasterLost(ClusterError, concurrent.futures.BrokenExecutor):
    """The connection to the master was lost and not restored in time. Open futures raise this."""


class JournalError(ClusterError):
    """A master cannot use its journal; the message has the reason and a remedy."""


class JournalInUse(JournalError):
    """Another master has the journal: one journal belongs to one running master."""


class JournalFull(JournalError):
    """There is no room on the disk for the journal."""


class JournalDamaged(JournalError):
    """A journal, or a record of it, is torn or was changed by something else than a master."""


class EngineUnavailable(ClusterError, ConnectionError):
    """Tasks cannot run on an engine (Dask, Ray, an executor): it does not answer, has no workers, or lacks a
    package; the message has the reason and a remedy."""


class EngineLost(ClusterError, concurrent.futures.BrokenExecutor):
    """The connection to an engine was lost, or it has had no workers for too long. Open futures raise this."""


class LimitExceeded(ClusterError, concurrent.futures.BrokenExecutor):
    """A node exceeded a limit of the master; the message names the limit and its setting."""


class AttachRefused(ClusterError):
    """An application cannot attach to a job: it is not kept, it is another user's, or only its own application can put
    its tasks together. The message has the reason."""


class KernelUnavailable(ClusterError):
    """A slave did not become a Jupyter kernel; the message contains the reason and a remedy."""


class StackUnavailable(ClusterError):
    """A stack cannot be shown: the task does not run, or its worker did not write it. The message has the reason."""


# ------------------------------------------------------------------------------------------------------------ a task


class TaskError(ConcurrentError):
    """A task ended without its own result or exception.

    `task` is "job/index"; `slave` and `worker` are where its last attempt ran ("" and 0 if it never ran).
    """

    def __init__(self, message: str, task: str = "", slave: str = "", worker: int = 0) -> None:
        super().__init__(message)
        self.task = task
        self.slave = slave
        self.worker = worker


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its `timeout_s` and was stopped."""


class WorkerDied(TaskError):
    """The worker process died while it ran the task, and the task may not run again.

    `reported` is the last text that the task has given to `report`.
    """

    reported = ""


class PoisonTask(WorkerDied):
    """Several workers or slaves died with the task, so it is quarantined; the message lists how each died."""


class ResultNotPicklable(TaskError):
    """The task finished, but its result cannot be pickled; the message contains the result's repr."""


class ResultNotLoadable(TaskError):
    """The task's result arrived, but the application cannot unpickle it."""


class FunctionNotLoadable(TaskError):
    """A worker cannot unpickle the task's function or arguments (a module that it lacks, for example)."""


class SetupFailed(TaskError):
    """A setup of the application has failed in a worker, so tasks that need it cannot run there."""


class TaskRefused(TaskError):
    """The master did not accept the task; the message contains the reason."""


class DependencyFailed(TaskError):
    """The task did not run: a task whose result it needs has failed or was cancelled, with the error in `__cause__`."""


class KeptResultLost(TaskError):
    """A result that was kept in the cluster was freed, or was lost with its master; the message has the reason."""


class SystemStalled(ConcurrentError):
    """A task system has no task left and is not complete, so it could never end."""


class WorldError(ConcurrentError):
    """A step of a world has failed; `step` is its number, `member` the id of a member; -1 if it is not one alone."""

    def __init__(self, message: str, step: int = -1, member: int = -1) -> None:
        super().__init__(message)
        self.step = step
        self.member = member


class RemoteError(TaskError):
    """The task raised an exception that cannot be pickled; `type_name` is its class."""

    def __init__(self, message: str, task: str = "", slave: str = "", worker: int = 0, type_name: str = "") -> None:
        super().__init__(message, task, slave, worker)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that a task raised: its traceback in the worker, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'
