"""A worker pool without processes: runs tasks in this process, one after another, when its reports are taken.

For the tour in tests/test_life_of_a_task.py and for tests of the cores. Implements `nodes.slave.core.WorkerPool`.
"""

import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, encode_error, pack_body, unpack_body
from concurrent_nb.workers.protocol.records import AddSegment
from tests.unshared_pool import UnsharedPool, travelled

_Waiting = tuple[bytes, bytes, m.TaskFrame, Buffers]


@dataclass(slots=True)
class InlineReports:
    """What `take_reports` returns."""

    outcomes: list[tuple[bytes, list[m.OutcomeFrame], list[Buffers]]] = field(default_factory=list)
    started: list[m.TaskRef] = field(default_factory=list)
    returned: list[m.TaskRef] = field(default_factory=list)
    output: list[tuple[m.TaskRef, int, bytes]] = field(default_factory=list)
    degraded: str = ""
    segments: list[AddSegment] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    orphaned: list[bytes] = field(default_factory=list)


class InlinePool(UnsharedPool):
    """Runs tasks in this process."""

    def __init__(self) -> None:
        self.functions: dict[bytes, tuple[bytes, Buffers]] = {}
        self.waiting: deque[_Waiting] = deque()
        self._reports = InlineReports()

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a pickled function."""
        self.functions[digest] = body, travelled(buffers)

    def renew(self, now: float, *, stop: bool) -> None:
        """Do nothing: this process runs the tasks."""

    @property
    def outdated(self) -> int:
        """Return 0: nothing is to be replaced."""
        return 0

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            del self.functions[digest]

    def assign(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        tasks: Sequence[m.TaskFrame],
        buffers: ItemBuffers,
        now: float,
        needs: m.Needs | None = None,
    ) -> None:
        """Queue attempts."""
        for at, frame in enumerate(tasks):
            self.waiting.append((job, function, frame, buffers[at] if buffers else ()))

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Return what waits; nothing runs between two reports, so there is nothing to stop."""
        wanted = {(ref.job, ref.index, ref.attempt): ref for ref in tasks}
        for item in list(self.waiting):
            ref = wanted.get((item[0], item[2].index, item[2].attempt))
            if ref is not None:
                self.waiting.remove(item)
                self._reports.returned.append(ref)

    @property
    def provided(self) -> bool:
        """Return False: nothing waits after `take_reports`."""
        return False

    def take_reports(self) -> InlineReports:
        """Run everything that waits, and return the outcomes."""
        while self.waiting:
            job, function, frame, buffers = self.waiting.popleft()
            status, body, out = self._run(function, frame, buffers)
            inline, sizes, out = pack_body(body, out)
            outcome = m.OutcomeFrame(frame.index, frame.attempt, status, 0.0, 1, inline, sizes)
            self._reports.outcomes.append((job, [outcome], [out]))
        reports, self._reports = self._reports, InlineReports()
        return reports

    def _run(self, function: bytes, frame: m.TaskFrame, buffers: Buffers) -> tuple[Status, bytes, Buffers]:
        try:
            call = pickles.loads(*unpack_body(*self.functions[function]))
            args, kwargs = pickles.loads(*unpack_body(frame.body, buffers))
            value = call(*args, **kwargs)
            if isinstance(value, Hit):
                return Status.HIT, *pickles.dumps(value.value)
            return Status.OK, *pickles.dumps(value)
        except Exception as error:  # noqa: BLE001  (user code: the error is the task's answer)
            pickled = pickles.dumps(error)[0]
            report = m.ErrorReport(type(error).__qualname__, str(error), traceback.format_exc(), pickled)
            return Status.ERROR, encode_error(report), ()
