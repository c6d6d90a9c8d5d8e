"""The results of a job: its value, an outcome for each task, and its summary in one line.

Used by the magics. Reads jobs, never changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from concurrent_nb import ITaskSystem, Job, SystemRun
from concurrent_nb.notebook.live.text import seconds_text
from concurrent_nb.shipping.cells.captured_names import Captured
from concurrent_nb.shipping.serialization.sizes import format_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one task ended, with `--on-error keep`."""

    index: int  #: number of the task in its job
    value: Any = None  #: what it returned
    error: BaseException | None = None  #: what it raised, or why it could not run
    cancelled: bool = False  #: it never ran, or was stopped

    @property
    def ok(self) -> bool:
        """Return whether the task has a value."""
        return self.error is None and not self.cancelled

    def __repr__(self) -> str:
        if self.ok:
            return f"<{self.index}: {self.value!r}>"
        return f"<{self.index}: cancelled>" if self.cancelled else f"<{self.index}: {self.error!r}>"


def show_statistics(job: Job) -> None:
    """Show the statistics of a job in the current cell: as a table, or as text where there is no page."""
    stats = job.stats
    display({"text/plain": repr(stats), "text/html": stats._repr_html_()}, raw=True)  # type: ignore[no-untyped-call]


def outcomes_of(job: Job) -> list[Outcome]:
    """Return an outcome for each task of a job that has ended, in order."""
    found = []
    for index, future in enumerate(job.futures):
        if future.cancelled():
            found.append(Outcome(index, cancelled=True))
        elif (error := future.exception()) is not None:
            found.append(Outcome(index, error=error))
        else:
            found.append(Outcome(index, future.result()))
    return found


def system_of(job: Job, is_loop: bool) -> ITaskSystem | None:
    """Return the task system that is the value of a cell whose job has ended; None if the value is anything else."""
    if is_loop or job.first_error is not None or job.futures[0].cancelled():
        return None
    value = job.futures[0].result()
    return value if isinstance(value, ITaskSystem) else None


def value_of(job: Job, *, is_loop: bool, until: bool, keep: bool) -> Any:
    """Return the value of a cell whose job has ended.

    Args:
        is_loop: it has a --for, so the value is a list.
        until: it has a --until, so the value is that of the hit, or None.
        keep: failed tasks are part of the value (--on-error keep).
    """
    if until:
        return job.hit.result() if job.hit is not None else None
    if keep:
        outcomes = outcomes_of(job)
        return outcomes if is_loop else outcomes[0]
    values = [future.result() for future in job.futures]
    return values if is_loop else values[0]


def summary(job: Job, elapsed_s: float, where: str | None = None) -> str:
    """Return a line about how a job ended: `128 tasks: 113 done, 15 cancelled in 0.84 s, on 2 slaves`.

    Args:
        where: where the tasks ran, if not on the cluster.
    """
    counts = job.counts()
    shown = plural(counts.total, "task")
    if counts.done != counts.total:
        ways = {"done": counts.done, "failed": counts.failed, "cancelled": counts.cancelled}
        shown += ": " + ", ".join(f"{number:,} {way}" for way, number in ways.items() if number)
    return ", ".join([f"{shown} in {seconds_text(elapsed_s)}", *notes_of(job, where)])


def notes_of(job: Job, where: str | None = None) -> list[str]:
    """Return the parts of the summary besides counts and times."""
    if not (isinstance(job, SystemRun) and job.is_system):
        return [where] if where else [f"on {len(job.slaves)} slaves"] if len(job.slaves) > 1 else []
    phases = max((phase.number for phase in job.last_counts.phases), default=0)
    notes = [f"in {phases} phases"] if phases > 1 else []
    return [*notes, "the system has failed"] if job.first_error is not None else notes


def stopped(before: Any, after: Any) -> list[str]:
    """Return what an interrupt has stopped: `12 done`, `3 stopped while running`, `113 never ran`.

    Args:
        before: the job's `Counts` when it was interrupted.
        after: its `Counts` at the end of the wait for that.
    """
    stopped = min(before.running, after.cancelled)
    ways = {
        "failed": after.failed,
        "stopped while running": stopped,
        "never ran": after.cancelled - stopped,
        "still being stopped": after.waiting + after.running,
    }
    return [f"{after.done:,} done", *(f"{number:,} {way}" for way, number in ways.items() if number)]


def captured_text(captured: Sequence[Captured]) -> str:
    """List the names that are sent with a cell: name, kind, size; the largest first."""
    if not captured:
        return "no names are sent with the cell"
    rows = [(c.name, c.kind, _how(c)) for c in sorted(captured, key=lambda c: (-c.size_bytes, c.name))]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {size}" for name, kind, size in rows]
    total = format_bytes(sum(c.size_bytes for c in captured))
    return "\n".join([f"sent with the cell, once to each worker: {total}", *lines])


def _how(captured: Captured) -> str:
    if captured.kind == "setup":
        return "defined by a setup cell"
    return format_bytes(captured.size_bytes) if captured.size_bytes else "by name"


def plural(number: int, noun: str) -> str:
    """Return a number with a noun: `1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
