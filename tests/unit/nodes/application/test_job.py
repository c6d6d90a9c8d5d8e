"""A job's values, in every way in which Python can ask for them, also while tasks end and are added."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, cast

import pytest

from concurrent_nb.errors import ConfigurationError, StackUnavailable
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.master_calls import MasterCalls
from concurrent_nb.outcome import Status


class Bench:
    """A job whose tasks the test ends: what the application's thread does."""

    def __init__(self, count: int, is_open: bool = False, name: str = "fits") -> None:
        self.cancelled: list[Sequence[int] | None] = []
        self.job: Job[Any] = Job(JobId(b"j" * 16), name, self._cancel, is_open=is_open)
        self.add(count)

    def _cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        self.cancelled.append(indexes)
        for future in self.job.futures if indexes is None else ():
            future.status = future.status or Status.CANCELLED
            future.end_cancelled()

    def add(self, count: int) -> None:
        for _ in range(count):
            self.job._new_future(len(self.job.futures))

    def end(self, *indexes: int) -> None:
        """End tasks with ten times their number."""
        for index in indexes:
            self.job.futures[index].status = Status.OK
            self.job.futures[index].end(10 * index, None)

    def fail(self, index: int, error: BaseException) -> None:
        self.job.futures[index].status = Status.ERROR
        self.job.futures[index].end(None, error)

    def later(self, *steps: Callable[[], object]) -> threading.Thread:
        """Do something in another thread, when this one waits, or soon will."""
        thread = threading.Thread(target=lambda: [step() for step in steps])
        thread.start()
        return thread


def test_values_come_in_order_as_they_are_there_whatever_ends_first() -> None:
    bench = Bench(4)
    bench.end(3, 0)
    values = iter(bench.job)
    assert next(values) == 0
    thread = bench.later(lambda: bench.end(2), lambda: bench.end(1))
    assert list(values) == [10, 20, 30]
    thread.join()
    assert list(bench.job) == list(bench.job) == bench.job.results() == bench.job.result() == [0, 10, 20, 30]


def test_a_job_is_like_a_list_of_its_values() -> None:
    bench = Bench(5)
    bench.end(*range(5))
    job = bench.job
    assert len(job) == 5
    assert (job[3], job[-1], job[1:4], job[::-2], job[4:100]) == (30, 40, [10, 20, 30], [40, 20, 0], [40])
    assert 20 in job and 25 not in job
    assert sum(job) == 100 and max(job) == 40 and [*reversed(job)] == [40, 30, 20, 10, 0]
    first, *rest = job
    assert (first, rest) == (0, [10, 20, 30, 40])
    assert [*zip(job, "ab", strict=False)] == [(0, "a"), (10, "b")]
    with pytest.raises(IndexError, match="job fits has 5 tasks, none of them is number 5"):
        job[5]
    with pytest.raises(TypeError, match="integer"):
        job["3"]  # type: ignore[call-overload]


def test_indexes_wait_for_their_own_tasks_only() -> None:
    bench = Bench(3)
    thread = bench.later(lambda: bench.end(1))
    assert bench.job[1] == 10
    assert bench.job[1:2] == [10]
    thread.join()
    assert not bench.job.done()


def test_a_job_without_tasks_is_a_job_that_has_ended() -> None:
    job = Bench(0).job
    assert job and len(job) == 0 and list(job) == job.results() == []
    assert job.done() and not job.cancelled() and job.exception() is None
    assert repr(job).startswith("<Job fits: 0 of 0 done, ended after ")


def test_a_failure_is_raised_where_its_value_is_asked_for() -> None:
    bench = Bench(4)
    bench.end(0, 1, 3)
    bench.fail(2, ValueError("no"))
    values = iter(bench.job)
    assert [next(values), next(values)] == [0, 10]
    with pytest.raises(ValueError, match="no"):
        next(values)
    for asked in (lambda: bench.job.results(), lambda: bench.job[2], lambda: bench.job[1:3]):
        with pytest.raises(ValueError, match="no"):
            asked()
    assert bench.job[3] == 30
    assert str(bench.job.exception()) == "no"
    assert bench.job.done_results() == {0: 0, 1: 10, 3: 30}
    assert "3 of 4 done, 1 failed, ended after" in repr(bench.job)


def test_a_cancelled_job_says_so_and_how_to_get_what_finished() -> None:
    bench = Bench(100)
    bench.end(*range(8))
    assert repr(bench.job) == "<Job fits: 8 of 100 done>"
    bench.job.cancel()
    why = r"job fits was cancelled: 92 of its 100 tasks have no result; job.done_results\(\) gives those of the 8 that"
    for asked in (bench.job.results, bench.job.exception, lambda: bench.job[50], lambda: list(bench.job)):
        with pytest.raises(CancelledError, match=why):
            asked()
    assert bench.job.done_results() == {index: 10 * index for index in range(8)}
    assert bench.job.done() and bench.job.cancelled()
    assert "8 of 100 done, 92 cancelled, ended after" in repr(bench.job)


