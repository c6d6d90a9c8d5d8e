"""Owners who answer nothing for a while: their tasks go on, what ends is kept, and it is not too much."""

import pytest

from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.events import ClientHeard, ClientSilent
from concurrent_nb.wire.messages import Needs
from tests.unit.scheduling.bench import (
    ME,
    OTHER_JOB,
    Bench,
    acknowledged,
    assigned,
    cancelled,
    closed,
    delivered,
    ended,
    gone,
    joined,
    opened,
    returned,
    slave_id,
    submitted,
    withdrawn,
)

YOU = slave_id("you")


def strict() -> Bench:
    """Make a bench whose scheduler keeps next to nothing for silent owners."""
    return Bench(undelivered_bytes=0)


def silent(client: SessionId = ME) -> ClientSilent:
    return ClientSilent(client)


def heard(client: SessionId = ME) -> ClientHeard:
    return ClientHeard(client)


def test_what_ends_meanwhile_is_delivered_once_when_the_owner_is_heard() -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=2), opened(), submitted(range(4)))
    bench(silent())
    assert delivered(bench(ended("a", 0))) == {}
    assert delivered(bench(ended("a", 1))) == {}
    assert set(delivered(bench(heard()))) == {0, 1}
    assert delivered(bench(silent(), heard())) == {}
    assert set(delivered(bench(ended("a", 2)))) == {2}


def test_a_silent_owner_s_waiting_tasks_are_still_handed_out() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(3)), silent())
    assert assigned(bench(ended("a", 0))) == {"a": [1]}


def test_whoever_takes_the_job_over_gets_all_of_it_and_the_silent_session_nothing() -> None:
    bench = Bench()
    second = slave_id("second")
    bench(joined("a", slots=2), opened(), submitted(range(2)))
    bench(silent(), ended("a", 0))
    assert set(delivered(bench(opened(second)))) == {0}
    assert set(delivered(bench(ended("a", 1)))) == {1}
    assert delivered(bench(heard())) == {}
    bench(acknowledged([0, 1], client=second), closed(client=second), gone())
    assert not bench.scheduler.jobs


def test_an_owner_for_whom_too_much_is_kept_gets_no_more_tasks_run_until_he_is_heard() -> None:
    bench = strict()
    bench(joined("a", slots=1, credit=2), opened(), submitted(range(6)), silent())
    instructions = bench(ended("a", 0))
    # What has not begun comes back, nothing new is handed out, and nothing is lost
    assert assigned(instructions) == {} and withdrawn(instructions, stop=False) == {"a": [1]}
    assert assigned(bench(returned("a", 1))) == {}
    assert bench.scheduler.waiting == 5
    instructions = bench(heard())
    assert set(delivered(instructions)) == {0} and assigned(instructions) == {"a": [1, 2]}


def test_others_have_the_cluster_meanwhile() -> None:
    bench = strict()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(6)))
    bench(silent(), ended("a", 0))
    instructions = bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    assert assigned(instructions) == {"a": [0]}
    assert delivered(bench(ended("a", 0, job=OTHER_JOB))) != {}


@pytest.mark.parametrize("needs", [Needs(2), Needs(kind="host")])
def test_tasks_with_needs_wait_as_well(needs: Needs) -> None:
    bench = strict()
    bench(joined("a", slots=2), opened(), submitted([0]))
    bench(silent(), ended("a", 0))
    assert assigned(bench(submitted([1], needs=needs))) == {}
    assert assigned(bench(heard())) == {"a": [1]}


def test_a_paused_owner_s_job_can_end_and_be_forgotten() -> None:
    for end in (cancelled(), gone(linger_s=0.0)):
        bench = strict()
        bench(joined("a", slots=1, credit=1), opened(), submitted(range(6)))
        bench(silent(), ended("a", 0))
        assert bench.scheduler.waiting == 5
        bench(end)
        assert bench.scheduler.waiting == 0
        bench(heard(), opened(job=OTHER_JOB))
        assert assigned(bench(submitted([7], job=OTHER_JOB))) == {"a": [7]}
