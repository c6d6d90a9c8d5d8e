"""When a slave says what its workers have done: at once where somebody waits for it, else together."""

import pytest

from concurrent_nb.nodes.slave_core import GATHER_MAX, GATHER_S, SlaveCore
from concurrent_nb.outcome import Status
from concurrent_nb.testing.inline import InlineCrew, InlineReports
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, decode

EPOCH = 7
JOB = b"the job's id...."


class Workers(InlineCrew):
    """Workers that end what they are told to, and have more to run or not."""

    def __init__(self) -> None:
        super().__init__()
        self._provided = True
        self._reports = InlineReports()
        self._next = 0

    @property
    def provided(self) -> bool:
        """Say what was told."""
        return self._provided

    def run_dry(self) -> None:
        """Have nothing to run next."""
        self._provided = False

    def end(self, count: int = 1, status: Status = Status.OK, sizes: m.Sizes = (), buffers: Buffers = ()) -> None:
        """End so many tasks."""
        for index in range(self._next, self._next + count):
            frame = m.OutcomeFrame(index, 1, status, 0.01, 1, b"", sizes)
            self._reports.outcomes.append((JOB, [frame], [buffers] if buffers else []))
        self._next += count


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def slave(workers: Workers) -> SlaveCore:
    slave = SlaveCore("east", EPOCH, workers, interval_s=1.0)
    assert told(slave, 100.0) == []  # a sign of life
    return slave


def told(slave: SlaveCore, now: float) -> list[int]:
    """Say which tasks the slave says to have ended."""
    return [
        frame.index
        for frames in slave.step(now)
        for item in decode(frames, "from_slave")[1]
        if type(item.message) is m.Outcomes
        for frame in item.message.items
    ]


def test_results_that_nobody_waits_for_gather_for_a_moment(slave: SlaveCore, workers: Workers) -> None:
    workers.end(2)
    assert told(slave, 100.01) == []
    assert slave.next_deadline() == pytest.approx(100.0 + GATHER_S)
    workers.end()
    assert told(slave, 100.02) == []
    assert told(slave, 100.0 + GATHER_S) == [0, 1, 2]
    assert slave.next_deadline() > 100.5


def test_the_first_result_after_a_while_is_told_at_once(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert told(slave, 100.5) == [0]
    workers.end()
    assert told(slave, 100.51) == []


def test_workers_that_run_dry_keep_nothing_back(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert told(slave, 100.01) == []
    workers.run_dry()
    assert told(slave, 100.02) == [0]


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.OK])
def test_an_end_that_somebody_waits_for_is_told_at_once(slave: SlaveCore, workers: Workers, status: Status) -> None:
    workers.end()
    assert told(slave, 100.01) == []
    workers.end(status=status)
    assert told(slave, 100.01) == [0, 1]


def test_a_large_result_is_told_at_once_because_its_memory_is_wanted_back(slave: SlaveCore, workers: Workers) -> None:
    workers.end(sizes=(4,), buffers=(b"data",))
    assert told(slave, 100.01) == [0]


def test_so_many_results_are_told_at_once_that_none_is_missed_by_the_scheduler(
    slave: SlaveCore, workers: Workers
) -> None:
    workers.end(GATHER_MAX - 1)
    assert told(slave, 100.01) == []
    workers.end()
    assert told(slave, 100.01) == list(range(GATHER_MAX))


def test_tasks_that_are_given_back_take_along_what_has_gathered(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert told(slave, 100.01) == []
    workers._reports.returned.append(m.TaskRef(JOB, 9, 1))
    assert told(slave, 100.01) == [0]