def test_a_cancelled_job_of_which_nothing_has_finished_promises_nothing() -> None:
    bench = Bench(2, name="")
    bench.job.cancel()
    with pytest.raises(CancelledError) as caught:
        bench.job.results()
    assert str(caught.value) == "job 6a6a6a6a was cancelled: 2 of its 2 tasks have no result"


def test_tasks_that_were_cancelled_because_one_failed_raise_its_error() -> None:
    bench = Bench(3)
    bench.fail(2, ValueError("the cause"))
    bench._cancel(bench.job.id, None)  # the cluster does, of a job that the first error ends
    for asked in (bench.job.results, lambda: bench.job[0], lambda: list(bench.job)):
        with pytest.raises(ValueError, match="the cause"):
            asked()
    assert str(bench.job.exception()) == "the cause"
    assert not bench.job.cancelled()


def test_a_job_that_was_cancelled_after_a_failure_was_cancelled() -> None:
    bench = Bench(3)
    bench.fail(2, ValueError("no"))
    bench.job.cancel()
    with pytest.raises(CancelledError, match="2 of its 3 tasks have no result"):
        bench.job.results()
    assert bench.job.cancelled()


def test_a_job_that_a_hit_has_ended_was_not_cancelled() -> None:
    bench = Bench(3)
    bench.job.futures[1].status = Status.HIT
    bench.job.futures[1].end(7, None)
    bench._cancel(bench.job.id, None)
    assert bench.job.hit is not None and not bench.job.cancelled()
    with pytest.raises(CancelledError, match=r"has ended with its first hit, job\.hit\.result\(\)"):
        bench.job.results()


def test_a_task_that_raises_a_cancelled_error_has_failed() -> None:
    bench = Bench(1)
    bench.fail(0, CancelledError("the task's own"))
    with pytest.raises(CancelledError, match="the task's own"):
        bench.job.results()
    assert not bench.job.cancelled()


def test_waiting_ends_after_the_time_that_was_given() -> None:
    bench = Bench(2)
    bench.end(0)
    for asked in (bench.job.results, bench.job.result, bench.job.exception):
        with pytest.raises(TimeoutError, match=r"<Job fits: 1 of 2 done> has not ended within 0\.01 s"):
            asked(0.01)


# ----------------------------------------------------------------------------------------------- tasks still to come


def test_an_open_job_gives_the_values_of_tasks_that_come_later() -> None:
    bench = Bench(1, is_open=True)
    assert repr(bench.job) == "<Job fits: 0 of 1 or more done>"
    steps = [lambda: bench.end(0), lambda: bench.add(2), lambda: bench.end(2, 1), lambda: bench.job._close()]
    thread = bench.later(*steps)
    assert list(bench.job) == [0, 10, 20]
    thread.join()
    assert bench.job.done()


def test_an_index_of_an_open_job_waits_for_its_task_or_the_end() -> None:
    bench = Bench(0, is_open=True)
    thread = bench.later(lambda: bench.add(3), lambda: bench.end(0, 1))
    assert bench.job[1] == 10
    assert bench.job[0:2] == [0, 10]
    thread.join()
    assert bench.job.is_open
    thread = bench.later(lambda: bench.end(2), bench.job._close)
    assert bench.job[-1] == 20
    assert bench.job[1:] == [10, 20]
    thread.join()


def test_what_an_iterator_of_tasks_has_raised_comes_after_the_values_before_it() -> None:
    bench = Bench(2, is_open=True)
    bench.end(0, 1)
    bench.job._close(KeyError("the iterator's"))
    values = iter(bench.job)
    assert (next(values), next(values)) == (0, 10)
    with pytest.raises(KeyError, match="the iterator's"):
        next(values)
    with pytest.raises(KeyError, match="the iterator's"):
        bench.job.results()
    assert isinstance(bench.job.exception(), KeyError)


# ------------------------------------------------------------------------------------------------------- coroutines


def test_awaiting_a_job_gives_its_values() -> None:
    bench = Bench(3)

    async def main() -> Any:
        thread = bench.later(lambda: bench.end(2, 0, 1))
        values = await bench.job
        thread.join()
        return values, await bench.job

    assert asyncio.run(main()) == ([0, 10, 20], [0, 10, 20])


