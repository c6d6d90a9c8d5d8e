"""A worker pool without processes: runs tasks in this process, one after another, when its reports are taken.

For the test of a task's life (tests/test_life_of_a_task.py) and for tests of the cores. Implements
`nodes.slave.core.WorkerPool`.
"""

import traceback
from collections.abc import Sequence

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.task_inputs import Inputs
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.bound_tasks import Results, unbind
from concurrent_nb.wire.codec import Buffer, Buffers, encode_error, pack_body, unpack_body
from concurrent_nb.workers.slave_side.attempts import PoolReports
from tests.unshared_pool import QueueingPool, travelled


class InlinePool(QueueingPool):
    """Runs tasks in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[bytes, tuple[bytes, Buffers]] = {}

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a pickled function."""
        self.functions[digest] = body, travelled(buffers)

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            del self.functions[digest]

    def take_reports(self) -> PoolReports:
        """Run everything that waits, and return the outcomes."""
        while self.waiting:
            job, function, frame, buffers = self.waiting.popleft()
            status, body, out = self._run(function, frame, buffers)
            inline, sizes, out = pack_body(body, out)
            outcome = m.OutcomeFrame(frame.index, frame.attempt, status, 0.0, 1, inline, sizes)
            self._reports.outcomes.append((job, [outcome], [out]))
        reports, self._reports = self._reports, PoolReports()
        return reports

    def _run(self, function: bytes, frame: m.TaskFrame, buffers: Buffers) -> tuple[Status, bytes, Buffers]:
        try:
            call = pickles.loads(*unpack_body(*self.functions[function]))
            kind, body, parts = frame.kind, *unpack_body(frame.body, buffers)
            results: Results = {}
            while kind == m.TaskKind.BOUND:
                kind, body, parts = unbind(body, parts, results)
            with Inputs(results).use():
                args, kwargs = pickles.loads(body, parts), {}
            if kind == m.TaskKind.KEYWORD_CALL:
                args, kwargs = args
            value = call(*args, **kwargs)
            if isinstance(value, Hit):
                return Status.HIT, *pickles.dumps(value.value)
            return Status.OK, *pickles.dumps(value)
        except Exception as error:  # noqa: BLE001  (user code: the error is the task's answer)
            pickled = pickles.dumps(error)[0]
            report = m.ErrorReport(type(error).__qualname__, str(error), traceback.format_exc(), pickled)
            return Status.ERROR, encode_error(report), ()
