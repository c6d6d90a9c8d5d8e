"""Owners who answer nothing for a while: their tasks go on, what ends is kept, and it is not too much."""

import pytest

from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.events import ClientResumed, ClientSilent, JobOpened, OutcomesReceived
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Sizes, Slice
from tests.unit.scheduling.bench import JOB, ME, OK, OTHER_JOB, Bench
from tests.unit.scheduling.client_events import acknowledged, cancelled, closed, gone, opened, submitted
from tests.unit.scheduling.instructions import assigned, delivered, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, slave_id

YOU = slave_id("you")


def strict() -> Bench:
    """Make a bench whose scheduler keeps next to nothing for silent owners."""
    return Bench(results_kept_bytes=0)


def silent(client: SessionId = ME) -> ClientSilent:
    return ClientSilent(client)


def resumed(client: SessionId = ME) -> ClientResumed:
    return ClientResumed(client)


def test_what_ends_meanwhile_is_delivered_once_when_the_owner_is_back() -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=2), opened(), submitted(range(4)))
    bench(silent())
    assert delivered(bench(ended("a", 0))) == {}
    assert delivered(bench(ended("a", 1))) == {}
    assert set(delivered(bench(resumed()))) == {0, 1}
    assert delivered(bench(silent(), resumed())) == {}
    assert set(delivered(bench(ended("a", 2)))) == {2}


def test_a_silent_owner_s_waiting_tasks_are_still_handed_out() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(3)), silent())
    assert assigned(bench(ended("a", 0))) == {"a": [1]}


def test_a_session_that_takes_the_job_over_gets_all_of_it_and_the_silent_session_nothing() -> None:
    bench = Bench()
    second = slave_id("second")
    bench(joined("a", slots=2), opened(), submitted(range(2)))
    bench(silent(), ended("a", 0))
    assert set(delivered(bench(opened(second)))) == {0}
    assert set(delivered(bench(ended("a", 1)))) == {1}
    assert delivered(bench(resumed())) == {}
    bench(acknowledged([0, 1], client=second), closed(client=second), gone())
    assert not bench.scheduler.jobs


def test_an_owner_for_whom_too_much_is_kept_gets_no_more_tasks_run_until_it_is_acknowledged() -> None:
    bench = strict()
    bench(joined("a", slots=1, credit=2), opened(), submitted(range(6)), silent())
    instructions = bench(ended("a", 0))
    # What has not begun comes back, nothing new is handed out, and nothing is lost
    assert assigned(instructions) == {} and withdrawn(instructions, stop=False) == {"a": [1]}
    assert assigned(bench(returned("a", 1))) == {}
    assert bench.scheduler.waiting == 5
    assert set(delivered(bench(resumed()))) == {0}
    assert assigned(bench(acknowledged([0]))) == {"a": [1, 2]}


def test_others_have_the_cluster_meanwhile() -> None:
    bench = strict()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(6)))
    bench(silent(), ended("a", 0))
    instructions = bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    assert assigned(instructions) == {"a": [0]}
    assert delivered(bench(ended("a", 0, job=OTHER_JOB))) != {}


@pytest.mark.parametrize("needs", [Needs(2), Needs(kind="system_host")])
def test_tasks_with_needs_wait_as_well(needs: Needs) -> None:
    bench = strict()
    bench(joined("a", slots=2), opened(), submitted([0]))
    bench(silent(), ended("a", 0))
    assert assigned(bench(submitted([1], needs=needs))) == {}
    assert assigned(bench(resumed(), acknowledged([0]))) == {"a": [1]}


def test_a_paused_owner_s_job_can_end_and_be_forgotten() -> None:
    for end in (cancelled(), gone(linger_s=0.0)):
        bench = strict()
        bench(joined("a", slots=1, credit=1), opened(), submitted(range(6)))
        bench(silent(), ended("a", 0))
        assert bench.scheduler.waiting == 5
        bench(end)
        assert bench.scheduler.waiting == 0
        bench(resumed(), acknowledged(range(6)), opened(job=OTHER_JOB))
        assert assigned(bench(submitted([7], job=OTHER_JOB))) == {"a": [7]}


# ----------------------------------------------------------------- owners that are not silent, and acknowledge nothing


def result(index: int, size_bytes: int = 0, slice_bytes: int = 0) -> OutcomesReceived:
    """Let a task end with a result of two parts: one that travels, one in shared memory."""
    sizes = (size_bytes,) if size_bytes else ()
    if slice_bytes:
        sizes = (*sizes, Slice(b"segment", 0, slice_bytes, 1))
    outcome = OutcomeFrame(index, 1, OK, 1.0, 4321, b"", sizes)
    return OutcomesReceived(slave_id("a"), JOB, [outcome], ((bytearray(size_bytes),),) if size_bytes else ((),))


def test_results_that_are_sent_and_not_acknowledged_count_until_half_of_them_has_gone() -> None:
    bench = Bench(results_kept_bytes=10_000)
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(20)))
    for index in range(3):
        assert assigned(bench(result(index, 3000))) == ({"a": [index + 1]} if index < 2 else {})
    # 10,500 bytes are too much, 7,000 still are, 3,500 are not
    assert assigned(bench(acknowledged([1]))) == {}
    assert assigned(bench(acknowledged([0]))) == {"a": [3]}
    assert assigned(bench(result(3, 3000))) == {"a": [4]}


