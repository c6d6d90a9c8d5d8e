"""How tasks and jobs end: retries, dead workers, hits, errors, cancellation, time limits."""

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.instructions import DeliverOutcomes
from concurrent_nb.scheduling.refusal import EventRefused
from tests.unit.scheduling.bench import CANCELLED, DIED, ERROR, HIT, JOB, OK, POISON, TIMEOUT, YOU, Bench
from tests.unit.scheduling.client_events import acknowledged, cancelled, opened, submitted, taken_back
from tests.unit.scheduling.instructions import assigned, attempts, delivered, report, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, started, worker_died

# ------------------------------------------------------------------------------------------- once more


@pytest.mark.parametrize("status", [ERROR, TIMEOUT])
def test_a_failed_task_runs_again_as_often_as_it_may(status: Status) -> None:
    bench = Bench()
    bench(joined("a"), opened(stop_on_error=True), submitted([0], retries=2))
    assert attempts(bench(ended("a", 0, status=status, attempt=1))) == {0: 2}
    assert attempts(bench(ended("a", 0, status=status, attempt=2))) == {0: 3}
    assert delivered(bench(ended("a", 0, status=status, attempt=3))) == {0: status}


@pytest.mark.parametrize("status", [Status.NOT_PICKLABLE, Status.NOT_LOADABLE])
def test_what_would_fail_again_is_not_run_again(status: Status) -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0], retries=2))
    assert delivered(bench(ended("a", 0, status=status))) == {0: status}


def test_a_cancelled_task_is_not_run_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0], retries=2), cancelled([]))
    bench(cancelled([0]))
    assert delivered(bench(ended("a", 0, status=ERROR))) == {0: ERROR}


def test_what_runs_again_comes_first_and_in_order() -> None:
    bench = Bench()
    bench(joined("a", slots=3), opened(), submitted(range(9)))
    bench(lost("a"))
    assert assigned(bench(joined("b", slots=9))) == {"b": list(range(9))}


# ------------------------------------------------------------------------------------------- dead workers


def test_a_task_whose_worker_died_runs_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert attempts(bench(worker_died("a", 0, 1))) == {0: 2}
    assert delivered(bench(ended("a", 0, attempt=2))) == {0: OK}


def test_a_task_that_kills_its_workers_is_quarantined_and_the_owner_gets_how_each_died() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    bench(worker_died("a", 0, 1, "killed by SIGSEGV"))
    bench(worker_died("a", 0, 2, "exit code 3"))
    instructions = bench(worker_died("a", 0, 3, "out of memory"))
    assert delivered(instructions) == {0: POISON}
    message = report(instructions)
    for part in ("6a6f6220/0", "3 times", "1. killed by SIGSEGV", "2. exit code 3", "3. out of memory", "Run it alone"):
        assert part in message
    (deliver,) = instructions
    assert isinstance(deliver, DeliverOutcomes)
    assert (deliver.slave, deliver.items[0].attempt, deliver.items[0].worker) == ("a", 3, 4321)


def test_how_many_deaths_are_too_many_can_be_set() -> None:
    bench = Bench(deaths_allowed=1)
    bench(joined("a"), opened(), submitted([0]))
    assert delivered(bench(worker_died("a", 0, 1))) == {0: POISON}


@pytest.mark.parametrize("body", [b"", b"\xc1 no msgpack", b"\x93\x01\x02\x03"])
def test_an_unexplained_death_counts_too(body: bytes) -> None:
    bench = Bench(deaths_allowed=1)
    bench(joined("a"), opened(), submitted([0]))
    instructions = bench(ended("a", 0, status=DIED, body=body))
    assert delivered(instructions) == {0: POISON}
    assert "worker 4321 died" in report(instructions)


def test_a_slave_may_not_report_every_status() -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted([0, 1]))
    for impossible in (POISON, Status.REFUSED, 99, -1):
        with pytest.raises(EventRefused):
            bench(ended("a", 0, status=OK), ended("a", 1, status=impossible))
    # Then the master drops the slave, and only what it had not answered runs again.
    assert delivered(bench(lost("a"))) == {0: OK}
    assert attempts(bench(joined("b"))) == {1: 2}


