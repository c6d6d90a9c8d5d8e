"""Detached jobs: the master keeps what they print and return, for all applications of their owner."""

from math import inf

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master import detached_jobs
from concurrent_nb.nodes.master.core import LINGER_S
from concurrent_nb.nodes.master.detached_jobs import DetachedLimits
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode_error
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, KEYS, Bench, function

#: another session of Alice
ALICE_2 = SessionId(b"alice's second..")


@pytest.fixture(autouse=True)
def _alice_has_two_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEYS, ALICE_2, KEYS[ALICE])


def submit(*indexes: int) -> m.Submit:
    return m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(index, 0, b"arguments") for index in indexes])


def opened(*, detached: bool = True) -> m.OpenJob:
    return m.OpenJob(JOB, "In[3]", False, False, None, "fit.ipynb", "5f9a", "fit(n)", detached)


def bench_with_job(tasks: int = 2, *, detached: bool = True, limits: DetachedLimits | None = None) -> Bench:
    """Return a master with a job of Alice, whose tasks are all with a slave."""
    bench = Bench(detached=limits)
    bench.client(ALICE)
    bench.slave(EAST, slots=tasks)
    bench.send(ALICE, opened(detached=detached), function(), submit(*range(tasks)), m.CloseJob(JOB))
    bench.all_sent()
    return bench


def end(bench: Bench, *indexes: int, body: bytes = b"a result", status: int = Status.OK) -> None:
    frames = [m.OutcomeFrame(index, 1, status, 0.5, 4711, body) for index in indexes]
    bench.send(EAST, m.Outcomes(JOB, "east", frames))


def write(bench: Bench, text: bytes, index: int = 0, stream: int = 1) -> None:
    bench.send(EAST, m.Output(m.TaskRef(JOB, index, 1), stream, text))


def attach(bench: Bench, session: SessionId = ALICE_2) -> list[m.AnyMessage]:
    bench.client(session)
    bench.send(session, m.AttachJob(JOB))
    return bench.sent_to(session)


def outcomes(messages: list[m.AnyMessage]) -> dict[int, m.OutcomeFrame]:
    return {frame.index: frame for each in messages if isinstance(each, m.Outcomes) for frame in each.items}


def jobs_of(bench: Bench) -> dict[str, dict[str, object]]:
    return {job["id"]: job for job in bench.core.status(bench.now, sees_all=True)["jobs"]}


def test_a_detached_job_survives_its_application_and_another_one_gets_everything() -> None:
    bench = bench_with_job()
    write(bench, b"hello\n")
    end(bench, 0)
    bench.core.remove(ALICE, "it sent a Bye", bench.now, left=True)
    bench.all_sent()
    got = attach(bench)
    assert got[0] == m.JobAttached(JOB, "", "In[3]", 2, "fit.ipynb", "5f9a", "fit(n)", 0.0)
    assert got[1] == m.Output(m.TaskRef(JOB, 0, 1), 1, b"hello\n")
    assert outcomes(got).keys() == {0}
    write(bench, b"there\n", 1)
    end(bench, 1)
    later = bench.sent_to(ALICE_2)
    assert later[0] == m.Output(m.TaskRef(JOB, 1, 1), 1, b"there\n")
    assert outcomes(later)[1].body == b"a result"
    bench.core.scheduler.validate()


def test_the_application_that_has_started_a_detached_job_gets_its_outcomes_as_any_reader() -> None:
    bench = bench_with_job()
    end(bench, 0, 1)
    assert outcomes(bench.sent_to(ALICE)).keys() == {0, 1}
    bench.all_sent()
    assert JobId(JOB) not in bench.core.scheduler.jobs
    job = jobs_of(bench)[JOB.hex()]
    assert (job["state"], job["kept"], job["readers"], job["line"]) == ("kept", 2, 1, "fit(n)")


