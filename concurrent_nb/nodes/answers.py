"""Turn an outcome that has arrived into a value or an exception: the application's decoding, the only one it has."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb import errors
from concurrent_nb.ids import task_name
from concurrent_nb.nodes.futures import TaskFuture
from concurrent_nb.nodes.ledger import Ended
from concurrent_nb.objects.segments import CannotOpen
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping import pickles
from concurrent_nb.wire.codec import Buffer, decode_error, joined, unpack_body
from concurrent_nb.wire.messages import ErrorReport, Slice

_SUCCESSES: Final = frozenset(map(int, SUCCESSES))  # a number is compared faster than a member of an enumeration
_CLASSES: Final[dict[Status, type[errors.TaskError]]] = {
    Status.TIMEOUT: errors.TaskTimeout,
    Status.DIED: errors.WorkerDied,
    Status.POISON: errors.PoisonTask,
    Status.NOT_PICKLABLE: errors.ResultNotPicklable,
    Status.NOT_LOADABLE: errors.FunctionNotLoadable,
    Status.REFUSED: errors.TaskRefused,
}


def answer_of(ended: Ended[Any], take: Callable[[Slice], Buffer]) -> tuple[Any, BaseException | None]:
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
    try:
        return pickles.loads_home(body, buffers), None
    except Exception as error:  # noqa: BLE001  (the result's own code runs here; its error is handed on)
        return None, _not_loadable(error, _where(ended))


def open_item(
    ran: TaskFuture, answer: bytes | list[Any] | tuple[Any, ...] | dict[int, bytes]
) -> tuple[Any, BaseException | None]:
    """Do the same for an item of a chunk that `ran` was the task of; `answer` is as `shipping.chunks` has it."""
    if isinstance(answer, tuple):
        return answer, None
    if isinstance(answer, dict):
        ((status, body),) = answer.items()
        return None, _failure_of(status, body, _where_of(ran))
    body, buffers = (answer[0], answer[1:]) if isinstance(answer, list) else (answer, ())
    assert isinstance(body, bytes)
    try:
        return pickles.loads_home(body, buffers), None
    except Exception as error:  # noqa: BLE001  (the result's own code runs here; its error is handed on)
        return None, _not_loadable(error, _where_of(ran))


def _not_loadable(error: Exception, where: dict[str, Any]) -> BaseException:
    message = f"the result of task {where['task']} cannot be unpickled here: {type(error).__name__}: {error}"
    failure = errors.ResultNotLoadable(message, **where)
    failure.__cause__ = error
    return failure


def _where_of(ran: TaskFuture) -> dict[str, Any]:
    return {"task": ran.task, "slave": ran.slave, "worker": ran.worker}


def _where(ended: Ended[Any]) -> dict[str, Any]:
    task = task_name(ended.entry.job.id, ended.entry.index)
    return {"task": task, "slave": ended.slave, "worker": ended.frame.worker}


def _failure_of(status: int, body: Buffer, where: dict[str, Any]) -> BaseException:
    try:
        report = decode_error(body)
    except errors.ProtocolError as error:
        return errors.TaskError(f"task {where['task']} failed, and its {error}", **where)
    failed = _error_of(Status(status), report, where)
    if report.traceback:
        failed.__cause__ = errors.RemoteTraceback(report.traceback)
    return failed


def _error_of(status: Status, report: ErrorReport, where: dict[str, Any]) -> BaseException:
    if status is not Status.ERROR:
        return _CLASSES[status](report.message, **where)
    if report.exception:
        try:
            loaded = pickles.loads_home(report.exception)
        except Exception:  # noqa: BLE001  (a class that is missing here, say: the report has all there is to tell)
            loaded = None
        if isinstance(loaded, BaseException):
            return loaded
    return errors.RemoteError(f"{report.type_name}: {report.message}", **where, type_name=report.type_name)


def _writable(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Results belong to who asked for them, so he may change them: arrays come on memory of their own."""
    return [buffer if isinstance(buffer, bytearray) else bytearray(buffer) for buffer in buffers]