# ------------------------------------------------------------------------------------------- hits and errors end jobs


def test_a_hit_ends_a_job_that_runs_until_one() -> None:
    bench = Bench()
    bench(joined("a", slots=1), joined("b", slots=1), opened(until=True), submitted(range(6)))
    instructions = bench(ended("a", 0, status=HIT))
    # Then the owner gets the hit first, waiting tasks are cancelled, running ones are stopped
    assert delivered(instructions) == {0: HIT, 4: CANCELLED, 5: CANCELLED}
    assert next(iter(delivered(instructions))) == 0
    assert withdrawn(instructions, stop=True) == {"a": [1], "b": [2, 3]}
    assert assigned(instructions) == {}
    # and what was faster than the cancellation is delivered as it is
    assert delivered(bench(ended("b", 2, status=OK), ended("b", 3, status=HIT), returned("a", 1))) == {
        2: OK,
        3: HIT,
        1: CANCELLED,
    }


def test_what_comes_for_a_job_that_has_ended_is_cancelled_at_once() -> None:
    bench = Bench()
    bench(joined("a"), opened(until=True), submitted([0]))
    bench(ended("a", 0, status=HIT))
    assert delivered(bench(submitted([1, 2]))) == {1: CANCELLED, 2: CANCELLED}


def test_a_hit_in_a_job_that_does_not_run_until_one_is_an_outcome_like_any_other() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0, 1]))
    assert len(bench(ended("a", 0, status=HIT))) == 1
    assert delivered(bench(ended("a", 1))) == {1: OK}
    assert assigned(bench(submitted([2]))) == {"a": [2]}


@pytest.mark.parametrize("status", [ERROR, TIMEOUT, Status.NOT_PICKLABLE, Status.NOT_LOADABLE])
def test_the_first_failure_ends_a_job_that_stops_on_errors(status: Status) -> None:
    bench = Bench()
    bench(joined("a", slots=1), opened(stop_on_error=True), submitted(range(4)))
    instructions = bench(ended("a", 0, status=status))
    assert delivered(instructions) == {0: status, 2: CANCELLED, 3: CANCELLED}
    assert withdrawn(instructions, stop=True) == {"a": [1]}


def test_a_quarantined_task_ends_a_job_that_stops_on_errors() -> None:
    bench = Bench(deaths_allowed=1)
    bench(joined("a", slots=1, credit=1), joined("b", slots=2), opened(stop_on_error=True), submitted(range(3)))
    instructions = bench(lost("a"))
    assert delivered(instructions) == {0: POISON}
    assert withdrawn(instructions, stop=True) == {"b": [1, 2]}


def test_a_failure_in_a_job_that_keeps_errors_ends_nothing() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0, 1]))
    assert delivered(bench(ended("a", 0, status=ERROR))) == {0: ERROR}
    assert delivered(bench(ended("a", 1))) == {1: OK}


def test_results_in_the_same_message_as_the_hit_are_kept() -> None:
    bench = Bench()
    bench(joined("a", slots=3), opened(until=True), submitted([0, 1, 2]))
    hit, okay = ended("a", 0, status=HIT), ended("a", 1, 2)
    items = [*hit.items, *okay.items]
    instructions = bench(type(hit)(hit.slave, hit.job, items, ()))
    assert delivered(instructions) == {0: HIT, 1: OK, 2: OK}


# ------------------------------------------------------------------------------------------- cancelled


def test_what_waits_is_cancelled_at_once_and_what_runs_when_its_slave_answers() -> None:
    bench = Bench()
    bench(joined("a", slots=1), opened(), submitted(range(5)))
    instructions = bench(cancelled([0, 1, 3]))
    assert delivered(instructions) == {3: CANCELLED}
    assert withdrawn(instructions, stop=True) == {"a": [0, 1]}
    assert delivered(bench(ended("a", 0, status=CANCELLED), returned("a", 1))) == {0: CANCELLED, 1: CANCELLED}
    # The others go on.
    assert delivered(bench(ended("a", 2))) == {2: OK}


