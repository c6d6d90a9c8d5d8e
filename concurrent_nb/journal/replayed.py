"""The open jobs of a journal, made from its records in their order. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from concurrent_nb.journal import journal_records as r
from concurrent_nb.outcome import Status
from concurrent_nb.wire.codec import Buffer, Buffers

#: a record and the buffers that follow it
KeptRecord = tuple[r.Record, Sequence[Buffer]]


@dataclass(eq=False, slots=True)
class ReplayedJob:
    """A job that is not forgotten."""

    opened: r.JobKept
    runs: list[tuple[r.TasksKept, list[Buffers]]] = field(default_factory=list)  #: of tasks that are not forgotten
    outcomes: list[tuple[r.OutcomesKept, list[Buffers]]] = field(default_factory=list)  #: of these tasks, one of each
    acknowledged: list[int] = field(default_factory=list)  #: tasks whose results are kept, and whose outcome is known
    cancelled: list[int] | None = field(default_factory=list)  #: tasks; None: the whole job
    is_ended: bool = False


@dataclass(eq=False, slots=True)
class Replayed:
    """What a restarted master has to know."""

    functions: dict[bytes, tuple[r.FunctionKept, Buffers]] = field(default_factory=dict)
    jobs: dict[bytes, ReplayedJob] = field(default_factory=dict)
    slaves: dict[bytes, str] = field(default_factory=dict)  #: name by key


@dataclass(eq=False, slots=True)
class _Folded:
    """A job while records are read."""

    opened: r.JobKept
    runs: list[tuple[r.TasksKept, list[Buffers]]] = field(default_factory=list)
    outcomes: list[tuple[r.OutcomesKept, list[Buffers]]] = field(default_factory=list)
    open: dict[int, int] = field(default_factory=dict)  # tasks that are not forgotten: which of the runs they are in
    ended: dict[int, int] = field(default_factory=dict)  # which of the outcomes those are in that have ended
    kept: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    cancelled: set[int] | None = field(default_factory=set)
    is_ended: bool = False


def replay(records: Iterable[KeptRecord]) -> Replayed:
    """Return the open jobs of records. Records of unknown jobs and tasks are ignored."""
    result = Replayed()
    jobs: dict[bytes, _Folded] = {}
    for record, buffers in records:
        if isinstance(record, r.FunctionKept):
            result.functions[record.digest] = record, buffers
        elif isinstance(record, r.JobKept):
            if (job := jobs.get(record.job)) is None:
                jobs[record.job] = _Folded(record)
            else:
                job.is_ended = False
        elif isinstance(record, r.JobForgotten):
            jobs.pop(record.job, None)
        elif isinstance(record, r.SlaveKept):
            result.slaves[record.key] = record.name
        elif isinstance(record, r.SlaveGone):
            result.slaves.pop(record.key, None)
        elif (job := jobs.get(record.job)) is not None:
            _fold(job, record, buffers)
    for job_id, job in jobs.items():
        result.jobs[job_id] = _unfolded(job)
    return result


def _fold(
    job: _Folded,
    record: r.TasksKept | r.OutcomesKept | r.TasksAcknowledged | r.ResultsReleased | r.TasksCancelled | r.JobEnded,
    buffers: Sequence[Buffer],
) -> None:
    if isinstance(record, r.TasksKept):
        fresh = {task.index for task in record.tasks if task.index not in job.open}
        job.open.update(dict.fromkeys(fresh, len(job.runs)))
        if record.keep:
            job.kept |= fresh
        job.runs.append((record, list(r.buffers_of_items(record.tasks, buffers))))
    elif isinstance(record, r.OutcomesKept):
        fresh = {it.index for it in record.items if it.index in job.open and it.index not in job.ended}
        job.ended.update(dict.fromkeys(fresh, len(job.outcomes)))
        job.kept.difference_update(item.index for item in record.items if item.status != Status.OK)
        job.outcomes.append((record, list(r.buffers_of_items(record.items, buffers))))
    elif isinstance(record, r.TasksAcknowledged):
        for index in record.indexes:
            if index in job.kept:
                job.acknowledged.add(index)
            else:
                _forget(job, index)
    elif isinstance(record, r.ResultsReleased):
        for index in record.indexes:
            job.kept.discard(index)
            if index in job.acknowledged:
                job.acknowledged.discard(index)
                _forget(job, index)
    elif isinstance(record, r.TasksCancelled):
        if record.indexes is None:
            job.cancelled = None
        elif job.cancelled is not None:
            job.cancelled.update(index for index in record.indexes if index in job.open)
    else:
        job.is_ended = True


def _forget(job: _Folded, index: int) -> None:
    job.open.pop(index, None)
    job.ended.pop(index, None)
    if job.cancelled is not None:
        job.cancelled.discard(index)


def _unfolded(job: _Folded) -> ReplayedJob:
    result = ReplayedJob(job.opened, is_ended=job.is_ended)
    for number, (run, buffers) in enumerate(job.runs):
        left = [place for place, task in enumerate(run.tasks) if job.open.get(task.index) == number]
        for is_kept in (True, False):  # a result that was freed before its task was forgotten is not kept again
            at = [place for place in left if (run.tasks[place].index in job.kept) is is_kept]
            if at:
                names = {run.tasks[place].index for place in at}
                inputs = [each for each in run.inputs if each[0] in names]
                tasks = [run.tasks[place] for place in at]
                part = msgspec.structs.replace(run, tasks=tasks, inputs=inputs, keep=is_kept)
                result.runs.append((part, [buffers[place] for place in at]))
    for number, (ended, buffers) in enumerate(job.outcomes):
        at = [place for place, item in enumerate(ended.items) if job.ended.get(item.index) == number]
        if at:
            items = [ended.items[place] for place in at]
            result.outcomes.append((msgspec.structs.replace(ended, items=items), [buffers[place] for place in at]))
    result.acknowledged = sorted(job.acknowledged)
    result.cancelled = None if job.cancelled is None else sorted(job.cancelled)
    return result
