"""Which rows of the journal are still needed. Pure: the same records in the same order give the same answer.

Each record may end tasks and jobs: rows of which nothing is needed any more are to be deleted together with the
addition of that record. So the journal has what is open, and neither grows with finished tasks nor with time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from concurrent_nb.journal.journal_records import (
    FunctionKept,
    JobEnded,
    JobForgotten,
    JobKept,
    OutcomesKept,
    Record,
    ResultsReleased,
    SlaveGone,
    SlaveKept,
    TasksAcknowledged,
    TasksCancelled,
    TasksKept,
)
from concurrent_nb.outcome import Status


@dataclass(eq=False, slots=True)
class _JobRows:
    """The rows of one job."""

    rows: set[int] = field(default_factory=set)  #: all of them
    ended: int | None = None  #: that it has ended
    runs: dict[int, int] = field(default_factory=dict)  #: of each task that is not forgotten, by index
    outcomes: dict[int, int] = field(default_factory=dict)  #: of those that have ended
    kept: set[int] = field(default_factory=set)  #: tasks whose results are kept
    acknowledged: set[int] = field(default_factory=set)  #: those of them whose owner has the outcome
    functions: set[bytes] = field(default_factory=set)


class Retention:
    """Decides which rows are needed."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, _JobRows] = {}
        self._left: dict[int, int] = {}  # how many tasks of a row are not forgotten
        self._notes: dict[int, set[int]] = {}  # rows about tasks, with those rows of these tasks that are needed
        self._notes_of: dict[int, list[int]] = {}  # the other way round
        self._functions: dict[bytes, int] = {}
        self._users: dict[bytes, set[bytes]] = {}  # jobs by function
        self._slaves: dict[bytes, int] = {}
        self._needed: set[int] = set()
        self._over: list[int] = []
        self._fresh: set[int] = set()  # of the last record
        self._handlers: Final[dict[type, Callable[[int, Any], bool]]] = {
            FunctionKept: self._function,
            JobKept: self._opened,
            TasksKept: self._tasks,
            OutcomesKept: self._outcomes,
            TasksAcknowledged: self._acknowledged,
            ResultsReleased: self._released,
            TasksCancelled: self._cancelled,
            JobEnded: self._ended,
            JobForgotten: self._forgotten,
            SlaveKept: self._slave,
            SlaveGone: self._slave_gone,
        }

    def __len__(self) -> int:
        """Return the number of rows that are needed."""
        return len(self._needed)

    def add(self, number: int, record: Record) -> set[int] | None:
        """Take note of the next record, whose row would have this number.

        Returns None if the row is not needed. Else only the items with these indexes may be in it, of a run of tasks or
        outcomes: of the others nothing would be known when their own rows are gone.
        """
        self._fresh = set()
        if not self._handlers[type(record)](number, record):
            return None
        self._needed.add(number)
        return self._fresh

    def take_over(self) -> list[int]:
        """Return the rows that are not needed any more since the last call."""
        over, self._over = self._over, []
        return over

    def _drop(self, number: int) -> None:
        if number in self._needed:
            self._needed.discard(number)
            self._over.append(number)

    def _function(self, number: int, record: FunctionKept) -> bool:
        if record.digest in self._functions:
            return False
        self._functions[record.digest] = number
        self._users[record.digest] = set()
        return True

    def _opened(self, number: int, record: JobKept) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            self._jobs[record.job] = _JobRows({number})
            return True
        if job.ended is not None:
            self._drop(job.ended)
            job.rows.discard(job.ended)
            job.ended = None
        return False

    def _tasks(self, number: int, record: TasksKept) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            return False
        fresh = self._fresh = {task.index for task in record.tasks if task.index not in job.runs}
        if not fresh:
            return False
        job.runs.update(dict.fromkeys(fresh, number))
        if record.keep:
            job.kept.update(fresh)
        if record.function not in job.functions and record.function in self._users:
            job.functions.add(record.function)
            self._users[record.function].add(record.job)
        return self._needed_by(number, job)

    def _outcomes(self, number: int, record: OutcomesKept) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            return False
        known, had = job.runs, job.outcomes
        fresh = self._fresh = {item.index for item in record.items if item.index in known and item.index not in had}
        if not fresh:
            return False
        had.update(dict.fromkeys(fresh, number))
        if job.kept:  # only plain values are kept
            job.kept.difference_update(item.index for item in record.items if item.status != Status.OK)
        return self._needed_by(number, job)

    def _needed_by(self, number: int, job: _JobRows) -> bool:
        """Note that the fresh tasks of a job need a row; return True."""
        self._left[number] = len(self._fresh)
        job.rows.add(number)
        return True

    def _acknowledged(self, number: int, record: TasksAcknowledged) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            return False
        touched: set[int] = set()
        for index in record.indexes:
            if (row := job.runs.get(index)) is None:
                continue
            touched.add(row)
            if index in job.kept:
                job.acknowledged.add(index)
            else:
                self._forget_task(job, index)
        return self._note(number, job, touched)

    def _released(self, number: int, record: ResultsReleased) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            return False
        touched: set[int] = set()
        for index in record.indexes:
            if index not in job.kept:
                continue
            touched.add(job.runs[index])
            job.kept.discard(index)
            if index in job.acknowledged:
                job.acknowledged.discard(index)
                self._forget_task(job, index)
        return self._note(number, job, touched)

    def _cancelled(self, number: int, record: TasksCancelled) -> bool:
        job = self._jobs.get(record.job)
        if job is None:
            return False
        if record.indexes is None:
            job.rows.add(number)
            return True
        return self._note(number, job, {job.runs[index] for index in record.indexes if index in job.runs})

    def _ended(self, number: int, record: JobEnded) -> bool:
        job = self._jobs.get(record.job)
        if job is None or job.ended is not None:
            return False
        job.ended = number
        job.rows.add(number)
        return True

    def _forgotten(self, number: int, record: JobForgotten) -> bool:
        job = self._jobs.pop(record.job, None)
        if job is None:
            return False
        for row in sorted(job.rows):
            self._left.pop(row, None)
            self._notes.pop(row, None)
            self._notes_of.pop(row, None)
            self._drop(row)
        for digest in sorted(job.functions):
            users = self._users[digest]
            users.discard(record.job)
            if not users:
                del self._users[digest]
                self._drop(self._functions.pop(digest))
        return False

    def _slave(self, number: int, record: SlaveKept) -> bool:
        if record.key in self._slaves:
            return False
        self._slaves[record.key] = number
        return True

    def _slave_gone(self, number: int, record: SlaveGone) -> bool:
        if (row := self._slaves.pop(record.key, None)) is not None:
            self._drop(row)
        return False

    def _forget_task(self, job: _JobRows, index: int) -> None:
        self._uncount(job, job.runs.pop(index))
        if (row := job.outcomes.pop(index, None)) is not None:
            self._uncount(job, row)

    def _uncount(self, job: _JobRows, row: int) -> None:
        """Note that one more task of a row is forgotten."""
        self._left[row] -= 1
        if self._left[row]:
            return
        del self._left[row]
        job.rows.discard(row)
        self._drop(row)
        for note in self._notes_of.pop(row, ()):
            about = self._notes.get(note)
            if about is not None:
                about.discard(row)
                if not about:
                    del self._notes[note]
                    job.rows.discard(note)
                    self._drop(note)

    def _note(self, number: int, job: _JobRows, rows: Iterable[int]) -> bool:
        """Keep a row as long as one of these rows is needed. Return whether any is."""
        about = {row for row in rows if row in self._left}
        if not about:
            return False
        self._notes[number] = about
        for row in about:
            self._notes_of.setdefault(row, []).append(number)
        job.rows.add(number)
        return True
