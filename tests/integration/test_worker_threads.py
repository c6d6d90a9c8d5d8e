"""Tasks in threads as real processes: at the same time in one process, each with its own prints, notes and end."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs
from tests.integration.pool_driver import Driver

THREAD = Needs(kind="thread")


@pytest.fixture(params=["template", "spawn"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(str(request.param), grace_s=0.3) as driver:
        yield driver


def meet(mine: Path, theirs: Path) -> int:
    mine.touch()
    while not theirs.exists():
        time.sleep(0.005)
    return os.getpid()


def test_two_tasks_run_at_the_same_time_in_one_process(driver: Driver, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    refs = driver.assign(driver.add(meet), [(one, other), (other, one)], needs=THREAD)
    driver.wait(refs)
    ends = [driver.ended[ref] for ref in refs]
    assert [end.status for end in ends] == [Status.OK] * 2
    assert len({end.value for end in ends} | {end.worker for end in ends}) == 1