def test_errors_and_cancelled_tasks_are_kept_as_well() -> None:
    bench = bench_with_job(3)
    end(bench, 0, status=Status.ERROR, body=b"a report")
    bench.send(ALICE, m.Cancel(JOB, [1]))
    end(bench, 1, status=Status.CANCELLED, body=b"")
    end(bench, 2)
    bench.all_sent()
    bench.core.remove(ALICE, "it has gone", bench.now)
    got = outcomes(attach(bench))
    assert [got[index].status for index in range(3)] == [Status.ERROR, Status.CANCELLED, Status.OK]


def test_a_reader_learns_which_tasks_run() -> None:
    bench = bench_with_job()
    bench.send(EAST, m.Started("", [m.StartedTask(JOB, 1, 1, 4711)]))
    started = [each for each in attach(bench) if isinstance(each, m.Started)]
    assert started == [m.Started("east", [m.StartedTask(JOB, 1, 1, 4711)])]
    bench.send(EAST, m.Started("", [m.StartedTask(JOB, 0, 1, 4712)]))
    assert bench.sent_to(ALICE_2) == [m.Started("east", [m.StartedTask(JOB, 0, 1, 4712)])]


def test_nobody_else_can_attach_and_the_answer_discloses_nothing() -> None:
    bench = bench_with_job()
    (refused,) = attach(bench, BOB)
    assert isinstance(refused, m.JobAttached)
    bench.send(BOB, m.AttachJob(b"n" * 16))
    (unknown,) = bench.sent_to(BOB)
    assert isinstance(unknown, m.JobAttached)
    assert refused.error.replace(JOB.hex(), "") == unknown.error.replace((b"n" * 16).hex(), "")
    end(bench, 0)
    assert bench.sent_to(BOB) == []


def test_another_owner_cannot_open_a_detached_job() -> None:
    bench = bench_with_job()
    bench.client(BOB)
    bench.send(BOB, opened(detached=False))
    assert BOB not in bench.core.peers
    assert ALICE in bench.core.peers


def test_a_reader_can_cancel_the_job() -> None:
    bench = bench_with_job()
    bench.core.remove(ALICE, "it has gone", bench.now)
    attach(bench)
    bench.send(ALICE_2, m.Cancel(JOB, None))
    (withdraw,) = bench.sent_to(EAST)
    assert isinstance(withdraw, m.Withdraw)
    assert withdraw.stop
    assert ALICE_2 in bench.core.peers


def test_an_application_that_registers_again_gets_what_is_kept_and_its_tasks_do_not_run_again() -> None:
    bench = bench_with_job()
    end(bench, 0)
    bench.all_sent()
    bench.core.remove(ALICE, "its connection was lost", bench.now)
    bench.client(ALICE_2)
    bench.send(ALICE_2, opened(), function(), submit(0, 1), m.CloseJob(JOB))
    sent = bench.all_sent()
    assert outcomes(sent[ALICE_2]).keys() == {0}
    assert not any(isinstance(each, m.Assign) for each in sent[EAST])
    end(bench, 1)
    assert outcomes(bench.sent_to(ALICE_2)).keys() == {1}
    bench.all_sent()
    assert JobId(JOB) not in bench.core.scheduler.jobs


def test_a_session_that_is_replaced_has_a_moment_to_send_the_rest_of_its_job() -> None:
    for comes_back in (True, False):
        bench = Bench()
        bench.client(ALICE)
        bench.slave(EAST)
        bench.send(ALICE, opened(), function(), submit(0))
        bench.client(ALICE_2)
        bench.core.remove(ALICE, "it has registered again", bench.now, LINGER_S)
        bench.now = LINGER_S / 2
        if comes_back:
            bench.send(ALICE_2, opened(), function(), submit(0, 1), m.CloseJob(JOB))
        bench.now = LINGER_S
        assert any(isinstance(each, m.Withdraw) for each in bench.sent_to(EAST)) is not comes_back
        assert bool(jobs_of(bench)) is comes_back


def test_memory_of_arguments_stays_open_until_the_job_has_ended() -> None:
    bench = bench_with_job()
    memory = bench.core.peers[ALICE].memory
    bench.core.remove(ALICE, "it has gone", bench.now, left=True)
    bench.now = 1000.0
    bench.all_sent()
    assert bench.core._memory.departed == [(inf, memory)]
    end(bench, 0, 1)
    bench.all_sent()
    bench.all_sent()
    bench.all_sent()
    assert bench.core._memory.departed == []


