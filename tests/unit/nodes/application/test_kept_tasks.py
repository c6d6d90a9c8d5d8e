"""Which task a waiting thread may run, and which ones it asks for."""

from collections.abc import Iterable

import pytest

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import NO_PAYLOAD, ClientJob, FunctionPayload, TaskEntry
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.kept_tasks import ASKED_MAX, Entry, KeptTasks, Wait, Wanted
from concurrent_nb.nodes.application.task_handle import TaskHandle

JOB, OTHER = JobId(b"j" * 16), JobId(b"o" * 16)
FUNCTION = FunctionPayload(b"f" * 32, NO_PAYLOAD)


def entries(indexes: Iterable[int], job: JobId = JOB) -> list[Entry]:
    record = ClientJob[TaskHandle](job)
    return [
        TaskEntry(record, index, FUNCTION, NO_PAYLOAD, TaskFuture(job, index, lambda job, indexes: None))
        for index in indexes
    ]


def wait_for(*indexes: int) -> Wait:
    return Wait(Wanted(JOB, index) for index in indexes)


def sent(kept: KeptTasks, count: int) -> list[Entry]:
    tasks = entries(range(count))
    kept.add(tasks)
    assert all(map(kept.may_send, tasks))
    return tasks


def test_a_task_that_was_claimed_is_not_sent_and_one_that_was_sent_is_not_claimed() -> None:
    kept, (first, second) = KeptTasks(), entries(range(2))
    kept.add([first, second])
    assert kept.claim_one(JOB, 0) is first
    assert [kept.may_send(first), kept.may_send(second)] == [False, True]
    assert kept.claim_one(JOB, 0) is kept.claim_one(JOB, 1) is kept.claim(wait_for(0, 1)) is None


def test_a_cancelled_task_is_not_sent() -> None:
    kept, (task,) = KeptTasks(), entries([0])
    kept.add([task])
    task.handle.cancel()
    assert not kept.may_send(task)
    assert kept.ask(wait_for(0), 1) == []


def test_a_task_that_the_master_gives_back_is_claimed_by_the_thread_that_has_asked() -> None:
    kept = KeptTasks()
    tasks = sent(kept, 3)
    wait = wait_for(2, 1)
    assert kept.claim(wait) is None
    assert kept.ask(wait, 1) == [(JOB, [2])]
    assert kept.ask(wait, 5) == [(JOB, [1])]
    assert kept.expects(wait)
    assert kept.taken_back(tasks[2])
    assert kept.claim(wait) is tasks[2]
    kept.begun(tasks[1])
    assert kept.claim(wait) is None
    assert not kept.expects(wait)
    assert kept.leave(wait) == []


def test_of_a_job_the_last_tasks_come_first_as_the_cluster_begins_with_the_others() -> None:
    kept = KeptTasks()
    sent(kept, 4)
    unsent = entries([4, 5])
    kept.add(unsent)
    kept.add(entries([6], OTHER))
    wait = Wait([Wanted(JOB, None)])
    assert [kept.claim(wait), kept.claim(wait), kept.claim(wait)] == [unsent[1], unsent[0], None]
    assert kept.ask(wait, 2) == [(JOB, [3, 2])]
    assert kept.ask(wait, 9) == [(JOB, [1, 0])]


def test_what_a_wait_leaves_is_sent_again() -> None:
    kept = KeptTasks()
    tasks = sent(kept, 2)
    wait = wait_for(0, 1)
    kept.ask(wait, 2)
    assert kept.taken_back(tasks[0])
    assert kept.leave(wait) == [tasks[0]]
    assert kept.may_send(tasks[0])
    assert not kept.taken_back(tasks[1])  # nobody waits for it any more
    assert kept.may_send(tasks[1])


def test_a_task_that_cannot_run_here_is_sent_and_left_to_others() -> None:
    kept, (task,) = KeptTasks(), entries([0])
    kept.add([task])
    assert kept.claim_one(JOB, 0) is task
    kept.runs_elsewhere(task)
    for wait in (wait_for(0), Wait([Wanted(JOB, None)])):
        assert kept.claim(wait) is None
    assert kept.claim_one(JOB, 0) is None
    assert kept.may_send(task)
    assert kept.ask(Wait([Wanted(JOB, None)]), 1) == kept.ask(wait_for(0), 1) == []


def test_a_wait_asks_for_a_limited_number_of_tasks() -> None:
    kept = KeptTasks()
    sent(kept, 2 * ASKED_MAX)
    wait = Wait([Wanted(JOB, None)])
    ((_, asked),) = kept.ask(wait, 10 * ASKED_MAX)
    assert len(asked) == ASKED_MAX
    assert kept.ask(wait, 1) == []


@pytest.mark.parametrize("is_over", [True, False])
def test_a_pause_ends_at_once_if_there_is_something_to_do(is_over: bool) -> None:
    kept = KeptTasks()
    (task,) = sent(kept, 1)
    wait = wait_for(0)
    kept.ask(wait, 1)
    kept.taken_back(task)
    kept.pause(wait, lambda: is_over, 1000.0)
    assert (kept.claim(wait) is task) or is_over
