"""What a running task is doing: which slave is asked, whom the master believes, how each question ends; who may ask."""

import asyncio
from typing import Any

import pytest

from concurrent_nb.errors import ConfigurationError, StackUnavailable
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.stack_requests import ANSWER_WITHIN_S, StackSample
from concurrent_nb.nodes.master.waiting_callers import WaitingCallers
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.session import Session
from tests.inline_pool import InlinePool
from tests.unit.nodes.master.bench import ALICE, EAST, JOB, KEYS, Bench, function

JOB_ID = JobId(JOB)
STACK = '  File "In[3]", line 7, in fit'
OWNER = KEYS[ALICE].decode()


def with_task(count: int = 1) -> Bench:
    """A master with a slave that has the tasks of a job."""
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=3)
    tasks = [m.TaskFrame(index, 0, b"arguments") for index in range(count)]
    bench.send(
        ALICE, m.OpenJob(JOB, "fits", False, False), function(), m.Submit(JOB, function().digest, None, 0, tasks)
    )
    bench.all_sent()
    return bench


def settled(bench: Bench) -> list[tuple[int, Any]]:
    return bench.core.stacks.take_settled()


def answer(request: int, stack: str = STACK, error: str = "", run_s: float = 1.5) -> m.StackSampled:
    return m.StackSampled(request, 42, run_s, stack, error)


def test_the_slave_of_the_task_is_asked_and_its_answer_settles_the_question() -> None:
    bench = with_task()
    request = bench.core.requests.sample_stack(JOB_ID, 0, OWNER, bench.now)
    assert bench.sent_to(EAST) == [m.SampleStack(request, m.TaskRef(JOB, 0, 1))]
    bench.send(EAST, answer(request))
    assert settled(bench) == [(request, StackSample("east", 42, 1.5, STACK))]


def test_a_task_that_was_not_reported_to_run_is_asked_for_too() -> None:
    bench = with_task()
    bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    (message,) = bench.sent_to(EAST)
    assert isinstance(message, m.SampleStack)


def test_the_reason_of_the_slave_reaches_the_caller() -> None:
    bench = with_task()
    request = bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    bench.send(EAST, answer(request, "", "it has not begun" + "!" * 5000))
    ((_, error),) = settled(bench)
    assert isinstance(error, StackUnavailable)
    assert "/0 was assigned to slave 'east', which has no stack of it: it has not begun!!" in str(error)
    assert len(str(error)) < 2200


def test_tasks_that_no_slave_has_are_refused_with_the_place_where_they_are() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, m.OpenJob(JOB, "fits", False, False), function())
    bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(0, 0, b"arguments")]))
    with pytest.raises(StackUnavailable, match="does not run: it waits at the master for a slave"):
        bench.core.requests.sample_stack(JOB_ID, 0, OWNER, bench.now)
    bench.slave(EAST)
    bench.send(EAST, m.Outcomes(JOB, "east", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"value")]))
    with pytest.raises(StackUnavailable, match="does not run: it has ended"):
        bench.core.requests.sample_stack(JOB_ID, 0, OWNER, bench.now)
    with pytest.raises(StackUnavailable, match="has no task 7 at the master: it has ended"):
        bench.core.requests.sample_stack(JOB_ID, 7, OWNER, bench.now)


def test_the_job_of_another_looks_like_one_that_does_not_exist() -> None:
    bench = with_task()
    texts = []
    for job, owner in ((JOB_ID, "bob's key"), (JobId(b"?" * 16), OWNER)):
        with pytest.raises(ConfigurationError) as caught:
            bench.core.requests.sample_stack(job, 0, owner, bench.now)
        texts.append(str(caught.value).replace(job.hex(), "ID"))
    assert texts[0] == texts[1]
    assert bench.sent_to(EAST) == []


@pytest.mark.parametrize("run_s", [float("nan"), float("inf"), -1.0])
def test_an_impossible_time_ends_the_session(run_s: float) -> None:
    bench = with_task()
    request = bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    bench.send(EAST, answer(request, run_s=run_s))
    assert EAST not in bench.core.peers
    ((_, error),) = settled(bench)
    assert isinstance(error, StackUnavailable)


@pytest.mark.parametrize("stack", ["x" * (m.STACK_BYTES_MAX + 1), "é" * (m.STACK_BYTES_MAX - 1)])
def test_a_stack_that_is_too_long_ends_the_session(stack: str) -> None:
    bench = with_task()
    bench.send(EAST, answer(bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now), stack))
    assert EAST not in bench.core.peers


def test_an_answer_without_a_question_ends_the_session() -> None:
    bench = with_task()
    bench.send(EAST, answer(1))
    assert EAST not in bench.core.peers
    assert settled(bench) == []


def test_a_second_answer_ends_the_session() -> None:
    bench = with_task()
    request = bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    bench.send(EAST, answer(request))
    bench.send(EAST, answer(request))
    assert EAST not in bench.core.peers
    assert len(settled(bench)) == 1


@pytest.mark.parametrize("message", [m.SampleStack(1, m.TaskRef(JOB, 0, 1)), answer(1)])
def test_an_application_may_send_neither(message: m.AnyMessage) -> None:
    bench = with_task()
    bench.send(ALICE, message)
    assert ALICE not in bench.core.peers


def test_a_slave_that_does_not_answer_is_given_up_and_may_answer_later() -> None:
    bench = with_task()
    request = bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    assert bench.core.next_deadline(bench.now) <= ANSWER_WITHIN_S
    bench.core.step(ANSWER_WITHIN_S - 0.1)
    assert settled(bench) == []
    bench.core.stacks.tick(ANSWER_WITHIN_S)
    ((_, error),) = settled(bench)
    assert "slave 'east', to which task" in str(error) and "has not answered within 5 s" in str(error)
    bench.send(EAST, answer(request))
    assert settled(bench) == []
    assert EAST in bench.core.peers


def test_a_slave_that_is_lost_is_named() -> None:
    bench = with_task()
    bench.core.requests.sample_stack(JOB_ID, 0, None, bench.now)
    bench.core.remove(EAST, "its host is gone", bench.now)
    ((_, error),) = settled(bench)
    assert "slave 'east'" in str(error) and "was lost: its host is gone" in str(error)


def test_callers_get_their_own_answers_and_those_who_have_hung_up_none() -> None:
    bench = with_task(3)
    callers: WaitingCallers[StackSample] = WaitingCallers(bench.core.stacks)

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[StackSample]] = [loop.create_future() for _ in range(3)]
        requests = [bench.core.requests.sample_stack(JOB_ID, index, None, bench.now) for index in range(3)]
        for request, future in zip(requests, waiting, strict=True):
            callers.add(request, future)
        waiting[1].cancel()
        callers.settle()
        bench.send(EAST, answer(requests[0], "first"), answer(requests[1]), answer(requests[2], "", "it has ended"))
        callers.settle()
        assert (await waiting[0]).stack == "first"
        with pytest.raises(StackUnavailable, match="it has ended"):
            await waiting[2]
        assert waiting[1].cancelled()

    asyncio.run(ask())


def test_a_slave_passes_the_question_to_its_pool_and_the_answer_back() -> None:
    core = SlaveCore("east", 7, InlinePool(), 1.0)
    master = Session(7, "from_slave")
    master.send(m.SampleStack(4, m.TaskRef(JOB, 0, 1)))
    for frames in master.flush(0.0):
        core.received(frames, 0.0)
    got = [item.message for frames in core.step(0.0) for item in master.receive(frames, 0.0)]
    assert got == [m.StackSampled(4, 0, 0.0, "", "it has not begun")]
