"""What has become of each task, and when: the last ones of the cluster.

The scheduler adds each final outcome; statistics, traces and the live feed read them. Pure. All times are
seconds of the master's clock. Slaves report durations, so a wrong clock on one host shifts nothing.
"""

import itertools
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from msgspec import Struct

from concurrent_nb.ids import JobId
from concurrent_nb.outcome import Status
from concurrent_nb.wire.codec import size_of
from concurrent_nb.wire.messages import OutcomeFrame, Sizes

if TYPE_CHECKING:
    from concurrent_nb.tasks.task_record import JobRecord, TaskRecord

T = TypeVar("T")

#: most tasks that are kept, of all jobs together: 8 MB
TASKS_KEPT: Final = 100_000
#: tasks in a block; the oldest block is dropped as a whole
_BLOCK: Final = 1000
#: when it ended, seconds of its run; index; bytes of arguments and result; job, function and slave (numbers in this
#: log), worker; seconds until the end from its acceptance, its assignment and the end of its run, seconds of CPU time;
#: peak memory in KiB, attempt, status, 1 if it ran in a thread. Each is at a multiple of its size, for `TaskColumns`
_RECORD: Final = struct.Struct("=ddqQQIIIIffffIHBB")
_RECORD_BYTES: Final = _RECORD.size
_BLOCK_BYTES: Final = _BLOCK * _RECORD_BYTES
_pack_record: Final = _RECORD.pack_into
#: the number of the job in a record, and where it is
_JOB: Final = struct.Struct("=I")
_JOB_AT: Final = 40
_STARTS: Final = range(_JOB_AT, _BLOCK * _RECORD.size, _RECORD.size)
#: jobs whose number of dropped tasks is kept
_DROPPED_JOBS: Final = 1000
#: a longer run time is not a measurement, in seconds
_LONGEST_S: Final = 1e8
_KIB: Final = 1024
_U16_MAX: Final = 2**16 - 1
_U32_MAX: Final = 2**32 - 1
_I64_MAX: Final = 2**63 - 1


class TaskTimes(Struct, frozen=True, gc=False):
    """The life of one task: its last attempt, with its times in seconds of the master's clock."""

    number: int  #: of this record, from 0, in the order in which tasks ended
    job: JobId
    index: int
    attempt: int
    status: Status
    function: str  #: its name
    slave: str  #: "" if it ran nowhere
    worker: int  #: pid; 0 if it ran nowhere
    accepted_s: float  #: the master had it
    assigned_s: float  #: the master sent it to its slave
    started_s: float  #: a worker began with it
    finished_s: float  #: the worker had its result
    ended_s: float  #: the master had its result
    cpu_s: float  #: CPU time of the thread that ran it; 0 if it took less than a millisecond
    peak_bytes: int  #: most memory that its process had taken by its end; 0 if it took less than a millisecond
    in_bytes: int  #: size of its arguments
    out_bytes: int  #: size of its result
    in_thread: bool = False  #: other tasks may have run in the same process at the same time

    @property
    def elapsed_s(self) -> float:
        """Seconds that the worker spent on it, with unpickling and pickling."""
        return self.finished_s - self.started_s


class Used(NamedTuple):
    """What one task has used."""

    status: int  #: `Status`
    run_s: float  #: that the worker spent on it, as its slave reports it
    cpu_s: float
    in_bytes: int
    out_bytes: int


class JobLabel(NamedTuple):
    """What the log keeps of a job."""

    name: str
    owner: str  #: the public key to which its job belongs


class _RecordBlock:
    """The records of a thousand tasks, and what the numbers in them stand for."""

    __slots__ = ("end", "function_names", "functions", "jobs", "labels", "records", "slaves")

    def __init__(self) -> None:
        self.records = bytearray(_BLOCK * _RECORD.size)
        self.end = 0  #: of the last record, in bytes
        self.jobs: dict[bytes, int] = {}
        self.labels: list[JobLabel] = []
        self.functions: dict[bytes, int] = {}  #: by digest
        self.function_names: list[str] = []
        self.slaves: dict[str, int] = {}

    def copy(self) -> "_RecordBlock":
        """Return a copy that does not change."""
        copy = _RecordBlock()
        copy.records, copy.end = bytearray(self.records), self.end
        copy.jobs, copy.slaves = dict(self.jobs), dict(self.slaves)
        copy.functions, copy.function_names = dict(self.functions), list(self.function_names)
        return copy


