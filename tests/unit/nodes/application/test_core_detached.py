"""What an application sends for jobs that the master keeps: those that it starts, and those that it only reads."""

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import ClientJob, JobFound, TaskEnded, TaskWrote
from concurrent_nb.wire import messages as m
from tests.unit.nodes.application.test_core import JOB, SENT, Bench, outcome, submit

OTHER = JobId(b"o" * 16)


def answer(job: JobId, tasks: int = 2, error: str = "") -> m.JobAttached:
    return m.JobAttached(job, error, "fits", tasks)


def detached_bench() -> tuple[Bench, list[object]]:
    """Return an application that has started a detached job of one task, and what it hears of it."""
    bench, heard = Bench(), list[object]()
    bench.job.detached = True
    bench.core.add([bench.entry(0)])
    bench.core.close(bench.job)
    bench.core.confirm(bench.job, heard.append)
    return bench, heard


def reading_bench() -> tuple[Bench, ClientJob[str], list[object]]:
    """Return an application that reads a job of two tasks, and what it hears of it."""
    bench, heard = Bench(), list[object]()
    job: ClientJob[str] = ClientJob(OTHER, new_handle=lambda index: f"handle {index}")
    bench.core.read(job, heard.append)
    return bench, job, heard


def test_a_detached_job_is_confirmed_after_its_last_task() -> None:
    bench, _ = detached_bench()
    opened = m.OpenJob(JOB, "job", False, False, "stealing", detached=True)
    assert bench.sent() == [opened, SENT, submit(0), m.CloseJob(JOB), m.AttachJob(JOB)]


def test_a_detached_job_is_confirmed_when_waiting_tasks_have_been_sent() -> None:
    bench, heard = Bench(), list[object]()
    bench.core.session = None
    bench.core.add([bench.entry(0)])
    bench.core.close(bench.job)
    bench.core.confirm(bench.job, heard.append)
    bench.connect()
    assert bench.sent()[-2:] == [m.CloseJob(JOB), m.AttachJob(JOB)]


def test_a_job_whose_tasks_have_ended_is_still_confirmed_in_the_next_session() -> None:
    bench, heard = detached_bench()
    bench.sent()
    bench.receive(outcome(0))
    bench.connect()
    assert bench.sent() == [m.AttachJob(JOB)]
    (found,) = bench.receive(answer(JOB))
    assert isinstance(found, JobFound) and found.job is None
    assert found.then is not None
    found.then(found.answer)
    assert heard == [answer(JOB)]


def test_a_read_job_has_its_tasks_when_the_master_has_answered() -> None:
    bench, job, _ = reading_bench()
    assert bench.sent() == [m.AttachJob(OTHER)]
    wrote = m.Output(m.TaskRef(OTHER, 1, 1), 1, b"text")
    ended = m.Outcomes(OTHER, "east", [m.OutcomeFrame(index, 1, 0, 0.1, 42, b"value") for index in (1, 0)])
    found, text, *ends = bench.receive(answer(OTHER), wrote, ended)
    assert isinstance(found, JobFound) and found.job is job
    assert isinstance(text, TaskWrote) and text.entry.handle == "handle 1"
    assert [each.entry.handle for each in ends if isinstance(each, TaskEnded)] == ["handle 1", "handle 0"]
    assert bench.core.jobs == {}
    assert bench.sent() == []  # nothing to close


def test_a_read_job_takes_no_room_from_the_tasks_of_the_application() -> None:
    bench, job, _ = reading_bench()
    bench.receive(answer(OTHER), m.Outcomes(OTHER, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"value")]))
    assert (bench.core._sent, job.sent) == (0, 0)


def test_a_read_job_is_read_again_in_the_next_session_without_its_output() -> None:
    bench, _, _ = reading_bench()
    bench.connect()
    assert bench.sent() == [m.AttachJob(OTHER)]  # it has not been answered
    bench.receive(answer(OTHER), m.Outcomes(OTHER, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"value")]))
    bench.connect()
    assert bench.sent() == [m.AttachJob(OTHER, again=True)]
    bench.receive(answer(OTHER))
    assert [entry.index for entry in bench.core.entries()] == [1]


def test_a_read_job_can_be_cancelled() -> None:
    bench, _, _ = reading_bench()
    bench.receive(answer(OTHER))
    bench.sent()
    bench.core.cancel(OTHER, None)
    assert bench.sent() == [m.Cancel(OTHER, None)]


def test_a_refusal_is_passed_on_and_leaves_nothing() -> None:
    bench, job, _ = reading_bench()
    (found,) = bench.receive(answer(OTHER, error="there is no such job"))
    assert isinstance(found, JobFound) and found.job is job
    assert bench.core.let_go(job) == []
    assert bench.core.jobs == {}


def test_a_job_that_is_let_go_gets_no_news() -> None:
    bench, job, _ = reading_bench()
    bench.receive(answer(OTHER))
    assert [entry.index for entry in bench.core.let_go(job)] == [0, 1]
    assert not bench.core.has_entries()
    assert bench.receive(m.Outcomes(OTHER, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"value")])) == []
