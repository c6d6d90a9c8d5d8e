"""The straight way of a task through the scheduler, and how runs travel."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import OutcomesReceived, TasksSubmitted
from concurrent_nb.scheduling.instructions import AssignTasks, DeliverOutcomes, ForgetJob
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.tasks.task_record import TaskState
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame
from tests.unit.scheduling.bench import JOB, ME, Bench, F, G
from tests.unit.scheduling.client_events import acknowledged, closed, opened, submitted
from tests.unit.scheduling.instructions import announced_started, assigned, attempts, delivered
from tests.unit.scheduling.slave_events import ended, joined, lost, slave_id, started


def test_a_task_is_assigned_delivered_and_forgotten() -> None:
    bench = Bench()
    # Given a slave and a job
    assert bench(joined("a"), opened()) == []
    # When a task is submitted, then it is assigned at once, as attempt 1
    (assign,) = bench(submitted([0], timeout_s=2.5))
    assert isinstance(assign, AssignTasks)
    assert (assign.slave, assign.job, assign.function, assign.timeout_s) == (slave_id("a"), JOB, F, 2.5)
    (task,) = assign.tasks
    assert (task.index, task.attempt, task.body) == (0, 1, b"arguments")
    # When it has ended, then its owner gets the outcome, and the payload is dropped
    (deliver,) = bench(ended("a", 0))
    assert isinstance(deliver, DeliverOutcomes)
    assert (deliver.client, deliver.job, deliver.slave) == (ME, JOB, "a")
    assert list(deliver.items) == [OutcomeFrame(0, 1, 0, 1.0, 4321, b"value")]
    assert task.body == b""
    # When the owner has it, then it is forgotten, and so is the job when it is closed
    assert bench(acknowledged([0])) == []
    assert task.state is TaskState.FORGOTTEN
    assert bench(closed()) == [ForgetJob(JOB)]
    assert not bench.scheduler.jobs


def test_a_closed_job_is_forgotten_with_its_last_acknowledgement() -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted([0, 1]), closed())
    bench(ended("a", 0, 1))
    assert bench(acknowledged([0])) == []
    assert bench(acknowledged([1])) == [ForgetJob(JOB)]


def test_a_closed_job_that_is_opened_again_is_open() -> None:
    # Given a closed job whose last task is not acknowledged yet
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]), closed())
    bench(ended("a", 0))
    # When a slow thread of its owner has one more task for it, then the job stays until that one is done as well
    bench(opened())
    assert bench(acknowledged([0])) == []
    assert assigned(bench(submitted([1]), closed())) == {"a": [1]}
    bench(ended("a", 1))
    assert bench(acknowledged([1])) == [ForgetJob(JOB)]


def test_a_run_is_one_instruction() -> None:
    bench = Bench()
    bench(joined("a", slots=8), opened())
    instructions = bench(submitted(range(4)), submitted(range(4, 8)))
    assert len(instructions) == 1
    assert assigned(instructions) == {"a": list(range(8))}
    assert len(bench(ended("a", 0, 1, 2), ended("a", 3))) == 1


def test_runs_that_differ_in_function_or_limit_travel_apart() -> None:
    bench = Bench()
    bench(joined("a", slots=8), opened())
    instructions = bench(submitted([0]), submitted([1], function=G), submitted([2], timeout_s=1.0), submitted([3]))
    kinds = [(i.function, i.timeout_s, [t.index for t in i.tasks]) for i in instructions if isinstance(i, AssignTasks)]
    assert kinds == [(F, None, [0, 3]), (G, None, [1]), (F, 1.0, [2])]


def test_tasks_wait_for_a_slave() -> None:
    bench = Bench()
    assert bench(opened(), submitted(range(3))) == []
    assert bench.scheduler.waiting == 3
    assert assigned(bench(joined("a", slots=3))) == {"a": [0, 1, 2]}
    assert bench.scheduler.waiting == 0


def test_buffers_travel_with_their_tasks_and_outcomes() -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened())
    frames = [TaskFrame(0, 0, b""), TaskFrame(1, 0, b"", (3,))]
    (assign,) = bench(TasksSubmitted(ME, JOB, F, frames, [(), (b"big",)]))
    assert isinstance(assign, AssignTasks)
    assert [(task.sizes, task.buffers) for task in assign.tasks] == [((), ()), ((3,), (b"big",))]
    items = [OutcomeFrame(0, 1, 0, 0.0, 1, b"small"), OutcomeFrame(1, 1, 0, 0.0, 1, b"", (4,))]
    (deliver,) = bench(OutcomesReceived(slave_id("a"), JOB, items, [(), (b"huge",)]))
    assert isinstance(deliver, DeliverOutcomes)
    assert list(deliver.buffers) == [(), (b"huge",)]


def test_without_buffers_none_are_listed() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    (deliver,) = bench(ended("a", 0))
    assert isinstance(deliver, DeliverOutcomes)
    assert list(deliver.buffers) == []


def test_the_owner_gets_the_tasks_that_run() -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted([0, 1]))
    assert announced_started(bench(started("a", 0))) == [0]
    # but only once, and nothing of attempts that are not there
    assert bench(started("a", 0), started("a", 1, attempt=2), started("b", 1)) == []


def test_finishing_frees_the_slot_for_the_next() -> None:
    bench = Bench(PullRoundRobinStrategy(depth_per_slot=1))
    bench(joined("a", slots=1), opened(), submitted(range(3)))
    assert attempts(bench(ended("a", 0))) == {1: 1}
    assert attempts(bench(ended("a", 1))) == {2: 1}


def test_an_empty_submit_does_nothing() -> None:
    bench = Bench()
    bench(joined("a"), opened())
    assert bench(submitted([])) == []


def test_the_same_events_give_the_same_instructions() -> None:
    def history() -> list[object]:
        bench = Bench()
        names = ["a", "b", "c"]
        seen: list[object] = [bench(*[joined(name, slots=2) for name in names], opened(), submitted(range(40)))]
        seen += [bench(ended(name, *range(40), elapsed_s=0.001)) for name in names]
        seen += [bench(lost(name)) for name in names]
        return [str(instructions) for instructions in seen]

    assert history() == history()


@pytest.mark.parametrize("status", [Status.OK, Status.HIT, Status.ERROR, Status.NOT_PICKLABLE, Status.NOT_LOADABLE])
def test_what_a_worker_answers_is_delivered_as_it_is(status: Status) -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0, 1]))
    assert delivered(bench(ended("a", 0, status=status))) == {0: status}


@pytest.mark.parametrize("settings", [{"deaths_allowed": 0}, {"grace_s": 0.0}, {"rebalance_after_s": -1.0}])
def test_senseless_settings_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Scheduler(PullRoundRobinStrategy(), **settings)  # type: ignore[arg-type]


def test_reports_of_an_unknown_slave_do_not_count() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert bench(ended("nobody", 0)) == []
    assert bench(OutcomesReceived(SessionId(b"a"), JOB, [], ())) == []