def test_cancelling_one_task_does_not_end_a_job_that_stops_on_errors() -> None:
    bench = Bench()
    bench(joined("a"), opened(stop_on_error=True), submitted([0, 1]), cancelled([]))
    bench(cancelled([0]))
    instructions = bench(ended("a", 0, status=CANCELLED))
    assert delivered(instructions) == {0: CANCELLED}
    assert withdrawn(instructions, stop=True) == {}
    assert assigned(bench(ended("a", 1), submitted([2]))) == {"a": [2]}


def test_the_outcome_of_a_task_that_never_ran_has_no_slave() -> None:
    bench = Bench()
    (deliver,) = bench(opened(), submitted([0]), cancelled())
    assert isinstance(deliver, DeliverOutcomes)
    (item,) = deliver.items
    assert (deliver.slave, item.elapsed_s, item.worker, item.attempt, item.body) == ("", 0.0, 0, 0, b"")


def test_cancelling_a_job_cancels_what_still_comes() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert withdrawn(bench(cancelled()), stop=True) == {"a": [0]}
    assert delivered(bench(submitted([1]))) == {1: CANCELLED}


def test_cancelling_twice_asks_once_and_what_has_finished_stays() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0, 1]))
    bench(ended("a", 1))
    assert withdrawn(bench(cancelled([0, 1, 7]), cancelled()), stop=True) == {"a": [0]}


def test_a_cancelled_task_whose_worker_or_slave_is_gone_is_cancelled() -> None:
    bench = Bench()
    bench(joined("a", slots=3), opened(), submitted([0, 1, 2]))
    bench(started("a", 1), cancelled())
    assert delivered(bench(worker_died("a", 0, 1))) == {0: CANCELLED}
    assert delivered(bench(lost("a"))) == {1: CANCELLED, 2: CANCELLED}


def test_cancelled_tasks_do_not_pile_up_in_the_queue() -> None:
    bench = Bench()
    bench(opened())
    for first in range(0, 1_000, 100):
        bench(submitted(range(first, first + 100)))
        bench(cancelled(range(first, first + 99)))
    # validate() has looked at the queue's length each time; the living are still in order
    assert bench.scheduler.waiting == 10
    assert assigned(bench(joined("a", slots=10))) == {"a": list(range(99, 1_000, 100))}


# ------------------------------------------------------------------------------------------- fair to all owners


def test_owners_take_turns() -> None:
    bench = Bench()
    bench(opened(), opened(YOU, "you", job := type(JOB)(b"yours".ljust(16))))
    # Given one owner who came first with much, and another with little
    bench(submitted(range(100)), submitted([1000, 1001], client=YOU, job=job))
    # Then neither waits for the other
    assert assigned(bench(joined("a", slots=2))) == {"a": [0, 1, 1000, 1001]}


def test_within_an_owner_first_come_is_first_served_over_all_their_jobs() -> None:
    bench = Bench()
    other = type(JOB)(b"other".ljust(16))
    bench(opened(), opened(job=other), submitted([0, 1]), submitted([100], job=other), submitted([2]))
    # Asked for one at a time, as instructions of one call are joined by job.
    order = list(assigned(bench(joined("a", slots=1, credit=1))).values())
    for index, job in ((0, JOB), (1, JOB), (100, other)):
        order += assigned(bench(ended("a", index, job=job))).values()
    assert order == [[0], [1], [100], [2]]


# ------------------------------------------------------------------------------------------- time limits


def test_a_slave_that_does_not_stop_a_task_is_reminded_and_then_the_task_is_given_up() -> None:
    bench = Bench(grace_s=10.0)
    bench(joined("a", slots=1, credit=1), opened(), submitted([0], timeout_s=5.0))
    bench.after(1.0, started("a", 0))
    assert bench.scheduler.next_deadline() == 16.0
    assert bench.after(14.9) == []
    # Reminded after limit and grace
    assert withdrawn(bench.after(0.2), stop=True) == {"a": [0]}
    assert bench.after(9.9) == []
    # Given up after another grace
    instructions = bench.after(0.2)
    assert delivered(instructions) == {0: TIMEOUT}
    assert "5.0 s" in report(instructions)
    # Its late report does not count, but until then it takes its slot.
    assert bench(submitted([1])) == []
    assert assigned(bench(ended("a", 0))) == {"a": [1]}