def test_an_application_in_a_task_has_no_detached_jobs() -> None:
    bench = Bench()
    bench.client(ALICE, comes_back=False)
    bench.send(ALICE, opened())
    assert ALICE not in bench.core.peers
    assert bench.core.detached.jobs == {}


def test_who_reads_a_job_already_gets_only_the_answer() -> None:
    bench = bench_with_job()
    write(bench, b"hello\n")
    end(bench, 0)
    bench.all_sent()
    bench.send(ALICE, m.AttachJob(JOB))
    (answer,) = bench.sent_to(ALICE)
    assert isinstance(answer, m.JobAttached) and answer.tasks == 2


def test_who_has_read_a_job_in_a_former_session_gets_its_output_once() -> None:
    bench = bench_with_job()
    write(bench, b"hello\n")
    end(bench, 0)
    bench.client(ALICE_2)
    bench.send(ALICE_2, m.AttachJob(JOB, again=True))
    answer, ended = bench.sent_to(ALICE_2)
    assert isinstance(answer, m.JobAttached) and isinstance(ended, m.Outcomes)


def test_a_task_that_its_application_would_send_again_is_lost_without_it() -> None:
    bench = Bench()
    bench.client(ALICE)
    needs = m.TaskInputs(JOB, 0, [m.JobTasks(b"g" * 16, [0])])  # a job that the master does not have
    bench.send(ALICE, opened(), function(), needs, submit(0), m.CloseJob(JOB))
    assert outcomes(bench.sent_to(ALICE))[0].status == Status.ERROR


def test_a_job_of_which_not_all_tasks_were_sent_ends_with_its_application() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(0))
    bench.core.remove(ALICE, "it has gone", bench.now)
    bench.all_sent()
    assert jobs_of(bench) == {}
    (answer,) = attach(bench)
    assert isinstance(answer, m.JobAttached)
    assert "before it had sent all tasks" in answer.error


def test_what_a_detached_job_has_returned_is_dropped_after_its_time() -> None:
    bench = bench_with_job(limits=DetachedLimits(results_s=10.0))
    bench.core.remove(ALICE, "it has gone", bench.now)
    bench.now = 100.0  # a job that has not ended is kept for any time
    end(bench, 0, 1)
    bench.all_sent()
    assert jobs_of(bench)[JOB.hex()]["left_s"] == pytest.approx(10.0)
    assert bench.core.next_deadline(bench.now) <= 110.0
    bench.now = 110.0
    bench.all_sent()
    assert jobs_of(bench) == {}
    (answer,) = attach(bench)
    assert isinstance(answer, m.JobAttached)
    assert "detached_results_s" in answer.error


def test_a_job_that_ended_earlier_is_dropped_when_a_later_one_needs_the_room() -> None:
    bench = bench_with_job(limits=DetachedLimits(results_bytes=11_000))
    end(bench, 0, 1, body=b"x" * 1000)
    bench.all_sent()
    later = b"l" * 16
    bench.send(ALICE, m.OpenJob(later, "", False, False, detached=True))
    bench.send(ALICE, m.Submit(later, function().digest, None, 0, [m.TaskFrame(0, 0, b"")]), m.CloseJob(later))
    bench.all_sent()
    bench.send(EAST, m.Outcomes(later, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 1, b"y" * 1500)]))
    bench.all_sent()
    assert jobs_of(bench).keys() == {later.hex()}


def test_results_above_the_limit_are_replaced_by_an_error_that_names_the_setting() -> None:
    bench = bench_with_job(limits=DetachedLimits(results_bytes=6000))
    end(bench, 0, body=b"x" * 1000)
    end(bench, 1, body=b"y" * 1000)
    first = outcomes(bench.sent_to(ALICE))
    assert first[1].body == b"y" * 1000  # who reads it when it comes has it
    got = outcomes(attach(bench))
    assert got[0].body == b"x" * 1000
    assert got[1].status == Status.ERROR
    assert "detached_results_bytes" in decode_error(got[1].body).message


