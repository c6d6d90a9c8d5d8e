"""The table of states: what may follow what, and the error of an illegal step."""

from itertools import product

import pytest

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.states import (
    ABANDON,
    ASSIGN,
    BLOCK,
    FINISH,
    FORGET,
    PROMOTE,
    REQUEUE,
    SEND_AHEAD,
    TRANSITIONS,
    UNBLOCK,
    InvalidTransition,
    Verb,
    history,
    move,
)
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import OutcomeFrame

VERBS = [UNBLOCK, SEND_AHEAD, PROMOTE, BLOCK, ASSIGN, REQUEUE, FINISH, FORGET, ABANDON]


def a_task() -> TaskRecord:
    return TaskRecord(JobRecord(JobId(b"\xab" * 16), "me"), 7, Digest(b"f" * 32), b"")


@pytest.mark.parametrize(("state", "verb"), list(product(TaskState, VERBS)), ids=lambda part: part.name)
def test_only_what_is_in_the_table_is_possible(state: TaskState, verb: Verb) -> None:
    task = a_task()
    task.state = state
    target = TRANSITIONS.get((state, verb.name))
    if target is None:
        with pytest.raises(InvalidTransition):
            move(task, verb)
        assert task.state is state
    else:
        move(task, verb)
        assert task.state is target


def test_every_row_belongs_to_a_verb() -> None:
    assert {name for _, name in TRANSITIONS} == {verb.name for verb in VERBS}


def test_every_state_can_be_reached_from_those_of_new_tasks_and_nothing_leads_out_of_forgotten() -> None:
    reached = {TaskState.WAITING, TaskState.BLOCKED}
    while found := {target for (source, _), target in TRANSITIONS.items() if source in reached} - reached:
        reached |= found
    assert reached == set(TaskState)
    assert not [source for source, _ in TRANSITIONS if source is TaskState.FORGOTTEN]


def test_the_error_of_an_illegal_step_names_which_task_from_where_to_where_and_what_happened_to_it() -> None:
    # Given a task with a past
    task = a_task()
    task.attempt, task.slave, task.started, task.cancelled = 3, SessionId(b"\x01\x02"), True, True
    task.deaths = ("killed by SIGSEGV",)
    task.outcome = OutcomeFrame(7, 3, 0, 0.0, 0, b"")
    # When it is forgotten before it has finished
    with pytest.raises(InvalidTransition) as caught:
        move(task, FORGET)
    # Then the error contains all that
    error = caught.value
    assert (error.task, error.source, error.target) == ("abababab/7", TaskState.WAITING, TaskState.FORGOTTEN)
    assert "abababab/7 cannot forget (WAITING to FORGOTTEN)" in str(error)
    for part in ("attempt is 3", "on 0102", "started", "cancelled", "status 0 in attempt 3", "killed by SIGSEGV"):
        assert part in error.history
        assert part in str(error)


def test_the_story_of_a_task_without_a_past_is_short() -> None:
    assert history(a_task()) == "its attempt is 0, on no slave"


def test_a_task_is_shown_without_its_payload_and_its_job() -> None:
    task = a_task()
    task.job.tasks[7] = task
    assert repr(task) == "<task abababab/7, WAITING, attempt 0>"
    assert "tasks" not in repr(task.job)
