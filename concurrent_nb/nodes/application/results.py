"""Turn an outcome that has arrived into a value or an exception: the application's decoding, the only one it has."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb import errors, foreign
from concurrent_nb.ids import task_name
from concurrent_nb.nodes.application.core import TaskEnded
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.object_store.segments import CannotOpen
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping.runtime.call_chunks import FailedItem, PickledItem
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.codec import Buffer, decode_error, joined, unpack_body
from concurrent_nb.wire.messages import RESULT_LOST, ErrorReport, Slice

_SUCCESSES: Final = frozenset(map(int, SUCCESSES))  # a number is compared faster than a member of an enumeration
_CLASSES: Final[dict[Status, type[errors.TaskError]]] = {
    Status.TIMEOUT: errors.TaskTimeout,
    Status.DIED: errors.WorkerDied,
    Status.POISON: errors.PoisonTask,
    Status.NOT_PICKLABLE: errors.ResultNotPicklable,
    Status.NOT_LOADABLE: errors.FunctionNotLoadable,
    Status.REFUSED: errors.TaskRefused,
}


def answer_of(ended: TaskEnded[Any], take: Callable[[Slice], Buffer]) -> tuple[Any, BaseException | None]:
    """Give (value, None) or (None, exception); the exception's cause is the remote traceback, where there is one.

    `take` gives what lies in shared memory, for whoever asked for the result to keep and to change.
    """
    frame = ended.frame
    body: Buffer = frame.body
    buffers: Sequence[Buffer] = ()
    if frame.sizes:
        try:
            body, buffers = unpack_body(frame.body, joined(frame.sizes, _writable(ended.buffers), take))
        except CannotOpen as error:
            where = _where(ended)
            return None, errors.ResultNotLoadable(f"the result of task {where['task']} is gone: {error}", **where)
    if frame.status not in _SUCCESSES:
        return None, _failure_of(frame.status, body, _where(ended))
    return _loaded(body, buffers, _where, ended)


def open_item(ran: TaskFuture, row: Any) -> tuple[Any, BaseException | None]:
    """Do the same for an item of a chunk that `ran` was the task of; `row` is one of `ChunkResults.rows`."""
    if type(row) is PickledItem:
        return _loaded(row.body, row.buffers, _where_of, ran)
    if type(row) is FailedItem:
        return None, _failure_of(row.status, row.report, _where_of(ran))
    return row, None


def _loaded(
    body: Buffer, buffers: Sequence[Buffer], where_of: Callable[[Any], dict[str, Any]], ran: Any
) -> tuple[Any, BaseException | None]:
    """Unpickle a result; whatever its own code raises is handed on as the cause of ResultNotLoadable."""
    try:
        return pickles.loads_result(body, buffers), None
    except BaseException as error:
        if foreign.is_interrupt(error):  # items of a map are opened in the thread that reads them
            raise
        where = where_of(ran)
        message = f"the result of task {where['task']} cannot be unpickled here: {foreign.describe(error)}"
        failure = errors.ResultNotLoadable(message, **where)
        failure.__cause__ = error
        return None, failure


def _where_of(ran: TaskFuture) -> dict[str, Any]:
    return {"task": ran.task, "slave": ran.slave, "worker": ran.worker}


def _where(ended: TaskEnded[Any]) -> dict[str, Any]:
    task = task_name(ended.entry.job.id, ended.entry.index)
    return {"task": task, "slave": ended.slave, "worker": ended.frame.worker}


def _failure_of(status: int, body: Buffer, where: dict[str, Any]) -> BaseException:
    try:
        report = decode_error(body)
    except errors.ProtocolError as error:
        return errors.TaskError(f"task {where['task']} failed, and its {error}", **where)
    cause = errors.RemoteTraceback(report.traceback) if report.traceback else None
    if report.type_name == RESULT_LOST:
        failed: BaseException = errors.ResultNotLoadable(f"task {where['task']}: {report.message}", **where)
    elif Status(status) is not Status.ERROR:
        failed = _CLASSES[Status(status)](report.message, **where)
    elif (own := _own_error_of(report, cause)) is not None:
        return own
    else:
        text = f"{report.type_name}: {report.message}"
        failed = errors.RemoteError(text, **where, type_name=report.type_name)
    if cause is not None:
        failed.__cause__ = cause
    return failed


def _own_error_of(report: ErrorReport, cause: BaseException | None) -> BaseException | None:
    """Give the exception that the task has raised, with its cause; None if it cannot be had here."""
    if not report.exception:
        return None
    try:
        loaded = pickles.loads_result(report.exception)
        if not isinstance(loaded, BaseException):
            return None
        if cause is not None:
            loaded.__cause__ = cause
    except BaseException as error:  # (a class that is missing here, say: the report has all there is to tell)
        if foreign.is_interrupt(error):
            raise
        return None
    return loaded


def _writable(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Results belong to who asked for them, so he may change them: arrays come on memory of their own."""
    return [buffer if isinstance(buffer, bytearray) else bytearray(buffer) for buffer in buffers]
