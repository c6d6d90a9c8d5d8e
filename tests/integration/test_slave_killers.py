"""Tasks that kill their slave: the cluster loses no more slaves to one than deaths are allowed, and no work."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode
from concurrent_nb.errors import PoisonTask
from tests import work
from tests.clusters import eventually, running, status_of
from tests.work import PATIENCE_S

ROOT = Path(concurrent_nb.__file__).parent.parent
SLAVES, DEATHS_ALLOWED = 4, 3
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds its slave in /proc")
NAME = "killers"
BRISK = ["--MasterNode.interval_s=0.1", "--MasterNode.suspect_after_s=0.5", "--MasterNode.lost_after_s=1.0"]


@pytest.fixture
def app() -> Iterator[ApplicationNode]:
    """Give an application of a cluster of four slaves that nobody replaces."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(running("master", "--name", NAME, *BRISK, says="is running"))
        for _ in range(SLAVES):
            arguments = ("slave", "--connect", NAME, "--workers", "1")
            stack.enter_context(running(*arguments, says="has joined", env={**os.environ, "PYTHONPATH": str(ROOT)}))
        eventually(lambda: len(status_of(NAME)["slaves"]) == SLAVES, "all slaves are there")
        yield stack.enter_context(concurrent_nb.connect(NAME))


def killer(after_s: float = 0.0, whole_group: bool = False) -> Callable[[str], None]:
    """Make a task that kills its slave. It travels by value: to import this module takes longer than it is to live."""

    def kill(victims: str) -> None:
        time.sleep(after_s)
        template = os.getppid()
        with open(f"/proc/{template}/stat") as file:
            slave = int(file.read().rpartition(")")[2].split()[1])
        with open(victims, "a") as file:
            file.write(f"{slave}\n")
        os.kill(slave, signal.SIGKILL)
        if whole_group:
            os.kill(template, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    return kill


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(killer(), id="before its start is reported"),
        pytest.param(killer(after_s=0.3), id="when its start has been reported"),
        pytest.param(killer(whole_group=True), id="with all that belongs to it"),
    ],
)
def test_a_task_that_kills_every_slave_it_meets_is_quarantined_and_nothing_else_is(
    app: ApplicationNode, tmp_path: Path, kill: Callable[[str], None]
) -> None:
    victims = tmp_path / "victims"
    before = [app.submit(work.slow_square, n) for n in range(300)]
    killer = app.submit(kill, str(victims))
    after = [app.submit(work.slow_square, n) for n in range(300, 1500)]
    error = killer.exception(PATIENCE_S)
    assert isinstance(error, PoisonTask), error
    assert [future.result(PATIENCE_S)[0] for future in before + after] == [n * n for n in range(1500)]
    lost = victims.read_text().split()
    assert 1 <= len(lost) <= DEATHS_ALLOWED
    assert len(status_of(NAME)["slaves"]) >= SLAVES - DEATHS_ALLOWED
    assert app.submit(work.square, 7).result(PATIENCE_S) == 49