def test_a_result_that_is_larger_than_the_limit_is_delivered_and_then_it_goes_on() -> None:
    bench = Bench(results_kept_bytes=10_000)
    bench(joined("a", slots=2, credit=4), opened(), submitted(range(4)))
    instructions = bench(result(0, 50_000))
    assert delivered(instructions) == {0: OK} and withdrawn(instructions, stop=False) == {"a": [1, 2, 3]}
    assert delivered(bench(result(1, 70_000))) == {1: OK}
    assert assigned(bench(returned("a", 2, 3), acknowledged([0]))) == {}
    assert assigned(bench(acknowledged([1]))) == {"a": [2, 3]}


def test_what_lies_in_shared_memory_of_the_owner_s_host_counts_little() -> None:
    for shares_memory, goes_on in ((True, True), (False, False)):
        bench = Bench(results_kept_bytes=10_000)
        open_job = JobOpened(ME, "me", JOB, shares_memory=shares_memory)
        bench(joined("a", slots=1, credit=1), open_job, submitted(range(4)))
        assert bool(assigned(bench(result(0, slice_bytes=60_000)))) == goes_on
        # If the owner comes back from another host, or to this one, then it is counted anew
        instructions = bench(JobOpened(YOU, "me", JOB, shares_memory=not shares_memory))
        assert bool(assigned(instructions) or assigned(bench(ended("a", 1)))) != goes_on


def test_failures_and_cancelled_tasks_count_as_well() -> None:
    bench = Bench(results_kept_bytes=10_000)
    bench(opened(), submitted(range(100)), cancelled())
    bench(opened(job=OTHER_JOB), submitted([0], job=OTHER_JOB))
    assert assigned(bench(joined("a"))) == {}
    assert assigned(bench(acknowledged(range(100)))) == {"a": [0]}


def test_another_owner_is_not_paused() -> None:
    bench = Bench(results_kept_bytes=1000)
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(5)), opened(YOU, "you", OTHER_JOB))
    bench(result(0, 5000))
    assert assigned(bench(submitted([7], client=YOU, job=OTHER_JOB))) == {"a": [7]}


def test_a_job_that_is_abandoned_leaves_nothing_that_counts() -> None:
    bench = Bench(results_kept_bytes=1000)
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(5)))
    bench(result(0, 5000))
    bench(gone(linger_s=0.0), ended("a", 1))
    assert not bench.scheduler._state.kept_bytes and not bench.scheduler._state.paused
    bench(opened(YOU, "me", OTHER_JOB))
    assert assigned(bench(submitted([7], client=YOU, job=OTHER_JOB))) == {"a": [7]}


def test_suspects_of_a_paused_owner_wait_as_well() -> None:
    bench = Bench(results_kept_bytes=1000)
    bench(joined("a", slots=1, credit=1), opened(), submitted([0, 1]))
    bench(result(0, 5000))
    bench(lost("a"), joined("b", slots=1, credit=1))
    assert bench.scheduler.waiting == 1
    assert assigned(bench(acknowledged([0]))) == {"b": [1]}


def test_an_owner_behind_a_paused_one_is_served() -> None:
    bench = Bench(results_kept_bytes=1000)
    bench(joined("a", slots=2), opened(), opened(YOU, "you", OTHER_JOB))
    bench(submitted([0]))
    bench(submitted([1, 2], needs=Needs(2)))
    bench(submitted([7], client=YOU, job=OTHER_JOB, needs=Needs(0)))
    # Two multi-slot tasks in turn: the owner's first one runs, and the second one comes after the other's
    assert {0, 1} <= {task.index for task in bench.scheduler.slaves[slave_id("a")].tasks}
    assert assigned(bench(result(0, 5000), ended("a", 1))) == {"a": [7]}


def end_first(bench: Bench, sizes: Sizes) -> None:
    """Let the owner take all that has come, and a slave end what it got first, in 1 ms."""
    task = next(iter(bench.scheduler.slaves[slave_id("a")].tasks))
    outcome = OutcomeFrame(task.index, task.attempt, OK, 0.001, 4321, b"", sizes)
    bench(acknowledged(range(200)))
    bench(OutcomesReceived(slave_id("a"), JOB, [outcome], ((),)))
    bench(acknowledged(range(200)))


@pytest.mark.parametrize(("size_bytes", "ahead"), [(100, 40), (1024 * 1024, 7), (50 * 1024 * 1024, 2)])
def test_of_tasks_with_large_results_few_are_handed_out_ahead(size_bytes: int, ahead: int) -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=1000), opened(), submitted(range(200)))
    for _ in range(20):
        end_first(bench, (size_bytes,))
    slave = bench.scheduler.slaves[slave_id("a")]
    assert ahead <= slave.load <= ahead + 1
    # When results have become small, then as many are handed out as of others
    end_first(bench, (10,))
    assert slave.load >= 40


def test_large_results_in_shared_memory_hold_nothing_back() -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=1000), opened(), submitted(range(200)))
    for _ in range(4):
        end_first(bench, (Slice(b"segment", 0, 1024 * 1024 - 20_000, 1),))
    assert bench.scheduler.slaves[slave_id("a")].load > 20
