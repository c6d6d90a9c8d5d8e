"""What worker pools in the process of a test have instead of shared memory: errors where a master offers some."""

from collections import deque
from collections.abc import Sequence

from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers
from concurrent_nb.wire.messages import Assign, Slice, StackSampled, TaskFrame, TaskRef
from concurrent_nb.workers.slave_side.attempts import PoolReports


class UnsharedPool:
    """Raises for what can only come from a master that shares memory with its slave."""

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Raise AssertionError."""
        raise AssertionError(f"segment {segment.hex()[:8]} was announced to a pool that shares no memory")

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Raise AssertionError: no segment was announced."""
        raise AssertionError(f"{len(segments)} segments are to be dropped by a pool that shares no memory")

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Raise AssertionError for any slice: none was lent."""
        if slices:
            raise AssertionError(f"{len(slices)} slices were released to a pool that shares no memory")

    def hold_notes(self, hold: bool) -> None:
        """Do nothing: no task sends notes here."""


def travelled(buffers: Sequence[Buffer | Slice]) -> Buffers:
    """Return the buffers; none may lie in shared memory."""
    assert not any(isinstance(buffer, Slice) for buffer in buffers)
    return [buffer for buffer in buffers if not isinstance(buffer, Slice)]


class QueueingPool(UnsharedPool):
    """A pool without worker processes: it queues attempts, which a subclass runs in `take_reports`."""

    outdated = 0  #: there are no workers to restart
    is_saturated = False

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, bytes, TaskFrame, Buffers]] = deque()  #: job, function, task, its buffers
        self._reports = PoolReports()

    def assign(self, run: Assign, buffers: ItemBuffers, now: float) -> None:
        """Queue attempts."""
        for at, frame in enumerate(run.tasks):
            self.waiting.append((run.job, run.function, frame, buffers[at] if buffers else ()))

    def withdraw(self, tasks: Sequence[TaskRef], stop: bool, now: float) -> None:
        """Return attempts that wait. None runs between two calls of `take_reports`, so there is nothing to stop."""
        wanted = {(ref.job, ref.index, ref.attempt): ref for ref in tasks}
        for item in list(self.waiting):
            ref = wanted.get((item[0], item[2].index, item[2].attempt))
            if ref is not None:
                self.waiting.remove(item)
                self._reports.returned.append(ref)

    def has(self, ref: TaskRef) -> bool:
        """Return whether this attempt waits."""
        return any(
            (job, frame.index, frame.attempt) == (ref.job, ref.index, ref.attempt) for job, _, frame, _ in self.waiting
        )

    def attempts(self) -> list[TaskRef]:
        """Return the attempts that wait."""
        return [TaskRef(job, frame.index, frame.attempt) for job, _, frame, _ in self.waiting]

    def follow(self, run: Assign, now: float) -> int:
        """Take no task that needs the result of one that waits."""
        return 0

    def sample_stack(self, request: int, ref: TaskRef, now: float) -> None:
        """Report that it does not run: tasks run while the reports are taken."""
        self._reports.stacks.append(StackSampled(request, 0, 0.0, "", "it has not begun"))

    def restart_workers(self, now: float, *, stop: bool) -> None:
        """Do nothing: there are no workers to restart."""