class TaskLog:
    """The last tasks that have ended, in that order.

    >>> log = TaskLog(kept=5000)
    >>> len(log), log.first
    (0, 0)

    Args:
        kept: how many tasks are kept; rounded up to whole blocks of a thousand.
    """

    def __init__(self, kept: int = TASKS_KEPT) -> None:
        self.now_s = 0.0  #: the time of the events that are handled; the scheduler sets it
        self.name_of: Callable[[bytes], str] = _short_digest  #: returns the name of a function
        self._block = _RecordBlock()  # the newest
        self._blocks = deque([self._block], maxlen=max(2, -(-kept // _BLOCK)))
        self._dropped = 0  # blocks
        #: by job, how many of its tasks are not kept any more; of the jobs that had tasks last
        self._dropped_tasks: OrderedDict[bytes, tuple[int, JobLabel]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many tasks have ended since the start, those that are not kept any more included."""
        return (self._dropped + len(self._blocks) - 1) * _BLOCK + self._block.end // _RECORD.size

    @property
    def kept(self) -> int:
        """The most tasks that are kept."""
        return (self._blocks.maxlen or 0) * _BLOCK

    @property
    def first(self) -> int:
        """The number of the oldest task that is kept."""
        return self._dropped * _BLOCK

    def add(self, task: "TaskRecord", outcome: OutcomeFrame, slave: str) -> None:
        """Add a task that ends now with this outcome, here and to its job's sums.

        Its arguments must not have been dropped yet.
        """
        self.add_all(task.job, slave, ((task, outcome, in_bytes_of(task)),))

    def add_all(self, job: "JobRecord", slave: str, ended: "Sequence[tuple[TaskRecord, OutcomeFrame, int]]") -> None:
        """Add tasks of one job that end now on one slave: each with its outcome and the size of its arguments.

        In one loop over local variables, because it runs for each task of the cluster.
        """
        now, sums, job_id = self.now_s, job.sums, job.id
        if now != sums.at_s:
            sums.advance(now)
        block, at, function = self._block, self._block.end, b""
        job_number = slave_number = function_number = -1  # in the block
        since_accepted_s = since_assigned_s = run_s = 0.0
        in_bytes = out_bytes = 0
        for task, outcome, size in ended:
            if at == _BLOCK_BYTES:
                block.end = at
                block, at, job_number = self._next_block(), 0, -1
            if job_number < 0:
                job_number = block.jobs[job_id] if job_id in block.jobs else self._add_job(task)
                slave_number = block.slaves.setdefault(slave, len(block.slaves))
                function = b""
            if task.function is not function:
                function = task.function
                function_number = (
                    block.functions[function] if function in block.functions else self._add_function(function)
                )
            attempt, elapsed_s, cpu_us = task.attempt, outcome.elapsed_s, outcome.cpu_us
            accepted_ago_s, assigned_ago_s = now - task.accepted_s, now - task.assigned_s if attempt else 0.0
            result = len(outcome.body) + _bytes_of(outcome.sizes) if outcome.sizes else len(outcome.body)
            _pack_record(
                block.records,
                at,
                now,
                elapsed_s,
                task.index & _I64_MAX,
                size,
                result,
                job_number,
                function_number,
                slave_number,
                outcome.worker & _U32_MAX,
                accepted_ago_s,
                assigned_ago_s,
                outcome.ago_us * 1e-6,
                cpu_us * 1e-6,
                outcome.peak_kib,
                attempt if attempt < _U16_MAX else _U16_MAX,
                outcome.status,
                task.needs is not None and task.needs.kind == "thread",
            )
            at += _RECORD_BYTES
            since_accepted_s += accepted_ago_s
            since_assigned_s += assigned_ago_s
            # A slave may report anything, but a task ran only while it was there. NaN fails the comparison.
            run_s += elapsed_s if 0.0 <= elapsed_s <= assigned_ago_s else assigned_ago_s
            in_bytes += size
            out_bytes += result
            if cpu_us:
                sums.add_usage(cpu_us, outcome.peak_kib)
        block.end = at
        sums.ended += len(ended)
        sums.since_accepted_s += since_accepted_s
        sums.since_assigned_s += since_assigned_s
        sums.run_s += run_s
        sums.in_bytes += in_bytes
        sums.out_bytes += out_bytes

    def tail(self, count: int) -> "TaskLog":
        """Return a copy of the last tasks, `count` or some more, that another thread may read."""
        copy = TaskLog()
        blocks = list(self._blocks)[-(-(-count // _BLOCK) + 1) :]
        copy._dropped = self._dropped + len(self._blocks) - len(blocks)
        copy._blocks.clear()
        copy._blocks.extend(block.copy() for block in blocks)
        copy._block = copy._blocks[-1]
        return copy

    def read(self, since: int = 0, until: int | None = None) -> Iterator[TaskTimes]:
        """Yield the kept tasks from number `since` on, up to `until`, in the order in which they ended."""
        end = len(self) if until is None else min(until, len(self))
        number = max(since, self.first)
        while number < end:
            block = self._blocks[number // _BLOCK - self._dropped]
            last = min(end, (number // _BLOCK + 1) * _BLOCK)
            yield from _decode(block, number, last)
            number = last

    def columns(self, since: int = 0) -> "Iterator[TaskColumns]":
        """Yield the kept tasks from number `since` on by columns, up to a thousand at once, in order."""
        number, end = max(since, self.first), len(self)
        while number < end:
            first = number % _BLOCK
            last = min(first + end - number, _BLOCK)
            yield TaskColumns(self._blocks[number // _BLOCK - self._dropped], first, last)
            number += last - first

    def records(self, since: int) -> tuple[int, list[memoryview]]:
        """Return the records from number `since` on, for `used`, and the number of the first one."""
        number = max(since, self.first)
        start = number // _BLOCK - self._dropped
        views = [memoryview(block.records)[: block.end] for block in itertools.islice(self._blocks, start, None)]
        if views:
            views[0] = views[0][number % _BLOCK * _RECORD.size :]
        return number, views

    @staticmethod
    def used(records: Iterable[memoryview]) -> Iterator[Used]:
        """Yield what tasks have used. May be called in any thread, as records do not change."""
        for view in records:
            for record in _RECORD.iter_unpack(view):
                _, run_s, _, in_bytes, out_bytes, *_, cpu_s, _, _, status, _ = record
                yield Used(status, run_s if 0 <= run_s <= _LONGEST_S else 0.0, cpu_s, in_bytes, out_bytes)

    def label_of(self, job: bytes) -> JobLabel | None:
        """Return what is kept of a job that has tasks in the log, or had some lately; None of any other."""
        for block in reversed(self._blocks):
            if (at := block.jobs.get(job)) is not None:
                return block.labels[at]
        return self._dropped_tasks[job][1] if job in self._dropped_tasks else None

    def read_of(self, job: bytes | None, owner: str | None, since: int = 0) -> Iterator[TaskTimes]:
        """Yield as `read` does, but only the tasks of a job, or of an owner's jobs. None stands for all.

        Blocks without such tasks cost nothing.
        """
        end, number = len(self), max(since, self.first)
        while number < end:
            block = self._blocks[number // _BLOCK - self._dropped]
            last = min(end, (number // _BLOCK + 1) * _BLOCK)
            numbers = block.jobs.items() if job is None else [(job, block.jobs[job])] if job in block.jobs else ()
            wanted = {at for _, at in numbers if owner in (None, block.labels[at].owner)}
            if len(wanted) == len(block.jobs):
                yield from _decode(block, number, last)
            elif wanted:
                records = block.records
                for current in range(number, last):
                    if _JOB.unpack_from(records, current % _BLOCK * _RECORD.size + _JOB_AT)[0] in wanted:
                        yield from _decode(block, current, current + 1)
            number = last

    def count_dropped(self, job: bytes | None, owner: str | None) -> int:
        """Return how many such tasks are not kept any more, as far as is known: not those of long forgotten jobs."""
        if job is not None:
            count, label = self._dropped_tasks.get(job, (0, None))
            return count if label is not None and owner in (None, label.owner) else 0
        if owner is None:
            return self.first
        return sum(count for count, label in self._dropped_tasks.values() if label.owner == owner)

    def _add_job(self, task: "TaskRecord") -> int:
        block = self._block
        block.labels.append(JobLabel(task.job.name, task.job.owner))
        return block.jobs.setdefault(task.job.id, len(block.jobs))

    def _count_dropped(self, block: _RecordBlock) -> None:
        jobs, dropped = list(block.jobs), self._dropped_tasks
        for at, count in Counter(_JOB.unpack_from(block.records, start)[0] for start in _STARTS).items():
            before, _ = dropped.pop(jobs[at], (0, None))
            dropped[jobs[at]] = before + count, block.labels[at]
        while len(dropped) > _DROPPED_JOBS:
            dropped.popitem(last=False)

    def _add_function(self, digest: bytes) -> int:
        block = self._block
        block.function_names.append(self.name_of(digest))
        return block.functions.setdefault(digest, len(block.functions))

    def _next_block(self) -> _RecordBlock:
        if len(self._blocks) == self._blocks.maxlen:
            self._dropped += 1
            self._count_dropped(self._blocks[0])
        self._block = _RecordBlock()
        self._blocks.append(self._block)
        return self._block


class TaskColumns:
    """The columns of up to a thousand tasks of a log: numbers in memory, for what is done with each task of a cluster.

    A column is read by slices (`column[::3].tolist()`), which costs 4 ns for each number, and is valid until the log
    gets its next task. `TaskLog.read` gives the tasks one by one, with consistent times where slaves report nonsense.
    """

    def __init__(self, block: _RecordBlock, first: int, last: int) -> None:
        self.jobs = [JobId(job) for job in block.jobs]  #: by the numbers in `job`
        self.functions = block.function_names  #: their names, by the numbers in `function`
        self.slaves = list(block.slaves)  #: their names, by the numbers in `slave`; "" of a task that ran nowhere
        records = memoryview(block.records)
        doubles, wide, words, singles = records.cast("d"), records.cast("Q"), records.cast("I"), records.cast("f")
        self.ended_s = _column(doubles, 0, first, last)
        self.elapsed_s = _column(doubles, 8, first, last)  #: as the slave has reported it: any number, or none
        self.in_bytes = _column(wide, 24, first, last)
        self.out_bytes = _column(wide, 32, first, last)
        self.job = _column(words, 40, first, last)
        self.function = _column(words, 44, first, last)
        self.slave = _column(words, 48, first, last)
        self.worker = _column(words, 52, first, last)
        self.accepted_ago_s = _column(singles, 56, first, last)  #: seconds from its acceptance to its end
        self.assigned_ago_s = _column(singles, 60, first, last)  #: seconds from its assignment to its end
        self.reported_ago_s = _column(singles, 64, first, last)  #: seconds from the end of its run, as reported
        self.status = _column(records, 78, first, last)

    def __len__(self) -> int:
        return len(self.status)


def _column(cells: "memoryview[T]", offset: int, first: int, last: int) -> "memoryview[T]":
    """Return the cells at `offset` bytes of the records from `first` to `last`."""
    step = _RECORD.size // cells.itemsize
    at = offset // cells.itemsize
    return cells[at + first * step : at + last * step : step]


def _decode(block: _RecordBlock, number: int, end: int) -> Iterator[TaskTimes]:
    jobs, functions, slaves = list(block.jobs), block.function_names, list(block.slaves)
    for current in range(number, end):
        (
            ended_s, elapsed, index, in_bytes, out_bytes, job, function, slave, worker, accepted, assigned, ago, cpu_s,
            peak_kib, attempt, status, in_thread,
        ) = _RECORD.unpack_from(block.records, current % _BLOCK * _RECORD.size)  # fmt: skip
        # What a slave reports cannot be outside the time that the task was there.
        finished_s = ended_s - min(ago, assigned)
        started_s = finished_s - elapsed
        if not ended_s - assigned <= started_s <= finished_s:  # also for a time that is no number
            started_s = ended_s - assigned
        yield TaskTimes(
            current, JobId(jobs[job]), index, attempt, Status(status), functions[function], slaves[slave],
            worker, ended_s - accepted, ended_s - assigned, started_s, finished_s, ended_s, cpu_s, peak_kib * _KIB,
            in_bytes, out_bytes, bool(in_thread),
        )  # fmt: skip


def in_bytes_of(task: "TaskRecord") -> int:
    """Return the size of a task's arguments in bytes, which it has until its outcome is kept."""
    return len(task.body) + _bytes_of(task.sizes) if task.sizes else len(task.body)


def _short_digest(digest: bytes) -> str:
    return digest.hex()[:8]


def _bytes_of(sizes: Sizes) -> int:
    return sum(map(size_of, sizes)) & _I64_MAX  # a peer may have sent any numbers; a record holds no others
