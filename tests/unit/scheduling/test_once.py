"""Exactly once: duplicates are recognised, and reports about an attempt that is over do not count."""

from itertools import permutations

import pytest

from concurrent_nb.scheduling.events import Event
from concurrent_nb.scheduling.instructions import ForgetJob
from concurrent_nb.scheduling.refusal import EventRefused
from tests.unit.scheduling.bench import CANCELLED, ERROR, JOB, ME, OK, OTHER_JOB, Bench
from tests.unit.scheduling.client_events import acknowledged, cancelled, closed, gone, opened, submitted
from tests.unit.scheduling.instructions import announced_started, assigned, attempts, delivered, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, slave_id, started, worker_died


def test_a_task_that_is_submitted_again_runs_once() -> None:
    bench = Bench()
    bench(joined("a"), opened())
    assert attempts(bench(submitted([0]), submitted([0, 0]))) == {0: 1}
    assert bench(submitted([0])) == []
    assert delivered(bench(ended("a", 0))) == {0: OK}


def test_a_finished_task_that_is_submitted_again_is_delivered_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    first = bench(ended("a", 0))
    assert bench(submitted([0])) == first


def test_an_answer_counts_once() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert delivered(bench(ended("a", 0), ended("a", 0, status=ERROR))) == {0: OK}
    assert bench(ended("a", 0, status=ERROR)) == []


def test_the_answer_of_another_slave_does_not_count() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    bench(joined("b"))
    assert bench(ended("b", 0), started("b", 0), returned("b", 0)) == []
    assert delivered(bench(ended("a", 0))) == {0: OK}


def test_the_answer_of_an_older_attempt_does_not_count() -> None:
    bench = Bench()
    # Given a task that was given back and is in its second attempt on the same slave
    bench(joined("a"), opened(), submitted([0]))
    assert attempts(bench(returned("a", 0))) == {0: 2}
    # Then no report about the first attempt counts
    assert bench(ended("a", 0, attempt=1), started("a", 0, attempt=1), returned("a", 0, attempt=1)) == []
    assert delivered(bench(ended("a", 0, attempt=2))) == {0: OK}


def test_reports_of_a_lost_slave_do_not_count() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    bench(lost("a"))
    bench(joined("b"))
    assert bench(ended("a", 0), started("a", 0), returned("a", 0), lost("a")) == []
    assert delivered(bench(ended("b", 0, attempt=2))) == {0: OK}


def test_an_acknowledgement_of_what_is_not_finished_does_nothing() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert bench(acknowledged([0, 1])) == []
    assert delivered(bench(ended("a", 0))) == {0: OK}
    assert bench(acknowledged([0]), acknowledged([0])) == []
    assert bench.tasks_kept == 0


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_whatever_comes_first_a_task_ends_once(order: tuple[int, ...]) -> None:
    # Given a task that runs, and four things that happen to it in any order
    bench = Bench()
    bench(joined("a"), joined("b"), opened(), submitted([0]), submitted([1]))
    facts: list[Event] = [cancelled([0]), ended("a", 0), lost("a"), returned("a", 0)]
    outcomes = [delivered(bench(facts[number])) for number in order]
    # Then it has one outcome, at the latest when the slave that has it then answers
    task = bench.scheduler.jobs[JOB].tasks[0]
    if task.slave is not None:
        outcomes.append(delivered(bench(ended(task.slave.decode(), 0, attempt=task.attempt))))
    assert [status for found in outcomes for index, status in found.items() if index == 0] in ([OK], [CANCELLED])


# ------------------------------------------------------------------------------------------- whose job it is


def test_a_job_of_another_owner_is_refused_and_stays_as_it_was() -> None:
    bench = Bench()
    you = slave_id("you")
    bench(joined("a"), opened(), submitted([0]), opened(you, "you", OTHER_JOB))
    for event in (
        opened(you, "you", JOB),
        submitted([1], client=you),
        cancelled(client=you),
        closed(client=you),
        acknowledged([0], client=you),
    ):
        with pytest.raises(EventRefused, match="another owner") as caught:
            bench(event)
        assert caught.value.event is event
    assert delivered(bench(ended("a", 0))) == {0: OK}
    assert bench.tasks_kept == 1


def test_a_session_speaks_for_one_owner() -> None:
    bench = Bench()
    bench(opened())
    with pytest.raises(EventRefused, match="another owner"):
        bench(opened(ME, "you", OTHER_JOB))


def test_tasks_for_an_unknown_job_are_refused() -> None:
    with pytest.raises(EventRefused, match="open it first"):
        Bench()(submitted([0]))


def test_cancelling_closing_and_acknowledging_what_is_forgotten_is_harmless() -> None:
    # A stop button that is pressed just when the last outcome is acknowledged is no offence.
    bench = Bench()
    bench(opened(), closed())
    assert bench(cancelled(), cancelled([1]), closed(), acknowledged([0])) == []


def test_another_session_of_the_same_owner_may_submit() -> None:
    bench = Bench()
    second = slave_id("second")
    bench(joined("a"), opened(), opened(second, "me", OTHER_JOB))
    assert assigned(bench(submitted([0], client=second))) == {"a": [0]}