def test_output_above_the_limit_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached_jobs, "OUTPUT_OF_JOB_BYTES", 1000)
    bench = bench_with_job()
    for stream in (1, m.NOTES):
        write(bench, b"a" * 100, stream=stream)
        write(bench, b"b" * 1000, stream=stream)
    got = [each for each in attach(bench) if isinstance(each, m.Output)]
    assert [(each.stream, each.data[:1]) for each in got] == [(1, b"a"), (m.NOTES, b"a"), (1, b"\n")]
    assert b"1,000 bytes" in got[-1].data
    write(bench, b"c", stream=1)
    write(bench, b"c", stream=m.NOTES)  # its beginning is missing, so it cannot be read
    assert [each.stream for each in bench.sent_to(ALICE_2) if isinstance(each, m.Output)] == [1]


# ---------------------------------------------------------------------------------------------------- unattended jobs


def test_the_job_of_an_application_that_has_gone_is_cancelled_unless_it_is_to_be_kept() -> None:
    bench = bench_with_job(detached=False)
    bench.core.remove(ALICE, "its process has ended", bench.now)
    bench.all_sent()
    assert jobs_of(bench) == {}


@pytest.mark.parametrize("left", [True, False])
def test_a_goodbye_ends_ordinary_jobs_and_a_killed_application_leaves_them(left: bool) -> None:
    bench = bench_with_job(detached=False, limits=DetachedLimits(unattended_jobs_s=60.0))
    bench.core.remove(ALICE, "it has gone", bench.now, left=left)
    bench.all_sent()
    assert bool(jobs_of(bench)) is not left


def test_an_unattended_job_goes_on_and_what_was_delivered_before_is_lost_and_that_is_said() -> None:
    bench = bench_with_job(3, detached=False, limits=DetachedLimits(unattended_jobs_s=60.0))
    end(bench, 0)
    bench.all_sent()
    bench.send(ALICE)  # it acknowledges the first outcome
    end(bench, 1)
    bench.core.remove(ALICE, "its process has ended", bench.now)
    end(bench, 2)
    bench.all_sent()
    bench.core.scheduler.validate()
    got = outcomes(attach(bench))
    assert got[1].body == got[2].body == b"a result"
    assert got[0].status == Status.ERROR
    assert "delivered to the application" in decode_error(got[0].body).message


def test_an_unattended_job_is_cancelled_after_its_time() -> None:
    bench = bench_with_job(detached=False, limits=DetachedLimits(unattended_jobs_s=60.0))
    bench.core.remove(ALICE, "its process has ended", bench.now)
    bench.all_sent()
    assert jobs_of(bench)[JOB.hex()]["left_s"] == pytest.approx(60.0)
    bench.now = 60.0
    (withdraw,) = (each for each in bench.sent_to(EAST) if isinstance(each, m.Withdraw))
    assert withdraw.stop
    end(bench, 0, 1, status=Status.CANCELLED, body=b"")
    bench.all_sent()
    got = outcomes(attach(bench))
    assert {frame.status for frame in got.values()} == {Status.CANCELLED}


def test_a_reader_stops_the_clock_of_an_unattended_job() -> None:
    bench = bench_with_job(detached=False, limits=DetachedLimits(unattended_jobs_s=60.0))
    bench.core.remove(ALICE, "its process has ended", bench.now)
    attach(bench)
    bench.now = 61.0
    assert not any(isinstance(each, m.Withdraw) for each in bench.sent_to(EAST))
    bench.core.remove(ALICE_2, "its process has ended", bench.now)
    bench.now = 122.0
    assert any(isinstance(each, m.Withdraw) for each in bench.sent_to(EAST))


def test_a_second_session_can_read_the_job_of_a_first_one_which_still_gets_everything() -> None:
    bench = bench_with_job(detached=False)
    got = attach(bench)
    assert isinstance(got[0], m.JobAttached)
    assert got[0].error == ""
    end(bench, 0, 1)
    sent = bench.all_sent()
    assert outcomes(sent[ALICE]).keys() == outcomes(sent[ALICE_2]).keys() == {0, 1}


