"""What an application sends, and what it sends again to a new master."""

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import (
    ClientJob,
    FunctionPayload,
    Payload,
    TaskEnded,
    TaskEntry,
    TaskLimits,
    TaskRunning,
    TaskWrote,
)
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Received
from concurrent_nb.wire.session import Session

JOB = JobId(b"j" * 16)
FUNCTION = FunctionPayload(b"f" * 32, Payload(b"function"))
OPEN = m.OpenJob(JOB, "job", False, False, "stealing")
SENT = m.Function(FUNCTION.digest, FUNCTION.payload.body, ())


class Bench:
    def __init__(self) -> None:
        self.core: ClientCore[str] = ClientCore(interval_s=1.0)
        self.job: ClientJob[str] = ClientJob(JOB, "job", strategy="stealing")
        self.connect()

    def connect(self) -> list[str]:
        """Begin a session with a new master; return the handles of the tasks that are not sent again."""
        self.master = Session(7, "from_client")
        return [entry.handle for entry in self.core.attach(Session(7, "to_client"))]

    def entry(self, index: int, retries: int = 0) -> TaskEntry[str]:
        return TaskEntry(self.job, index, FUNCTION, Payload(b"arguments"), f"future {index}", TaskLimits(None, retries))

    def sent(self) -> list[m.AnyMessage]:
        received: list[Received] = []
        for frames in self.core.step(0.0):
            received += self.master.receive(frames, 0.0)
        return [item.message for item in received]

    def receive(self, *messages: m.AnyMessage) -> list[object]:
        for message in messages:
            self.master.send(message)
        return [news for frames in self.master.flush(0.0) for news in self.core.received(frames, 0.0)]


def submit(*indexes: int, retries: int = 0) -> m.Submit:
    return m.Submit(JOB, FUNCTION.digest, None, retries, [m.TaskFrame(index, 0, b"arguments") for index in indexes])


def outcome(index: int) -> m.Outcomes:
    return m.Outcomes(JOB, "east", [m.OutcomeFrame(index, 1, 0, 0.1, 42, b"value")])


def test_neighbours_that_share_everything_are_one_run() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1), bench.entry(2, retries=3)])
    assert bench.sent() == [OPEN, SENT, submit(0, 1), submit(2, retries=3)]
    bench.core.add([bench.entry(3)])
    assert bench.sent() == [submit(3)]


def test_news_come_with_what_the_application_put_in() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.sent()
    ref = m.TaskRef(JOB, 0, 1)
    started = m.Started("east", [m.StartedTask(JOB, 0, 1, 42)])
    runs, wrote, ended = bench.receive(started, m.Output(ref, 1, b"text"), outcome(0))
    assert isinstance(runs, TaskRunning) and runs.slave == "east"
    assert isinstance(wrote, TaskWrote) and wrote.data == b"text"
    assert isinstance(ended, TaskEnded) and ended.entry.handle == "future 0"
    assert not bench.core.has_entries()


def test_a_second_answer_is_no_news() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    assert len(bench.receive(outcome(0))) == 1
    assert bench.receive(outcome(0), outcome(17)) == []


def test_a_new_master_gets_everything_that_has_no_answer() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1)])
    bench.core.close(bench.job)
    assert bench.sent() == [OPEN, SENT, submit(0, 1), m.CloseJob(JOB)]
    bench.receive(outcome(0))
    assert bench.connect() == []
    assert bench.sent() == [OPEN, SENT, submit(1), m.CloseJob(JOB)]


def test_cancelled_tasks_are_not_sent_to_a_new_master() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1)])
    bench.core.cancel(JOB, [1])
    bench.sent()
    assert bench.connect() == ["future 1"]
    assert [message for message in bench.sent() if isinstance(message, m.Submit)] == [submit(0)]


def test_what_was_cancelled_is_cancelled_again_in_a_new_session() -> None:
    # The master may be the old one, and the first request may be lost: then it would run the task for ever.
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1)])
    bench.core.cancel(JOB, [1])
    for _ in range(2):
        bench.connect()
        assert bench.sent() == [OPEN, m.Cancel(JOB, [1]), SENT, submit(0)]


def test_a_job_that_is_not_open_in_this_session_is_not_cancelled() -> None:
    # It has no unanswered task, and a master that knows the job from another session would take us for a stranger.
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.sent()
    bench.receive(outcome(0))
    bench.connect()
    bench.core.cancel(JOB, None)
    assert bench.sent() == []


def test_a_new_session_begins_at_once() -> None:
    bench = Bench()
    bench.sent()
    bench.connect()
    assert bench.core.next_deadline() < 0.0


def test_a_task_that_comes_late_for_a_closed_job_opens_it_again() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0)])
    bench.core.close(bench.job)
    bench.sent()
    bench.receive(outcome(0))
    bench.core.add([bench.entry(1)])
    assert bench.sent() == [OPEN, SENT, submit(1), m.CloseJob(JOB)]


def test_giving_up_gives_everything_back() -> None:
    bench = Bench()
    bench.core.add([bench.entry(0), bench.entry(1)])
    assert [entry.handle for entry in bench.core.drop_all()] == ["future 0", "future 1"]
    assert not bench.core.has_entries()
