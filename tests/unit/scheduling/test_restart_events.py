"""A restarted scheduler: what had ended is not run again, and what slaves still run goes on there."""

import msgspec

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import AttemptsOffered, Event, OutcomesRestored
from concurrent_nb.wire.messages import Needs, OutcomeFrame, TaskRef
from tests.unit.scheduling.bench import JOB, ME, OTHER_JOB, Bench
from tests.unit.scheduling.client_events import acknowledged, cancelled, closed, gone, opened, submitted, taken_back
from tests.unit.scheduling.instructions import assigned, delivered, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, slave_id


def restored(*indexes: int, status: Status = Status.OK, is_last: bool = True) -> Event:
    frames = [OutcomeFrame(index, 3, int(status), 0.5, 42, b"value %d" % index) for index in indexes]
    return OutcomesRestored(JOB, "west", frames, (), is_last)


def offered(slave: str, *attempts: tuple[int, int], job: bytes = JOB) -> Event:
    return AttemptsOffered(slave_id(slave), [TaskRef(job, index, attempt) for index, attempt in attempts])


def test_what_had_ended_is_delivered_and_not_run_again() -> None:
    bench = Bench()
    bench(opened(), submitted(range(4)), restored(0, 2), gone())
    assert bench.scheduler.waiting == 2
    assert delivered(bench(opened(slave_id("again")))).keys() == {0, 2}
    assert assigned(bench(joined("a", slots=4))) == {"a": [1, 3]}
    bench(restored(0, 77), ended("a", 1), ended("a", 3))
    bench(acknowledged(range(4), client=slave_id("again")), closed(client=slave_id("again")))
    assert not bench.scheduler.jobs


def test_a_job_that_had_ended_stays_ended_when_all_its_outcomes_are_there() -> None:
    bench = Bench()
    bench(opened(until=True), submitted(range(5)))
    assert delivered(bench(restored(0, status=Status.HIT, is_last=False), restored(1, 2))) == {
        0: Status.HIT, 1: Status.OK, 2: Status.OK, 3: Status.CANCELLED, 4: Status.CANCELLED,
    }  # fmt: skip
    assert not bench.scheduler.waiting


def test_kept_results_are_kept_again() -> None:
    bench = Bench()
    kept = msgspec.structs.replace(submitted(range(2)), keep=True)
    bench(opened(), kept, restored(0), restored(1, status=Status.ERROR))
    assert bench.scheduler.is_kept(JOB, 0) and not bench.scheduler.is_kept(JOB, 1)
    bench(acknowledged([0, 1]))
    assert list(bench.scheduler.jobs[JOB].kept) == [0]


def test_offered_attempts_go_on_and_the_others_are_stopped() -> None:
    bench = Bench()
    bench(opened(), submitted(range(4)), restored(3), cancelled([2]))
    instructions = bench(
        joined("a", slots=2, credit=10),
        offered("a", (0, 5), (1, 1), (2, 1), (3, 4), (9, 1)),
        offered("a", (0, 5), (0, 5), job=OTHER_JOB),
    )
    assert assigned(instructions) == {}
    assert withdrawn(instructions, stop=True) == {"a": [2, 3, 9, 0, 0]}
    slave = bench.scheduler.slaves[slave_id("a")]
    assert [(task.index, task.attempt) for task in slave.tasks] == [(0, 5), (1, 1)]
    assert slave.load == 2 + 4  # one that was stopped takes its slot until its end is reported
    bench(offered("a", (0, 5)))
    assert slave.load == 6
    assert delivered(bench(ended("a", 0, attempt=5))).keys() == {0}
    assert delivered(bench(ended("a", 2, attempt=1, status=Status.CANCELLED))) == {}
    assert slave.load == 4


def test_an_attempt_goes_on_in_one_place_only() -> None:
    bench = Bench()
    bench(opened(), submitted(range(3)))
    bench(joined("a", credit=1), offered("a", (1, 2)))
    assert withdrawn(bench(joined("b", credit=1), offered("b", (1, 2))), stop=True) == {"b": [1]}
    # It waits again, once, in a later attempt; an older one of it does not go on.
    bench(lost("b"))
    instructions = bench(lost("a"))
    assert assigned(instructions) == {} and bench.scheduler.waiting == 3
    assert withdrawn(bench(joined("c", credit=1), offered("c", (1, 1))), stop=True) == {"c": [1]}
    bench(lost("c"))
    assert assigned(bench(joined("d", slots=3, credit=3))) == {"d": [1, 0, 2]}


def test_tasks_with_needs_go_on_with_what_they_take() -> None:
    for needs, load in ((Needs(2), 2), (Needs(0), 4), (Needs(kind="thread"), 1), (Needs(kind="system_host"), 0)):
        bench = Bench()
        bench(opened(), submitted([0], needs=needs))
        bench(joined("a", slots=4, credit=4), offered("a", (0, 7)))
        slave = bench.scheduler.slaves[slave_id("a")]
        assert (slave.load, slave.system_hosts, len(slave.tasks)) == (load, needs.kind == "system_host", 1)
        assert delivered(bench(ended("a", 0, attempt=7))).keys() == {0}
        assert slave.load == 0


def test_what_is_answered_before_it_is_sent_again_is_not_run_again() -> None:
    bench = Bench()
    again = slave_id("again")
    bench(opened(), submitted(range(4)), restored(0, 1), gone())
    assert delivered(bench(opened(again))).keys() == {0, 1}
    bench(acknowledged([0], client=again))
    assert delivered(bench(submitted([0, 1], client=again))).keys() == {1}
    assert list(bench.scheduler.jobs[JOB].tasks) == [1, 2, 3]
    # Each is expected once; others are new.
    bench(acknowledged([1], client=again))
    bench(submitted([1, 2, 7], client=again))
    assert list(bench.scheduler.jobs[JOB].tasks) == [2, 3, 1, 7]

    # One that its owner has to look after comes once more.
    bench(gone(), restored(2, status=Status.INPUT_GONE))
    bench(gone(again), opened(ME))
    bench(acknowledged([2]))
    bench(submitted([2, 3]))
    assert 2 in bench.scheduler.jobs[JOB].tasks


def test_tasks_that_end_are_noted_for_a_journal_and_only_then() -> None:
    bench = Bench()
    bench(opened(), submitted(range(4)), joined("a", slots=2), cancelled([3]))
    assert bench.scheduler.take_concluded() == []
    bench.scheduler.note_conclusions()
    bench(ended("a", 0), ended("a", 1, status=Status.ERROR), taken_back([2]))
    bench(lost("a"), opened(ME))
    assert [task.index for task in bench.scheduler.take_concluded()] == [0, 1]
    bench(cancelled())
    assert [(task.index, task.outcome and task.outcome.status) for task in bench.scheduler.take_concluded()] == [
        (2, Status.CANCELLED)
    ]
    assert bench.scheduler.take_concluded() == []
