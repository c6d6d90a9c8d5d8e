"""Results that stay in the cluster: who gets them when they are fetched."""

import pickle
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

from concurrent_nb.errors import KeptResultLost
from concurrent_nb.nodes.application.client_tasks import ClientJob, Payload, TaskEntry, TaskLimits
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.kept_results import KeptResults
from concurrent_nb.nodes.application.results import KEPT_VALUE
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.session import Session
from tests.unit.nodes.application.test_core_inputs import FUNCTION, JOB


class Bench:
    """An application's core with one kept result, and the other end of its session."""

    def __init__(self) -> None:
        self.core: ClientCore[TaskHandle] = ClientCore(interval_s=1.0)
        self.master = Session(7, "from_client")
        self.core.attach(Session(7, "to_client"))
        self.calls: deque[Any] = deque()
        self.kept = KeptResults(self.core, lambda _: bytearray(), self.calls.append, lambda: None, lambda: False)
        thread = SimpleNamespace(cancel=lambda *_: None, kept_results=self.kept, check_may_wait=lambda: None)
        self.job = ClientJob[TaskHandle](JOB, "job")
        self.future: KeptFuture[Any] = KeptFuture(self.job, 0, cast("Any", thread))
        entry = TaskEntry(self.job, 0, FUNCTION, Payload(b"arguments"), cast("TaskHandle", self.future))
        entry.limits = TaskLimits(keep=True)
        self.core.add([entry])
        self.sent()

    def end(self) -> None:
        """Have the task end, as the client thread does."""
        self.receive(Status.KEPT)
        self.core.keep(self.job)
        self.future.note_kept()
        self.future.set_outcome(KEPT_VALUE, None, None)

    def sent(self) -> list[m.AnyMessage]:
        return [item.message for frames in self.core.step(0.0) for item in self.master.receive(frames, 0.0)]

    def receive(self, status: Status, body: bytes = b"") -> list[Any]:
        self.master.send(m.Outcomes(JOB, "east", [m.OutcomeFrame(0, 1, int(status), 0.1, 42, body)]))
        return [news for frames in self.master.flush(0.0) for news in self.core.received(frames, 0.0)]


def test_all_who_have_asked_for_a_result_are_told_when_it_comes() -> None:
    bench = Bench()
    bench.end()
    told: list[str] = []
    bench.future.fetch()
    bench.calls.popleft()()
    bench.kept.ask(bench.job, bench.future, lambda _: told.append("a held task"))
    bench.kept.ask(bench.job, bench.future, lambda _: told.append("another one"))
    assert [message for message in bench.sent() if isinstance(message, m.FetchResults)] == [m.FetchResults(JOB, [0])]
    for news in bench.receive(Status.OK, pickle.dumps("value")):
        news.then(news)
    assert (bench.future.result(0), told) == ("value", ["a held task", "another one"])


def test_all_who_have_asked_are_told_that_the_cluster_is_gone() -> None:
    bench = Bench()
    bench.end()
    told: list[object] = []
    for _ in range(2):
        bench.kept.ask(bench.job, bench.future, told.append)
    for then in bench.core.drop_fetches():
        then(None)
    assert told == [None, None]
    assert isinstance(bench.future.exception(), RuntimeError)


def test_a_result_that_is_freed_before_its_task_has_ended_is_dropped_when_it_comes() -> None:
    bench = Bench()
    bench.future.free()
    bench.calls.popleft()()
    bench.kept.drop_unused()
    bench.end()
    bench.kept.drop_unused()
    assert [message for message in bench.sent() if isinstance(message, m.FreeResults)] == [m.FreeResults(JOB, [0])]
    assert bench.job.kept == 0 and isinstance(bench.future.exception(), KeptResultLost)