def test_what_was_decided_before_a_refused_event_is_not_lost() -> None:
    bench = Bench()
    bench(joined("a"), opened())
    # When the second of three events is refused
    with pytest.raises(EventRefused) as caught:
        bench(submitted([0]), submitted([5], job=OTHER_JOB), submitted([1]))
    assert caught.value.position == 1
    # Then the first has happened, the third has not, and the next call returns it
    assert assigned(bench()) == {"a": [0]}


@pytest.mark.parametrize(("retries", "timeout_s"), [(-1, None), (0, 0.0), (0, -1.0), (0, float("nan"))])
def test_impossible_limits_are_refused(retries: int, timeout_s: float | None) -> None:
    bench = Bench()
    bench(opened())
    with pytest.raises(EventRefused, match="not possible"):
        bench(submitted([0], retries=retries, timeout_s=timeout_s))
    assert bench.tasks_kept == 0


# ------------------------------------------------------------------------------------------- an owner who leaves


def test_outcomes_wait_for_an_owner_who_is_away() -> None:
    bench = Bench()
    bench(joined("a", slots=3), opened(), submitted([0, 1, 2]))
    assert delivered(bench(ended("a", 0))) == {0: OK}
    # When the owner goes without having acknowledged, then nothing is sent
    assert bench(gone(), ended("a", 1)) == []
    assert bench(started("a", 2)) == []
    # When the owner is back, then all unacknowledged outcomes come, and the tasks that run
    back = slave_id("back")
    instructions = bench(opened(back))
    assert delivered(instructions) == {0: OK, 1: OK}
    assert announced_started(instructions) == [2]
    assert delivered(bench(ended("a", 2))) == {2: OK}
    assert bench(acknowledged([0, 1, 2], client=back)) == []
    assert bench.tasks_kept == 0


def test_the_session_that_attached_last_gets_the_outcomes() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    second = slave_id("second")
    bench(opened(second))
    (deliver,) = bench(gone(ME), ended("a", 0))
    assert str(second) in str(deliver)


def test_opening_a_job_twice_in_one_session_delivers_nothing_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]), ended("a", 0))
    assert bench(opened()) == []


def test_a_job_is_abandoned_when_its_owner_stays_away() -> None:
    bench = Bench()
    bench(joined("a", slots=1), opened(), submitted(range(5)))
    bench(gone(linger_s=30.0))
    assert bench.scheduler.next_deadline() == 30.0
    assert bench.after(29.9) == []
    # Then what runs is stopped, and nothing is kept
    instructions = bench.after(0.1)
    assert withdrawn(instructions, stop=True) == {"a": [0, 1]}
    assert "ForgetJob" in str(instructions[-1])
    assert not bench.scheduler.jobs
    assert bench.scheduler.waiting == 0
    assert bench.scheduler.next_deadline() is None


def test_an_abandoned_task_fills_its_slave_until_that_answers() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1), opened(), submitted([0]))
    bench(gone(linger_s=0.0))
    # When the job is opened again under the same id, then the slave has no room
    bench(opened())
    assert bench(submitted([0])) == []
    # and the answer to the old attempt is not taken for one to the new attempt
    assert attempts(bench(ended("a", 0, status=CANCELLED, attempt=1))) == {0: 1}
    assert delivered(bench(ended("a", 0, attempt=1))) == {0: OK}


def test_an_attempt_has_another_number_than_one_that_was_abandoned_on_the_same_slave() -> None:
    bench = Bench()
    bench(joined("a", slots=1), opened(), submitted([0]))
    bench(gone(linger_s=0.0))
    assert attempts(bench(opened(), submitted([0]))) == {0: 2}
    assert bench(ended("a", 0, status=CANCELLED, attempt=1)) == []
    assert delivered(bench(ended("a", 0, attempt=2))) == {0: OK}


def test_an_owner_who_is_back_in_time_loses_nothing() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]), gone(linger_s=30.0))
    bench.after(29.0, opened(slave_id("back")))
    assert bench.after(60.0) == []
    assert delivered(bench(ended("a", 0))) == {0: OK}


def test_another_session_may_finish_the_job_of_one_that_is_gone() -> None:
    bench = Bench()
    second = slave_id("second")
    bench(joined("a"), opened(), opened(second, "me", OTHER_JOB), submitted([0]))
    bench(ended("a", 0), gone(ME, linger_s=30.0))
    instructions = bench(acknowledged([0], client=second), closed(client=second))
    assert instructions == [ForgetJob(JOB)]
    assert bench.after(31.0) == []


def test_a_job_with_an_endless_linger_time_lingers_for_ever() -> None:
    bench = Bench()
    bench(opened(), gone(linger_s=float("inf")))
    assert bench.scheduler.next_deadline() is None
    assert bench.after(1e9) == []


def test_a_worker_that_died_while_the_owner_was_away_runs_the_task_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]), gone())
    assert attempts(bench(worker_died("a", 0, 1))) == {0: 2}
