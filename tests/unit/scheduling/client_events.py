"""Events of clients, in short."""

from collections.abc import Iterable, Mapping, Sequence

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.scheduling import events as e
from concurrent_nb.tasks.task_record import ObjectSize
from concurrent_nb.wire.messages import Needs, TaskFrame
from tests.unit.scheduling.bench import JOB, ME, F


def opened(
    client: SessionId = ME,
    owner: str = "me",
    job: JobId = JOB,
    *,
    until: bool = False,
    stop_on_error: bool = False,
    strategy: str = "",
) -> e.JobOpened:
    return e.JobOpened(client, owner, job, "a job", until, stop_on_error, strategy)


def submitted(
    indexes: Iterable[int],
    *,
    client: SessionId = ME,
    job: JobId = JOB,
    function: Digest = F,
    timeout_s: float | None = None,
    retries: int = 0,
    objects: Sequence[tuple[ObjectSize, ...]] = (),
    needs: Needs | None = None,
) -> e.TasksSubmitted:
    frames = [TaskFrame(index, 0, b"arguments") for index in indexes]
    return e.TasksSubmitted(client, job, function, frames, (), timeout_s, retries, objects, needs)


def needing(
    inputs: Mapping[int, Sequence[int]], *, job: JobId = JOB, of: JobId = JOB, client: SessionId = ME
) -> e.TasksSubmitted:
    """Submit tasks that need the results of others, by index: tasks of the job `of`."""
    frames = [TaskFrame(index, 0, b"arguments") for index in inputs]
    pairs = [(index, [(of, needed) for needed in each]) for index, each in inputs.items() if each]
    return e.TasksSubmitted(client, job, F, frames, (), inputs=pairs)


def closed(client: SessionId = ME, job: JobId = JOB) -> e.JobClosed:
    return e.JobClosed(client, job)


def cancelled(indexes: Sequence[int] | None = None, client: SessionId = ME, job: JobId = JOB) -> e.CancelRequested:
    return e.CancelRequested(client, job, indexes)


def taken_back(indexes: Iterable[int], client: SessionId = ME, job: JobId = JOB) -> e.CancelRequested:
    return e.CancelRequested(client, job, list(indexes), unstarted_only=True)


def acknowledged(indexes: Iterable[int], client: SessionId = ME, job: JobId = JOB) -> e.OutcomesAcknowledged:
    return e.OutcomesAcknowledged(client, job, list(indexes))


def gone(client: SessionId = ME, linger_s: float = 60.0) -> e.ClientLost:
    return e.ClientLost(client, linger_s)
