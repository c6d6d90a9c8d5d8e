"""Marks of tasks that have ended, packed for the timelines that people watch: a lane per worker, a mark per run.

At full load 40,000 tasks end in a second, so each is touched as a number in a column (`TaskColumns`), and only those of
a sample become marks. PROTOCOL.md describes their bytes.
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from concurrent_nb.tasks.task_log import TaskColumns

#: most marks that are added in one tick: packing one takes 0.4 us, and no screen shows more of a quarter of a second
TICK_MARKS: Final = 500
#: most marks of a delta, for a reader that has missed ticks
DELTA_MARKS: Final = 2000
#: most marks of a snapshot
SNAPSHOT_MARKS: Final = 10_000
#: lanes, or functions, with which the tables start anew
TABLE_MAX: Final = 10_000
#: lane, function (numbers in their tables), status; when it started; seconds that it ran, that it waited before that,
#: and of the latter those since its assignment: on the way to its worker, and in front of it
MARK: Final = struct.Struct("<HHB3xdfff")


class Chunk(NamedTuple):
    """The marks of one tick."""

    seq: int  #: of the tick
    first: int  #: number of the first task
    tasks: int  #: number of tasks; more than marks if it is a sample, or too old for a snapshot
    marks: bytes


class Run(NamedTuple):
    """Some tasks of one block of the log: all of them, or those at some positions."""

    columns: TaskColumns
    positions: Sequence[int]


class TaskStream:
    """The marks of one view on a cluster: of all tasks, or of one owner's.

    Args:
        seq: number of the tick in which it begins.
        now: the time, in seconds.
    """

    def __init__(self, seq: int, now: float) -> None:
        self.begun_seq = seq  #: readers whose state is older need a snapshot
        self.used_s = now  #: when a reader last needed it
        self.lanes: dict[str, int] = {}  #: "slave/pid" to number
        self.functions: dict[str, int] = {}  #: name to number
        self.lanes_seq = self.functions_seq = seq  #: of the tick in which they last grew
        self._chunks: deque[Chunk] = deque()
        self._end = 0  # number of the next task
        self._held = 0  # marks in all chunks

    def add(self, runs: Sequence[Run], seq: int, *, most: int = TICK_MARKS) -> bool:
        """Add the tasks of a tick, as an even sample of at most `most`. Returns whether there were any."""
        total = sum(len(run.positions) for run in runs)
        if not total:
            return False
        if len(self.lanes) > TABLE_MAX or len(self.functions) > TABLE_MAX:
            self._begin_anew(seq)
        before = len(self.lanes), len(self.functions)
        step = -(-total // most)
        parts = []
        offset = 0
        for run in runs:
            sample = run.positions[-offset % step :: step]
            offset += len(run.positions)
            if sample:
                parts.append(self._marks(run.columns, sample))
        if len(self.lanes) > before[0]:
            self.lanes_seq = seq
        if len(self.functions) > before[1]:
            self.functions_seq = seq
        self._append(b"".join(parts), seq, total, step)
        return True

    def forget(self, seq: int) -> None:
        """Drop what only readers need whose state is older than `seq`, and no snapshot."""
        while self._chunks and self._chunks[0].seq <= seq and not self._chunks[0].marks:
            self._chunks.popleft()

    def since(self, seq: int) -> dict[str, Any]:
        """Return what has come after a tick, as a delta has it; empty if nothing has."""
        chunks = [chunk for chunk in self._chunks if chunk.seq > seq]
        if not chunks:
            return {}
        marks = b"".join(chunk.marks for chunk in chunks)
        count = len(marks) // MARK.size
        if count > DELTA_MARKS:
            size, step = MARK.size, -(-count // DELTA_MARKS)
            marks = b"".join([marks[at : at + size] for at in range(0, len(marks), step * size)])
            count = len(marks) // size
        tables: dict[str, Any] = {}
        if self.lanes_seq > seq:
            tables["lanes"] = list(self.lanes)
        if self.functions_seq > seq:
            tables["functions"] = list(self.functions)
        total = sum(chunk.tasks for chunk in chunks)
        return {**tables, "first": chunks[0].first, "skipped": total - count, "marks": marks}

    def snapshot(self) -> dict[str, Any]:
        """Return the tables and the last marks."""
        chunks = [chunk for chunk in self._chunks if chunk.marks]
        marks = b"".join(chunk.marks for chunk in chunks)
        total = sum(chunk.tasks for chunk in chunks)
        return {
            "lanes": list(self.lanes),
            "functions": list(self.functions),
            "first": self._end - total,
            "skipped": total - len(marks) // MARK.size,
            "marks": marks,
        }

    def _begin_anew(self, seq: int) -> None:
        self.begun_seq = self.lanes_seq = self.functions_seq = seq
        self.lanes, self.functions = {}, {}
        self._chunks.clear()
        self._held = 0

    def _append(self, marks: bytes, seq: int, total: int, step: int) -> None:
        """Add the marks of `total` tasks, of which each is one of `step`, in chunks that can be dropped one by one."""
        end, size = self._end + total, TICK_MARKS * MARK.size
        for at in range(0, len(marks), size):
            piece = marks[at : at + size]
            is_last = at + size >= len(marks)
            tasks = end - self._end if is_last else len(piece) // MARK.size * step
            self._chunks.append(Chunk(seq, self._end, tasks, piece))
            self._end += tasks
        self._held += len(marks) // MARK.size
        self._drop_marks()

    def _drop_marks(self) -> None:
        """Drop the marks of the oldest chunks; their numbers are still needed."""
        at = 0
        while self._held > SNAPSHOT_MARKS:
            chunk = self._chunks[at]
            self._held -= len(chunk.marks) // MARK.size
            self._chunks[at] = chunk._replace(marks=b"")
            at += 1

    def _marks(self, columns: TaskColumns, positions: Sequence[int]) -> bytes:
        """Pack the tasks at some positions."""

        def column(cells: "memoryview[Any]") -> list[Any]:
            if isinstance(positions, range):
                return cells[positions.start : positions.stop : positions.step].tolist()
            values = cells.tolist()
            return [values[position] for position in positions]

        lanes, functions, pack = self.lanes, self.functions, MARK.pack
        lane_of: dict[tuple[int, int], int] = {}
        function_of: dict[int, int] = {}
        marks: list[bytes] = []
        for worker, function, status, ended_s, accepted_ago, assigned_ago, reported_ago, elapsed_s in zip(
            zip(column(columns.slave), column(columns.worker), strict=True),
            column(columns.function),
            column(columns.status),
            column(columns.ended_s),
            column(columns.accepted_ago_s),
            column(columns.assigned_ago_s),
            column(columns.reported_ago_s),
            column(columns.elapsed_s),
            strict=True,
        ):
            if (lane := lane_of.get(worker)) is None:
                name = f"{columns.slaves[worker[0]]}/{worker[1]}"
                lane = lane_of[worker] = lanes.setdefault(name, len(lanes))
            if (number := function_of.get(function)) is None:
                name = columns.functions[function]
                number = function_of[function] = functions.setdefault(name, len(functions))
            # As in `TaskLog.read`: a run is within the time that the task was on its slave, whatever the slave reports.
            finished_s = ended_s - (reported_ago if 0 <= reported_ago <= assigned_ago else assigned_ago)
            started_s, assigned_s = finished_s - elapsed_s, ended_s - assigned_ago
            if not assigned_s <= started_s <= finished_s:  # also for a time that is no number
                started_s = assigned_s
            waited_s = started_s - ended_s + accepted_ago
            if waited_s < 0.0:
                waited_s = 0.0
            marks.append(
                pack(lane, number, status, started_s, finished_s - started_s, waited_s, started_s - assigned_s)
            )
        return b"".join(marks)
