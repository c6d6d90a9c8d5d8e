"""Which tasks travel together to an engine, and what becomes of them when it returns, loses or never begins a group."""

import pytest

from concurrent_nb.engines.group_scheduler import GROUP_S, LOST_MAX, GroupScheduler, OrderOf, RunningGroup
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Assign, OutcomeFrame, StartedTask, TaskFrame, TaskRef

JOB = b"j" * 16
FUNCTION = b"f" * 32


def frames(*indexes: int) -> list[TaskFrame]:
    return [TaskFrame(index, 1, b"body") for index in indexes]


def refs(*indexes: int) -> list[TaskRef]:
    return [TaskRef(JOB, index, 1) for index in indexes]


def scheduler(slots: int = 2, count: int = 0) -> GroupScheduler:
    made = GroupScheduler(slots)
    assign(made, *range(count))
    return made


def assign(to: GroupScheduler, *indexes: int, function: bytes = FUNCTION) -> None:
    to.assigned(Assign(JOB, function, None, frames(*indexes)), ())


def end(of: GroupScheduler, number: int, *indexes: int, elapsed_s: float = 0.01) -> None:
    of.ended(number, JOB, [OutcomeFrame(index, 1, Status.OK, elapsed_s, 7, b"x") for index in indexes], ())


def indexes_of(group: RunningGroup) -> list[int]:
    return [task.frame.index for task in group.tasks.values()]


def run_all(of: GroupScheduler, elapsed_s: float) -> list[list[int]]:
    """Run everything; return the groups."""
    found = []
    while groups := of.plan():
        for group in groups:
            found.append(indexes_of(group))
            of.begun(group.number)
            end(of, group.number, *found[-1], elapsed_s=elapsed_s)
            of.group_ended(group.number)
    return found


def test_a_function_of_unknown_time_travels_alone_and_once_per_slot() -> None:
    groups = scheduler(slots=2, count=10).plan()
    assert [indexes_of(group) for group in groups] == [[0], [1]]


def test_short_tasks_travel_together_as_long_as_a_group_may_take() -> None:
    assert [len(group) for group in run_all(scheduler(slots=1, count=1 + 25), 0.01)] == [1, 10, 10, 5]


def test_each_slot_gets_its_share() -> None:
    made = scheduler(slots=4, count=1)
    run_all(made, 0.0001)
    assign(made, *range(1, 9))
    assert [len(group.tasks) for group in made.plan()][:4] == [2, 2, 1, 1]


def test_short_tasks_are_sent_ahead_and_slow_ones_are_not() -> None:
    for elapsed_s, expected in ((GROUP_S / 4, 4), (GROUP_S, 2)):
        made = scheduler(slots=2, count=1)
        run_all(made, elapsed_s)
        assign(made, *range(1, 100))
        assert len(made.plan()) == expected


def test_what_is_behind_a_slow_task_is_asked_back_and_runs_elsewhere() -> None:
    made = scheduler(slots=2, count=1)
    run_all(made, 0.01)
    assign(made, *range(1, 5))
    first, *_ = made.plan()
    assert indexes_of(first) == [1, 2]
    made.begun(first.number)
    made.started(first.number, [StartedTask(JOB, 1, 1, 7)])
    (order,) = made.take_orders()
    assert (order.number, order.refs, order.stop) == (first.number, refs(2), False)
    made.returned(first.number, refs(2))
    assert made.group_of(refs(2)[0]) is None
    assert not made.take_reports().returned  # the master need not know
    assert made.unfinished == 4


def test_what_waits_is_withdrawn_at_once() -> None:
    made = scheduler(slots=1, count=3)
    made.plan()
    made.withdrawn(refs(1), stop=False)
    made.withdrawn(refs(2), stop=True)
    reports = made.take_reports()
    assert reports.returned == refs(1)
    assert [(job, frame.index, frame.status) for job, found, _ in reports.outcomes for frame in found] == [
        (JOB, 2, Status.CANCELLED)
    ]
    assert made.unfinished == 1


def test_what_runs_is_ordered_back_and_what_has_not_begun_when_it_begins() -> None:
    made = scheduler(slots=2, count=2)
    first, second = made.plan()
    made.begun(first.number)
    made.withdrawn(refs(0, 1), stop=False)
    assert [(order.number, order.stop) for order in made.take_orders()] == [(first.number, False)]
    made.begun(second.number)
    assert [(order.number, order.refs) for order in made.take_orders()] == [(second.number, refs(1))]
    made.returned(second.number, refs(1))
    assert made.take_reports().returned == refs(1)


