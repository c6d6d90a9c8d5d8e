"""What an application sends of tasks that need results of others, and which it holds."""

from collections.abc import Callable
from typing import Any

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import (
    ClientJob,
    FunctionPayload,
    Payload,
    ResultFetched,
    TaskEnded,
    TaskEntry,
    TaskLimits,
)
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.session import Session

JOB, LATER = JobId(b"j" * 16), JobId(b"l" * 16)
FUNCTION = FunctionPayload(b"f" * 32, Payload(b"function"))


class Handle:
    """What a core needs of a future."""

    def __init__(self, index: int, job_id: JobId = JOB) -> None:
        self.index, self.job_id = index, job_id
        self.is_kept = False

    def done(self) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Never call it."""


class Bench:
    def __init__(self, quota: Quota | None = None) -> None:
        self.core: ClientCore[Handle] = ClientCore(interval_s=1.0)
        self.jobs = {job: ClientJob[Handle](job, "job", is_linked=True) for job in (JOB, LATER)}
        self.handles: dict[tuple[JobId, int], Handle] = {}
        self.connect(quota)

    def connect(self, quota: Quota | None = None) -> None:
        self.master = Session(7, "from_client")
        self.core.attach(Session(7, "to_client"), quota=quota or UNLIMITED)

    def entry(self, index: int, *needs: int, job: JobId = JOB, keep: bool = False) -> TaskEntry[Handle]:
        handle = self.handles[job, index] = Handle(index, job)
        payload = Payload(b"arguments", inputs=tuple(self.handles[JOB, needed] for needed in needs))
        return TaskEntry(self.jobs[job], index, FUNCTION, payload, handle, TaskLimits(keep=keep))

    def sent(self) -> list[tuple[Any, ...]]:
        """Return what was sent about tasks, in short."""
        found: list[tuple[Any, ...]] = []
        for frames in self.core.step(0.0):
            for message in [item.message for item in self.master.receive(frames, 0.0)]:
                if isinstance(message, m.TaskInputs):
                    found.append((message.index, "needs", *[it for each in message.inputs for it in each.indexes]))
                elif isinstance(message, m.Submit):
                    found.append(("tasks", *[task.index for task in message.tasks]))
                elif isinstance(message, m.FetchResults | m.FreeResults):
                    found.append((type(message).__name__, *message.indexes))
        return found

    def receive(self, *ends: tuple[int, Status]) -> list[object]:
        for index, status in ends:
            frame = m.OutcomeFrame(index, 1, int(status), 0.1, 42, b"value" if status is Status.OK else b"")
            self.master.send(m.Outcomes(JOB, "east", [frame]))
        return [news for frames in self.master.flush(0.0) for news in self.core.received(frames, 0.0)]


def test_inputs_are_announced_before_the_tasks_that_need_them() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1, 0), bench.entry(2, 0, 1)])
    assert bench.sent() == [(1, "needs", 0), (2, "needs", 0, 1), ("tasks", 0, 1, 2)]


def test_many_inputs_are_announced_in_pieces() -> None:
    bench = Bench()
    bench.core.add([bench.entry(index) for index in range(5000)])
    bench.sent()
    bench.core.add([bench.entry(5000, *range(5000))])
    (task, _, *needed), submitted = bench.sent()
    assert (task, needed, submitted) == (5000, list(range(5000)), ("tasks", 5000))


def test_a_task_that_needs_too_many_results_ends_here_and_no_other_does() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    entry = bench.entry(1, 0)
    needed = entry.payload.inputs * (m.INPUTS_MAX + 1)
    entry.payload = Payload(b"arguments", inputs=needed)
    bench.core.add([entry, bench.entry(2, 0)])
    assert bench.sent() == [("tasks", 0), (2, "needs", 0), ("tasks", 2)]
    assert [(it.entry.index, it.inputs) for it in bench.core.take_unsent()] == [(1, m.INPUTS_MAX + 1)]
    assert not bench.jobs[JOB].waiting and 1 not in bench.jobs[JOB].entries


def test_a_task_waits_here_for_a_result_that_only_this_process_has() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.receive((0, Status.OK))
    late = bench.entry(1, 0)
    bench.core.add([late, bench.entry(2, 1), bench.entry(3)])
    assert bench.sent() == [("tasks", 0), ("tasks", 3)]
    assert bench.core.take_held() == [late]
    bench.core.give(late, Payload(b"with its value", kind=5))
    assert bench.sent() == [("tasks", 1), (2, "needs", 1), ("tasks", 2)]


def test_a_task_whose_input_is_gone_is_held_and_those_behind_it_follow() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1, 0), bench.entry(2, 1)])
    bench.sent()
    assert len(bench.receive((0, Status.OK), (1, Status.INPUT_GONE), (2, Status.INPUT_GONE))) == 1
    (held,) = bench.core.take_held()
    assert held.index == 1
    bench.core.give(held, Payload(b"with its value", kind=5))
    assert bench.sent() == [("tasks", 1), (2, "needs", 1), ("tasks", 2)]


def test_a_held_task_can_be_cancelled_and_dropped() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.receive((0, Status.OK))
    first, second = bench.entry(1, 0), bench.entry(2, 0)
    bench.core.add([first, second, bench.entry(3, 1)])
    bench.core.cancel(JOB, [1])
    assert [unsent.entry for unsent in bench.core.take_unsent()] == [first]
    assert bench.core.drop_held(second)
    assert not bench.core.drop_held(second)
    bench.core.give(first, Payload(b""))  # too late
    bench.sent()
    assert [entry.index for entry in bench.core.take_held()] == [3]  # what it needs has ended here


def test_what_was_held_behind_a_task_that_is_dropped_is_looked_at_without_waiting() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.receive((0, Status.OK))
    entries = [bench.entry(index, index - 1) for index in (1, 2, 3)]
    bench.core.add(entries)
    bench.sent()
    assert bench.core.next_deadline() > 0.0
    for entry in entries:  # each fails because of the one before
        assert bench.core.take_held() == [entry]
        assert bench.core.drop_held(entry)
        assert (bench.core.next_deadline() < 0.0) == (entry is not entries[-1])
        bench.sent()


def test_a_task_is_not_sent_before_what_it_needs() -> None:
    bench = Bench(Quota(tasks=1, bytes=1 << 20))
    bench.core.add([bench.entry(0), bench.entry(1)])
    bench.core.add([bench.entry(0, 1, job=LATER)])
    assert bench.sent() == [("tasks", 0)]
    bench.receive((0, Status.OK))
    assert bench.sent() == [("tasks", 1)]
    bench.receive((1, Status.OK))
    assert bench.sent() == []
    assert [entry.job.id for entry in bench.core.take_held()] == [LATER]


def test_a_new_master_gets_linked_tasks_again() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1, 0)])
    bench.sent()
    bench.connect()
    assert bench.sent() == [(1, "needs", 0), ("tasks", 0, 1)]


def test_kept_results_are_used_fetched_and_freed() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0, keep=True)])
    (ended,) = bench.receive((0, Status.KEPT))
    assert isinstance(ended, TaskEnded)
    bench.core.keep(ended.entry.job)
    bench.handles[JOB, 0].is_kept = True
    bench.core.add([bench.entry(1, 0)])
    assert bench.sent() == [("tasks", 0), (1, "needs", 0), ("tasks", 1)]
    answers: list[ResultFetched | None] = []
    bench.core.fetch(bench.jobs[JOB], 0, answers.append)
    assert bench.sent() == [("FetchResults", 0)]
    assert bench.receive((0, Status.KEPT)) == []  # its receipt, once more
    (fetched,) = bench.receive((0, Status.OK))
    assert isinstance(fetched, ResultFetched)
    fetched.then(fetched)
    assert [answer.frame.body for answer in answers if answer is not None] == [b"value"]
    bench.core.close(bench.jobs[JOB])
    bench.core.free(bench.jobs[JOB], 0)
    assert bench.sent() == [("FreeResults", 0)]


def test_a_new_session_opens_jobs_with_kept_results_and_asks_again() -> None:
    bench = Bench()
    bench.core.add([bench.entry(index, keep=True) for index in range(3)])
    bench.core.close(bench.jobs[JOB])
    bench.receive(*[(index, Status.KEPT) for index in range(3)])
    for _ in range(3):
        bench.core.keep(bench.jobs[JOB])
    bench.core.fetch(bench.jobs[JOB], 0, lambda _: None)
    bench.core.free(bench.jobs[JOB], 1)
    bench.sent()
    bench.connect()
    assert bench.sent() == [("FreeResults", 1), ("FreeResults", 1), ("FetchResults", 0)]
    assert len(bench.core.drop_fetches()) == 1