def test_what_is_acknowledged_while_a_job_is_taken_over_is_lost_and_that_is_said() -> None:
    bench = bench_with_job(detached=False)
    end(bench, 0)
    bench.all_sent()
    bench.client(ALICE_2)
    bench.ends[ALICE].send(m.AttachJob(JOB))  # of its own job, in the envelope that acknowledges the outcome
    bench.send(ALICE)
    bench.send(ALICE_2, m.AttachJob(JOB))
    end(bench, 1)
    bench.all_sent()
    bench.all_sent()
    bench.core.scheduler.validate()
    bench.core.remove(ALICE_2, "it has gone", bench.now)
    got = outcomes(attach(bench))
    assert [got[index].status for index in (0, 1)] == [Status.ERROR, Status.OK]


def test_a_job_that_runs_can_become_a_detached_one() -> None:
    bench = bench_with_job(detached=False)
    end(bench, 0)
    bench.all_sent()
    bench.send(ALICE)  # it acknowledges the first outcome
    bench.send(ALICE, opened(), m.CloseJob(JOB))
    end(bench, 1)
    bench.all_sent()
    bench.core.remove(ALICE, "it has gone", bench.now, left=True)
    got = outcomes(attach(bench))
    assert [got[index].status for index in (0, 1)] == [Status.ERROR, Status.OK]


def test_tasks_with_odd_numbers_cannot_be_attached_to() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(2**40), m.CloseJob(JOB))
    bench.all_sent()
    end(bench, 2**40)
    bench.all_sent()
    bench.all_sent()
    (answer,) = attach(bench)
    assert isinstance(answer, m.JobAttached)
    assert "not numbered from 0" in answer.error


@pytest.mark.parametrize("kind", [m.TaskKind.CHUNK, m.TaskKind.BATCH])
def test_tasks_that_travel_together_cannot_be_attached_to(kind: m.TaskKind) -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    batch = m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(0, 0, b"", (), kind)])
    bench.send(ALICE, opened(detached=False), function(), batch, m.CloseJob(JOB))
    (answer,) = attach(bench)
    assert isinstance(answer, m.JobAttached)
    assert "only its application" in answer.error


# ------------------------------------------------------------------------------------------------------ what is shown


def test_the_status_shows_the_settings_and_what_is_kept() -> None:
    bench = bench_with_job(limits=DetachedLimits(5.0, 6.0, 7000))
    end(bench, 0)
    bench.all_sent()
    detached = bench.core.status(0.0)["detached"]
    assert detached["kept_bytes"] > len(b"a result")
    assert {name: detached[name] for name in detached if name != "kept_bytes"} == {
        "unattended_jobs_s": 5.0,
        "detached_results_s": 6.0,
        "detached_results_bytes": 7000,
        "jobs": 1,
    }
    job = jobs_of(bench)[JOB.hex()]
    assert (job["detached"], job["notebook"], job["line"], job["state"]) == (True, "fit.ipynb", "fit(n)", "running")


@pytest.mark.parametrize(("owner", "is_dropped"), [(None, True), ("alice's key", True), ("bob's key", False)])
def test_cancelling_a_job_that_has_ended_drops_what_is_kept(owner: str | None, is_dropped: bool) -> None:
    bench = bench_with_job()
    end(bench, 0, 1)
    bench.all_sent()
    bench.all_sent()
    if is_dropped:
        assert bench.core.requests.cancel(JobId(JOB), None, owner, bench.now) == 0
    else:
        with pytest.raises(ConfigurationError, match="another user's"):
            bench.core.requests.cancel(JobId(JOB), None, owner, bench.now)
    bench.all_sent()
    assert bool(jobs_of(bench)) is not is_dropped


def test_functions_of_a_job_that_has_ended_are_not_kept() -> None:
    bench = bench_with_job()
    end(bench, 0, 1)
    bench.all_sent()
    bench.all_sent()
    bench.core.remove(ALICE, "it has gone", bench.now, left=True)
    assert bench.core.status(0.0)["functions"] == 0