def test_a_group_that_has_not_begun_is_recalled_when_all_its_tasks_are_cancelled() -> None:
    """The engine may be busy with others for hours."""
    made = scheduler(slots=1, count=1)
    run_all(made, 0.01)
    made.take_reports()
    assign(made, 1, 2)
    group, *others = made.plan()
    assert not others
    made.withdrawn(refs(1), stop=True)
    assert not made.take_recalls()  # the other one is to run
    made.withdrawn(refs(2), stop=True)
    assert made.take_recalls() == [OrderOf(group.number, refs(1, 2), stop=True)]
    ended = [(frame.index, frame.status) for _, found, _ in made.take_reports().outcomes for frame in found]
    assert ended == [(1, Status.CANCELLED), (2, Status.CANCELLED)]
    made.begun(group.number)  # the engine has been faster
    end(made, group.number, 1, 2)
    assert (made.unfinished, made.take_orders(), made.take_reports().outcomes) == (0, [], [])


def test_of_a_lost_group_the_first_unfinished_task_is_to_blame_and_the_others_run_again() -> None:
    made = scheduler(slots=1, count=1)
    run_all(made, 0.01)
    made.take_reports()
    assign(made, 1, 2, 3)
    (group, *_) = made.plan()
    made.begun(group.number)
    end(made, group.number, 1)
    made.group_lost(group.number, "its worker died")
    ended = [(frame.index, frame.status) for _, found, _ in made.take_reports().outcomes for frame in found]
    assert ended == [(1, Status.OK), (2, Status.DIED)]
    assert [indexes_of(group) for group in made.plan()] == [[3]]


def test_a_group_that_is_lost_before_it_begins_runs_again_but_not_for_ever() -> None:
    made = scheduler(slots=1, count=1)
    for _ in range(LOST_MAX):
        assert not made.take_reports().outcomes
        (group,) = made.plan()
        made.group_lost(group.number, "its worker died")
    (outcome,) = made.take_reports().outcomes
    assert outcome[1][0].status == Status.DIED
    assert b"its worker died while it had task" in outcome[1][0].body
    assert not made.plan()


def test_an_outcome_counts_once() -> None:
    made = scheduler(slots=1, count=1)
    (group,) = made.plan()
    for _ in range(2):  # an engine may run a group twice
        end(made, group.number, 0)
    assert len(made.take_reports().outcomes[0][1]) == 1
    end(made, group.number + 1, 0)
    assert made.unfinished == 0


def test_a_drained_engine_returns_what_has_not_started() -> None:
    made = scheduler(slots=1, count=2)
    (group,) = made.plan()
    made.drain()
    assign(made, 5)
    made.returned(group.number, refs(0))
    assert made.take_reports().returned == refs(1, 5, 0)
    assert not made.plan()


@pytest.mark.parametrize("has_begun", [True, False])
def test_after_a_reset_nothing_is_known(has_begun: bool) -> None:
    made = scheduler(slots=1, count=2)
    (group,) = made.plan()
    if has_begun:
        made.begun(group.number)
    assert made.reset() == [group.number]
    end(made, group.number, 0)
    made.group_ended(group.number)
    made.group_lost(group.number, "late")
    assert not made.take_reports()
    assert (made.unfinished, made.plan(), made.take_orders()) == (0, [], [])


def test_a_group_whose_host_could_not_begin_counts_for_no_task() -> None:
    made = scheduler(slots=1, count=1)
    for _ in range(3 * LOST_MAX):
        (group,) = made.plan()
        assert not made.runs_a_group
        made.group_failed(group.number, "no worker can be started")
    assert made.take_reports().outcomes == []
    (group,) = made.plan()
    made.begun(group.number)
    assert made.runs_a_group
    made.group_failed(group.number, "no worker can be started")
    ((_, (frame,), _),) = made.take_reports().outcomes
    assert frame.status is Status.DIED


def test_what_was_withdrawn_is_ordered_back_from_each_run_of_a_group() -> None:
    made = scheduler(slots=1, count=1)
    (group,) = made.plan()
    made.begun(group.number, b"first")
    made.withdrawn(refs(0), stop=True)
    expected = [OrderOf(group.number, refs(0), stop=True)]
    assert made.take_orders() == expected
    made.begun(group.number, b"first")
    assert made.take_orders() == []
    made.begun(group.number, b"second")
    assert made.take_orders() == expected