def test_a_job_unpacked_in_a_coroutine_can_be_gathered_and_all_else_gives_values() -> None:
    one, two = Bench(3), Bench(2)
    one.end(*range(3))
    two.end(*range(2))

    async def main() -> None:
        assert await asyncio.gather(*one.job) == [0, 10, 20]
        assert await asyncio.gather(*one.job, *two.job, return_exceptions=True) == [0, 10, 20, 0, 10]
        assert [*await asyncio.gather(one.job, two.job)] == [[0, 10, 20], [0, 10]]
        assert all(isinstance(future, TaskFuture) for future in [*one.job])
        assert list(one.job) == [value for value in one.job] == [0, 10, 20]  # noqa: C416
        assert sum(one.job) == 30 and 20 in one.job
        first, *rest = one.job
        assert (first, rest) == (0, [10, 20])
        for value, wanted in zip(one.job, (0, 10, 20), strict=True):
            assert value == wanted

    asyncio.run(main())
    assert (lambda *values: values)(*one.job) == (0, 10, 20)


def test_a_gathered_job_raises_its_failure() -> None:
    bench = Bench(2)
    bench.end(0)
    bench.fail(1, ValueError("no"))

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await asyncio.gather(*bench.job)
        with pytest.raises(ValueError, match="no"):
            await bench.job
        values = aiter(bench.job)
        assert await anext(values) == 0
        with pytest.raises(ValueError, match="no"):
            await anext(values)

    asyncio.run(main())


def test_an_open_job_can_be_awaited_and_iterated_over_in_a_coroutine() -> None:
    bench = Bench(0, is_open=True)

    async def values() -> list[Any]:
        return [value async for value in bench.job]

    async def main() -> Any:
        both = asyncio.gather(values(), bench.job)
        steps = [lambda: bench.add(1), lambda: bench.end(0), lambda: bench.add(2), lambda: bench.end(2, 1)]
        asyncio.get_running_loop().call_soon(lambda: bench.later(*steps, bench.job._close).join())  # when both wait
        return await both

    assert asyncio.run(main()) == [[0, 10, 20], [0, 10, 20]]


def test_cancelling_a_coroutine_that_awaits_a_job_cancels_it_and_one_that_iterates_does_not() -> None:
    awaited, iterated = Bench(2), Bench(2)

    async def iterate() -> None:
        async for _ in iterated.job:
            raise AssertionError("nothing has ended")

    async def main() -> None:
        for waiting in (awaited.job, iterate()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.01)

    asyncio.run(main())
    assert awaited.job.cancelled()
    assert not iterated.cancelled and not iterated.job.done()
    iterated.end(0, 1)  # the coroutine that waited is gone, with its loop
    assert iterated.job.results() == [0, 10]


def test_a_job_ends_after_the_loop_of_a_waiting_coroutine_was_closed() -> None:
    bench = Bench(1)

    async def main() -> None:
        task = asyncio.ensure_future(bench.job._until(bench.job.done))
        asyncio.get_running_loop().call_soon(task.cancel)  # when it waits
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    bench.end(0)
    assert bench.job.results() == [0]


def test_no_thread_waits_for_ever_however_ends_and_waiting_meet() -> None:
    deadline = time.monotonic() + 60
    for _ in range(100):
        bench = Bench(1, is_open=True)

        async def main(bench: Bench = bench) -> Any:
            return await bench.job

        thread = bench.later(partial(bench.add, 1), partial(bench.end, 0, 1), bench.job._close)
        assert asyncio.run(main()) == [0, 10]
        thread.join()
    assert time.monotonic() < deadline


# ------------------------------------------------------------------------------------------- what a running task does


class Asked:
    """What the master answers about stacks."""

    def __init__(self) -> None:
        self.indexes: list[int] = []

    def sample_stack(self, job: str, index: int) -> dict[str, Any]:
        assert job == (b"j" * 16).hex()
        self.indexes.append(index)
        return {"slave": "east", "worker": 42, "seconds": 12.34, "stack": '  File "<cell In[3]>", line 7, in fit'}


def test_the_stack_of_a_task_comes_with_its_place() -> None:
    bench, asked = Bench(3), Asked()
    bench.job.ask = cast(MasterCalls, asked)
    place = "task 1 has run for 12.3 s in worker 42 of slave east"
    assert bench.job.stack(1) == f'{place}\n  File "<cell In[3]>", line 7, in fit'
    assert asked.indexes == [1]


def test_tasks_without_a_stack_are_not_asked_for() -> None:
    bench, asked = Bench(3), Asked()
    with pytest.raises(ConfigurationError, match=r"fits.* has no stacks, because it runs without a cluster"):
        bench.job.stack(0)
    bench.job.ask = cast(MasterCalls, asked)
    bench.end(0)
    with pytest.raises(StackUnavailable, match=r"task 0 of .*fits.* has ended"):
        bench.job.stack(0)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"has 3 tasks, none of them is number {index}"):
            bench.job.stack(index)
    with pytest.raises(TypeError):
        bench.job.stack(cast(int, "1"))
    assert asked.indexes == []
