"""What people do to a running master over the control channel: the core's part of it."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.task_pages import PAGE_TASKS, TaskPage
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, KEYS, WEST, Bench, function, with_two_clients

ALICES, BOBS = KEYS[ALICE].decode(), KEYS[BOB].decode()


def outcomes(*indexes: int, status: Status = Status.OK) -> m.Outcomes:
    return m.Outcomes(JOB, "east", [m.OutcomeFrame(index, 1, status, 0.001, 42, b"value") for index in indexes])


@pytest.fixture
def bench() -> Bench:
    """Return a master with two clients, one slave of two slots, and a job of Alice with ten tasks."""
    bench = with_two_clients(slots=2)
    tasks = [m.TaskFrame(index, 0, b"arguments") for index in range(10)]
    bench.send(
        ALICE, m.OpenJob(JOB, "squares", False, False), function(), m.Submit(JOB, function().digest, None, 0, tasks)
    )
    bench.all_sent()
    return bench


def page(bench: Bench, owner: str | None, job: bytes | None = JOB, since: int = 0) -> TaskPage:
    return bench.core.requests.read_tasks(None if job is None else JobId(job), since, owner)


# ---------------------------------------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("owner", [None, ALICES])
def test_a_job_is_cancelled_with_what_still_comes(bench: Bench, owner: str | None) -> None:
    assert bench.core.requests.cancel(JobId(JOB), None, owner, bench.now) == 10
    sent = bench.all_sent()
    (withdrawn,) = [message for message in sent[EAST] if isinstance(message, m.Withdraw)]
    assert withdrawn.stop
    (ends,) = [message for message in sent[ALICE] if isinstance(message, m.Outcomes)]
    assert {item.status for item in ends.items} == {Status.CANCELLED}
    assert len(ends.items) + len(withdrawn.tasks) == 10
    bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(10, 0, b"arguments")]))
    (late,) = [message for message in bench.sent_to(ALICE) if isinstance(message, m.Outcomes)]
    assert [(item.index, item.status) for item in late.items] == [(10, Status.CANCELLED)]


def test_one_task_is_cancelled(bench: Bench) -> None:
    assert bench.core.requests.cancel(JobId(JOB), [9], ALICES, bench.now) == 1
    (ends,) = [message for message in bench.sent_to(ALICE) if isinstance(message, m.Outcomes)]
    assert [(item.index, item.status) for item in ends.items] == [(9, Status.CANCELLED)]
    with pytest.raises(ConfigurationError, match=rf"job {JOB.hex()} has no task 9 at the master that has not ended"):
        bench.core.requests.cancel(JobId(JOB), [9], ALICES, bench.now)
    with pytest.raises(ConfigurationError, match="has no task 99"):
        bench.core.requests.cancel(JobId(JOB), [99], None, bench.now)


@pytest.mark.parametrize("indexes", [None, [0]])
def test_anothers_job_looks_like_none(bench: Bench, indexes: list[int] | None) -> None:
    with pytest.raises(ConfigurationError) as refused:
        bench.core.requests.cancel(JobId(JOB), indexes, BOBS, bench.now)
    unknown = JobId(b"u" * 16)
    with pytest.raises(ConfigurationError) as missing:
        bench.core.requests.cancel(unknown, indexes, BOBS, bench.now)
    assert str(refused.value).replace(JOB.hex(), unknown.hex()) == str(missing.value)
    assert not bench.core.scheduler.jobs[JobId(JOB)].ended


# ------------------------------------------------------------------------------------------------------------ draining


def test_a_slave_drains_and_its_tasks_go_elsewhere(bench: Bench) -> None:
    assert bench.core.requests.drain_slave("east", bench.now) > 0
    (drain,) = [message for message in bench.sent_to(EAST) if isinstance(message, m.Drain)]
    assert drain == m.Drain()
    (slave,) = bench.core.status(bench.now)["slaves"]
    assert (slave["state"], slave["slots"]) == ("draining", 0)
    # It reports its capacity once more before it has read that.
    bench.send(EAST, m.Capacity(3, 100))
    (slave,) = bench.core.status(bench.now)["slaves"]
    assert slave["state"] == "draining"
    held = [m.TaskRef(JOB, task.index, task.attempt) for task in bench.core.scheduler.slaves[EAST].tasks]
    bench.send(EAST, m.Capacity(0, 0), m.Returned(held[1:]), outcomes(held[0].index))
    bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(10, 0, b"arguments")]))
    assert not [message for message in bench.sent_to(EAST) if isinstance(message, m.Assign)]
    bench.core.requests.drain_slave("east", bench.now)
    assert not [message for message in bench.sent_to(EAST) if isinstance(message, m.Drain)]
    bench.slave(WEST, slots=2)
    assert bench.core.scheduler.slaves[WEST].tasks


def test_a_draining_slave_that_dies_is_blamed_on_nobody(bench: Bench) -> None:
    bench.core.requests.drain_slave("east", bench.now)
    bench.core.remove(EAST, "it was silent for too long", bench.now)
    assert not any(task.deaths for task in bench.core.scheduler.jobs[JobId(JOB)].tasks.values())


def test_a_slave_that_is_not_there_is_named_with_those_that_are(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="there is no slave 'west'; the slaves are: east"):
        bench.core.requests.drain_slave("west", bench.now)


# -------------------------------------------------------------------------------------------------------------- traces


def test_a_page_has_the_tasks_that_have_ended(bench: Bench) -> None:
    assert page(bench, ALICES).tasks == []
    bench.now = 2.0
    bench.send(EAST, outcomes(0, 1))
    for owner in (ALICES, None):
        told = page(bench, owner).as_json()
        assert [(task["index"], task["slave"], task["worker"]) for task in told["tasks"]] == [
            (0, "east", 42),
            (1, "east", 42),
        ]
        assert told["tasks"][0]["job"] == JOB.hex()
        assert told["jobs"] == {JOB.hex(): {"name": "squares", "application": "somebody"}}
        assert (told["next"], told["dropped"]) == (None, 0)
    assert len(page(bench, None, job=None).tasks) == len(page(bench, ALICES, job=None).tasks) == 2


def test_nobody_sees_the_tasks_of_another(bench: Bench) -> None:
    bench.send(EAST, outcomes(0))
    assert page(bench, BOBS, job=None).as_json()["tasks"] == []
    with pytest.raises(ConfigurationError, match=f"no task of a job {JOB.hex()} that this caller may see"):
        page(bench, BOBS)
    with pytest.raises(ConfigurationError, match="that this caller may see"):
        page(bench, None, job=b"u" * 16)


def test_a_job_that_is_over_is_seen_by_its_owner_alone(bench: Bench) -> None:
    bench.send(EAST, outcomes(0))
    bench.core.remove(ALICE, "it has left", bench.now)
    assert JobId(JOB) not in bench.core.scheduler.jobs
    assert len(page(bench, ALICES).tasks) == 1
    with pytest.raises(ConfigurationError):
        page(bench, BOBS)


def test_long_traces_come_in_pages() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=50)
    bench.send(ALICE, m.OpenJob(JOB, "many", False, False), function())
    count = PAGE_TASKS + 500
    for start in range(0, count, 100):
        tasks = [m.TaskFrame(index, 0, b"arguments") for index in range(start, start + 100)]
        bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, tasks))
        while held := list(bench.core.scheduler.slaves[EAST].tasks):
            bench.send(EAST, outcomes(*(task.index for task in held)))
            bench.all_sent()
    first = page(bench, ALICES)
    assert len(first.tasks) == PAGE_TASKS
    assert first.next is not None
    second = page(bench, ALICES, since=first.next)
    assert (len(second.tasks), second.next) == (500, None)
    assert {task.index for task in (*first.tasks, *second.tasks)} == set(range(count))


# ------------------------------------------------------------------------------------------------------------- settings


def test_slaves_get_the_level_of_logs_also_those_that_come_later(bench: Bench) -> None:
    assert bench.core.requests.set_log_level("DEBUG") == 1
    assert bench.sent_to(EAST) == [m.SetLogLevel("DEBUG")]
    bench.slave(WEST)
    assert m.SetLogLevel("DEBUG") in bench.sent_to(WEST)


def test_a_page_has_the_edges_of_its_jobs_and_what_its_functions_need(bench: Bench) -> None:
    clean = m.Function(function(b"clean").digest, b"clean", (), "make.<locals>.clean")
    inputs = [m.TaskInputs(JOB, index, [m.JobTasks(JOB, [index - 10])]) for index in (10, 11)]
    frames = [m.TaskFrame(index, 0, b"") for index in (10, 11)]
    bench.send(ALICE, clean, *inputs, m.Submit(JOB, clean.digest, None, 0, frames))
    bench.send(EAST, outcomes(0, 1))
    bench.send(EAST, outcomes(10))
    answer = page(bench, ALICES).as_json()["jobs"][JOB.hex()]
    (name,) = {task.function for task in page(bench, None).tasks} - {"make.<locals>.clean"}
    assert answer["graph"] == [[name, "clean", 2]]
    assert answer["needs"] == {"make.<locals>.clean": [name]}
