"""Tasks that follow another one into its worker, with real workers: what each gets, and what comes back."""

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.messages import Assign, TaskFrame, TaskRef
from tests.integration.pool_driver import JOB, Driver

#: more than any test assigns otherwise
FIRST = 10_000


def work(number: int) -> tuple[int, int]:
    """Fail for some numbers, and wait or write for others."""
    if number == 50:
        raise ValueError("no")
    if number == 60:
        time.sleep(0.2)
    if number == 70:
        os.write(1, b"seventy")
    if number == 80:
        os.kill(os.getpid(), 9)
    return number, os.getpid()


@pytest.fixture
def pool() -> Iterator[Driver]:
    with Driver("fork_server", slots=2) as driver:
        driver.map(work, [(0,)] * 20)  # so that it is known to be short
        yield driver


class Line:
    """A task and others behind it."""

    def __init__(self, driver: Driver, numbers: list[int], start: int) -> None:
        digest = driver.add(work)
        (leader,) = driver.assign(digest, [(numbers[0],)])
        frames = [TaskFrame(start + at, 1, pickles.dumps((number,))[0]) for at, number in enumerate(numbers[1:])]
        self.followed = driver.pool.follow(Assign(JOB, digest, None, frames, None, leader), time.monotonic())
        self.refs = [leader, *(TaskRef(JOB, frame.index, 1) for frame in frames[: self.followed])]
        driver.until(lambda: all(ref in driver.ended or ref in driver.returned for ref in self.refs))
        self.ends = [driver.ended.get(ref) for ref in self.refs]


def test_a_line_runs_in_order_in_one_worker(pool: Driver) -> None:
    line = Line(pool, list(range(1, 40)), FIRST)
    assert line.followed == 38
    assert [end and end.value[0] for end in line.ends] == list(range(1, 40))
    assert len({end.worker for end in line.ends if end}) == 1


def test_what_is_behind_a_failure_comes_back(pool: Driver) -> None:
    line = Line(pool, [1, 2, 50, 3, 4], 2 * FIRST)
    assert [end.status if end else None for end in line.ends] == [Status.OK, Status.OK, Status.ERROR, None, None]
    assert pool.returned[-2:] == line.refs[-2:]


def test_output_belongs_to_the_task_that_has_written_it(pool: Driver) -> None:
    line = Line(pool, [1, 70, 2], 4 * FIRST)
    pool.until(lambda: pool.output[line.refs[1]][1])
    assert [pool.output[ref][1] for ref in line.refs] == [b"", b"seventy", b""]


def test_the_death_of_the_worker_is_the_running_tasks(pool: Driver) -> None:
    line = Line(pool, [1, 80, 2], 5 * FIRST)
    assert [end.status if end else None for end in line.ends] == [Status.OK, Status.DIED, None]
    with contextlib.suppress(ProcessLookupError):
        pool.turn(0.1)
    assert pool.map(work, [(5,)])[0].value[0] == 5


def test_what_is_behind_a_slow_task_comes_back_while_that_runs(pool: Driver) -> None:
    line = Line(pool, [1, 60, 3, 4], 3 * FIRST)
    assert [end.status if end else None for end in line.ends] == [Status.OK, Status.OK, None, None]
    assert set(pool.returned[-2:]) == set(line.refs[-2:])