def test_a_task_that_is_stopped_after_the_reminder_timed_out() -> None:
    bench = Bench(grace_s=10.0)
    bench(joined("a"), opened(), submitted([0], timeout_s=5.0, retries=1), started("a", 0))
    bench(started("a", 0))
    bench.after(15.0)
    assert attempts(bench(ended("a", 0, status=CANCELLED))) == {0: 2}
    bench(started("a", 0, attempt=2))
    bench.after(15.0)
    assert delivered(bench(ended("a", 0, status=CANCELLED, attempt=2))) == {0: TIMEOUT}
    assert bench.scheduler.next_deadline() is None


def test_a_cancelled_task_that_is_given_up_was_cancelled() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0], timeout_s=5.0))
    bench(started("a", 0), cancelled([0]))
    bench.after(15.0)
    assert delivered(bench.after(10.0)) == {0: CANCELLED}


def test_a_task_that_is_given_up_runs_again_if_it_may_and_ends_its_job_if_not() -> None:
    bench = Bench()
    bench(joined("a"), opened(stop_on_error=True), submitted([0], timeout_s=5.0, retries=1), submitted([1]))
    bench(started("a", 0))
    bench.after(15.0)
    assert attempts(bench.after(10.0, joined("b"))) == {0: 2}
    bench(started("b", 0, attempt=2))
    bench.after(15.0)
    instructions = bench.after(10.0)
    assert delivered(instructions) == {0: TIMEOUT}
    assert withdrawn(instructions, stop=True) == {"a": [1]}


def test_a_task_in_time_leaves_no_deadline() -> None:
    bench = Bench()
    bench(joined("a", slots=4), opened(), submitted([0, 1, 2, 3], timeout_s=5.0))
    bench(started("a", 0, 1, 2, 3))
    bench(ended("a", 0), returned("a", 1), worker_died("a", 2, 1), ended("a", 3, status=ERROR))
    assert bench.scheduler.next_deadline() is None


def test_without_a_limit_a_task_may_run_for_ever() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    bench(started("a", 0))
    assert bench.scheduler.next_deadline() is None
    assert bench.after(1e6) == []


# ------------------------------------------------------------------------------------------- taken back


def test_an_application_takes_back_what_has_not_begun() -> None:
    bench = Bench()
    given = assigned(bench(joined("a"), opened(), submitted(range(4))))["a"]
    waiting = [index for index in range(4) if index not in given]
    assert len(given) > 1
    assert waiting
    out = bench(started("a", given[0]), taken_back(range(4)))
    assert delivered(out) == dict.fromkeys(waiting, Status.TAKEN_BACK)
    assert withdrawn(out, stop=False) == {"a": given[1:]}
    assert withdrawn(bench(taken_back(given)), stop=False) == {}
    assert delivered(bench(returned("a", *given[1:]))) == dict.fromkeys(given[1:], Status.TAKEN_BACK)
    assert delivered(bench(ended("a", given[0]))) == {given[0]: OK}
    job = bench.scheduler.jobs[JOB]
    assert (job.accepted, job.sums.ended, bench.scheduler.cancelled, len(bench.scheduler.task_log)) == (1, 1, 0, 1)
    bench(acknowledged(range(4)))
    assert (job.sums.acknowledged, bench.tasks_kept) == (1, 0)


def test_a_task_that_begins_before_it_is_taken_back_ends_as_usual() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0], retries=1))
    bench(taken_back([0]))
    assert attempts(bench(ended("a", 0, status=ERROR))) == {0: 2}
    bench(returned("a", 0, attempt=2))  # for another reason
    assert delivered(bench(ended("a", 0, attempt=3))) == {0: OK}


def test_a_task_whose_worker_has_died_is_not_taken_back() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    bench(taken_back([0]))
    bench(worker_died("a", 0, 1))
    assert withdrawn(bench(taken_back([0])), stop=False) == {}
    assert delivered(bench(ended("a", 0, attempt=2))) == {0: OK}
