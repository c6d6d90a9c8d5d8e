"""Turns an outcome that has arrived into a value or an exception. The only place where the application decodes
results."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

from concurrent_nb import errors, foreign
from concurrent_nb.ids import task_name
from concurrent_nb.nodes.application.client_tasks import ResultFetched, TaskEnded
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.object_store.segments import CannotOpen
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping.runtime.call_chunks import FailedItem, PickledItem
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.codec import Buffer, decode_error, joined, unpack_body
from concurrent_nb.wire.messages import RESULT_LOST, ErrorReport, Slice

_SUCCESSES: Final = frozenset(map(int, SUCCESSES))  # numbers are compared faster than members of an enumeration
_CLASSES: Final[dict[Status, type[errors.TaskError]]] = {
    Status.TIMEOUT: errors.TaskTimeout,
    Status.DIED: errors.WorkerDied,
    Status.POISON: errors.PoisonTask,
    Status.NOT_PICKLABLE: errors.ResultNotPicklable,
    Status.NOT_LOADABLE: errors.FunctionNotLoadable,
    Status.REFUSED: errors.TaskRefused,
}


#: the value of a future whose result is kept in the cluster and was not fetched yet
KEPT_VALUE: Final = object()


def answer_of(ended: TaskEnded[Any], take: Callable[[Slice], Buffer]) -> tuple[Any, BaseException | None]:
    """Return (value, None) or (None, exception); the exception's cause is the remote traceback, if there is one.

    `take` maps a slice of shared memory, for the user to keep and to change.
    """
    frame = ended.frame
    if frame.status == Status.KEPT:
        return KEPT_VALUE, None
    body: Buffer = frame.body
    buffers: Sequence[Buffer] = ()
    if not frame.sizes and frame.status in _SUCCESSES:
        return _loaded(body, buffers, _origin, ended)
    if frame.sizes:
        try:
            body, buffers = unpack_body(frame.body, joined(frame.sizes, _writable(ended.buffers), take))
        except CannotOpen as error:
            origin = _origin(ended)
            return None, errors.ResultNotLoadable(f"the result of task {origin['task']} is gone: {error}", **origin)
    if frame.status not in _SUCCESSES:
        return None, _failure_of(frame.status, body, _origin(ended))
    return _loaded(body, buffers, _origin, ended)


def fetched_value(fetched: ResultFetched, take: Callable[[Slice], Buffer]) -> tuple[Any, BaseException | None]:
    """Return the value of a kept result that has come, or why it has not; as `answer_of`."""
    task = task_name(fetched.job, fetched.frame.index)
    if fetched.frame.status == Status.INPUT_GONE:
        text = f"the result of task {task} was kept in the cluster, whose master is another one now: submit it again"
        return None, errors.KeptResultLost(text, task=task)
    try:
        sizes, buffers = fetched.frame.sizes, _writable(fetched.buffers)
        body, parts = unpack_body(fetched.frame.body, joined(sizes, buffers, take))
        return pickles.loads_result(body, parts), None
    except BaseException as error:
        if foreign.is_interrupt(error):
            raise
        failure = errors.ResultNotLoadable(f"the result of task {task} cannot be unpickled here: {error}", task=task)
        failure.__cause__ = error
        return None, failure


def open_item(ran: TaskFuture, row: Any) -> tuple[Any, BaseException | None]:
    """Do the same for an item of a chunk that `ran` was the task of; `row` is one of `ChunkResults.rows`."""
    if type(row) is PickledItem:
        return _loaded(row.body, row.buffers, _origin_of_future, ran)
    if type(row) is FailedItem:
        return None, _failure_of(row.status, row.report, _origin_of_future(ran))
    return row, None


def _loaded(
    body: Buffer, buffers: Sequence[Buffer], origin_of: Callable[[Any], dict[str, Any]], ran: Any
) -> tuple[Any, BaseException | None]:
    """Unpickle a result; what its own code raises becomes the cause of ResultNotLoadable."""
    try:
        return pickles.loads_result(body, buffers), None
    except BaseException as error:
        if foreign.is_interrupt(error):  # items of a map are unpickled in the thread that reads them
            raise
        origin = origin_of(ran)
        message = f"the result of task {origin['task']} cannot be unpickled here: {foreign.describe(error)}"
        failure = errors.ResultNotLoadable(message, **origin)
        failure.__cause__ = error
        return None, failure


def failure_of(future: Any) -> BaseException | None:
    """Return why a future that has ended has no value; None if it has one."""
    return CancelledError() if future.cancelled() else future.exception()


def dependency_failed(task: TaskHandle, failed: Any) -> errors.DependencyFailed:
    """Return the end of a task that needs the value of a future which has none."""
    cause = failure_of(failed)
    if isinstance(cause, errors.DependencyFailed):  # the first one that has failed says more
        error = errors.DependencyFailed(str(cause), task=task.task)
        error.__cause__ = cause.__cause__
        return error
    how = "was cancelled" if failed.cancelled() else f"has failed: {type(cause).__name__}: {cause}"[:1000]
    error = errors.DependencyFailed(f"task {failed.task}, whose result it needs, {how}", task=task.task)
    error.__cause__ = cause
    return error


def _origin_of_future(ran: TaskFuture) -> dict[str, Any]:
    return {"task": ran.task, "slave": ran.slave, "worker": ran.worker}


def _origin(ended: TaskEnded[Any]) -> dict[str, Any]:
    task = task_name(ended.entry.job.id, ended.entry.index)
    return {"task": task, "slave": ended.slave, "worker": ended.frame.worker}


def _failure_of(status: int, body: Buffer, origin: dict[str, Any]) -> BaseException:
    try:
        report = decode_error(body)
    except errors.ProtocolError as error:
        return errors.TaskError(f"task {origin['task']} failed, and its {error}", **origin)
    cause = errors.RemoteTraceback(report.traceback) if report.traceback else None
    if status == Status.DEPENDENCY_FAILED:
        return _dependency_failure(report, cause, origin)
    if report.type_name == RESULT_LOST:
        failed: BaseException = errors.ResultNotLoadable(f"task {origin['task']}: {report.message}", **origin)
    elif Status(status) is not Status.ERROR:
        failed = _CLASSES[Status(status)](report.message, **origin)
    elif (own := _own_error_of(report, cause)) is not None:
        return own
    else:
        text = f"{report.type_name}: {report.message}"
        failed = errors.RemoteError(text, **origin, type_name=report.type_name)
    if cause is not None:
        failed.__cause__ = cause
    return failed


def _dependency_failure(
    report: ErrorReport, traceback: BaseException | None, origin: dict[str, Any]
) -> errors.DependencyFailed:
    """Return the end of a task that needs the result of another one, which has failed with this report."""
    failed = errors.DependencyFailed(report.message, **origin)
    if report.type_name == Status.CANCELLED.name:
        failed.__cause__ = CancelledError()
    elif report.type_name in Status.__members__:
        failed.__cause__ = _CLASSES.get(Status[report.type_name], errors.TaskError)(report.message)
    else:
        own = _own_error_of(report, traceback)
        failed.__cause__ = own or errors.RemoteError(report.message, type_name=report.type_name)
        if own is None:
            failed.__cause__.__cause__ = traceback
    return failed


def _own_error_of(report: ErrorReport, cause: BaseException | None) -> BaseException | None:
    """Return the exception that the task has raised, with its cause; None if it cannot be unpickled here."""
    if not report.exception:
        return None
    try:
        loaded = pickles.loads_result(report.exception)
        if not isinstance(loaded, BaseException):
            return None
        if cause is not None:
            object.__setattr__(loaded, "__cause__", cause)  # its class may allow no changes
    except BaseException as error:  # (for example a class that is missing here; the report has the text)
        if foreign.is_interrupt(error):
            raise
        return None
    return loaded


def _writable(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Copy read-only buffers: results belong to the user, who may change them."""
    return [buffer if isinstance(buffer, bytearray) else bytearray(buffer) for buffer in buffers]
