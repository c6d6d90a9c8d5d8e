"""When a slave reports outcomes: immediately if they are urgent, else together."""

from collections.abc import Sequence

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common.shared_memory_link import NullSegmentReader
from concurrent_nb.nodes.slave import core
from concurrent_nb.nodes.slave.core import GATHER_MAX, GATHER_S, OUTPUT_BYTES_MAX, SlaveCore
from concurrent_nb.nodes.slave.unacknowledged import Unacknowledged
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, Envelope, decode, encode
from tests.inline_pool import InlinePool

EPOCH = 7
JOB = b"the job's id...."


class Workers(InlinePool):
    """Workers that end tasks on request, and have more to run or not."""

    def __init__(self) -> None:
        super().__init__()
        self.is_saturated = True
        self._next = 0

    def run_dry(self) -> None:
        """Have nothing to run next."""
        self.is_saturated = False

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
    assert sent_outcomes(slave, 100.0) == []  # a sign of life
    return slave


def sent_outcomes(slave: SlaveCore, now: float) -> list[int]:
    """Return which tasks the slave reports as ended."""
    return [
        frame.index
        for frames in slave.step(now)
        for item in decode(frames, "from_slave")[1]
        if type(item.message) is m.Outcomes
        for frame in item.message.items
    ]


def test_results_that_nobody_waits_for_gather_for_a_moment(slave: SlaveCore, workers: Workers) -> None:
    workers.end(2)
    assert sent_outcomes(slave, 100.01) == []
    assert slave.next_deadline() == pytest.approx(100.0 + GATHER_S)
    workers.end()
    assert sent_outcomes(slave, 100.02) == []
    assert sent_outcomes(slave, 100.0 + GATHER_S) == [0, 1, 2]
    assert slave.next_deadline() > 100.5


def test_the_first_result_after_a_while_is_told_at_once(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert sent_outcomes(slave, 100.5) == [0]
    workers.end()
    assert sent_outcomes(slave, 100.51) == []


def test_workers_that_run_dry_keep_nothing_back(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert sent_outcomes(slave, 100.01) == []
    workers.run_dry()
    assert sent_outcomes(slave, 100.02) == [0]


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.OK])
def test_an_end_that_somebody_waits_for_is_told_at_once(slave: SlaveCore, workers: Workers, status: Status) -> None:
    workers.end()
    assert sent_outcomes(slave, 100.01) == []
    workers.end(status=status)
    assert sent_outcomes(slave, 100.01) == [0, 1]


def test_a_large_result_is_told_at_once_because_its_memory_is_wanted_back(slave: SlaveCore, workers: Workers) -> None:
    workers.end(sizes=(4,), buffers=(b"data",))
    assert sent_outcomes(slave, 100.01) == [0]


def test_so_many_results_are_told_at_once_that_none_is_missed_by_the_scheduler(
    slave: SlaveCore, workers: Workers
) -> None:
    workers.end(GATHER_MAX - 1)
    assert sent_outcomes(slave, 100.01) == []
    workers.end()
    assert sent_outcomes(slave, 100.01) == list(range(GATHER_MAX))


def test_tasks_that_are_given_back_take_along_what_has_gathered(slave: SlaveCore, workers: Workers) -> None:
    workers.end()
    assert sent_outcomes(slave, 100.01) == []
    workers._reports.returned.append(m.TaskRef(JOB, 9, 1))
    assert sent_outcomes(slave, 100.01) == [0]


def test_the_start_of_a_task_comes_between_the_ends_of_its_leader_and_itself(
    slave: SlaveCore, workers: Workers
) -> None:
    """The master ignores the start of a task that still waits for its leader."""
    ended, follower = m.StartedTask(JOB, 0, 1), m.StartedTask(JOB, 1, 1)
    workers.end()
    workers._reports.started += [follower, ended]
    workers._reports.returned.append(m.TaskRef(JOB, 9, 1))  # so that nothing is held back
    messages = [item.message for frames in slave.step(100.01) for item in decode(frames, "from_slave")[1]]
    order = [each for each in messages if isinstance(each, m.Started | m.Outcomes)]
    assert [each.tasks for each in order if isinstance(each, m.Started)] == [[ended], [follower]]
    assert [type(each) for each in order] == [m.Started, m.Outcomes, m.Started]


# ------------------------------------------------------------------------------------------------- what it may not hold


class Memory(NullSegmentReader):
    """Has one segment, of which nothing can be read."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Do nothing."""
        return SegmentHandle(segment, 1, 1, 1 << 40)

    def read(self, slice_: m.Slice) -> Buffer:
        """Fail."""
        raise self._error


class Sharing(Workers):
    """Workers that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.released: list[m.Slice] = []

    def release(self, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Note what has come back."""
        self.released += slices


def outcome_of(slave: SlaveCore) -> m.OutcomeFrame:
    """Return the one outcome that the slave reports."""
    messages = [item.message for frames in slave.step(100.01) for item in decode(frames, "from_slave")[1]]
    (frame,) = [frame for message in messages if isinstance(message, m.Outcomes) for frame in message.items]
    return frame


def test_a_result_that_is_too_large_to_travel_is_told_with_its_setting() -> None:
    workers = Sharing()
    slave = SlaveCore("east", EPOCH, workers, 1.0, Memory(AssertionError()), result_bytes_max=1 << 30)
    large = m.Slice(b"s" * 16, 0, 1 << 40, 1)
    workers.end(sizes=(large,))
    frame = outcome_of(slave)
    assert frame.status == Status.NOT_PICKLABLE
    assert "1048576 MiB must go through the memory of slave 'east', which accepts up to 1024 MiB" in str(frame.body)
    assert "SlaveNode.result_mib" in str(frame.body)
    assert workers.released == [large]


@pytest.mark.parametrize("error", [CannotOpen("it is gone"), MemoryError(), OSError(24, "Too many open files")])
def test_a_result_that_cannot_be_read_ends_its_run_and_not_the_slave(error: Exception) -> None:
    workers = Sharing()
    slave = SlaveCore("east", EPOCH, workers, 1.0, Memory(error))
    workers.end(sizes=(m.Slice(b"s" * 16, 0, 8, 1),))
    frame = outcome_of(slave)
    assert frame.status == Status.DIED
    assert frame.sizes == ()


def test_workers_hear_only_of_slices_that_were_lent() -> None:
    workers = Sharing()
    slave = SlaveCore("east", EPOCH, workers, 1.0, Memory(AssertionError()), shares=True)
    lent = m.Slice(b"s" * 16, 0, 8, 5)
    workers.end(sizes=(lent,))
    assert outcome_of(slave).sizes == (lent,)
    others = [m.Slice(b"s" * 16, 0, 8, 4), m.Slice(b"s" * 16, 0, 1 << 40, 5), m.Slice(b"t" * 16, 0, 8, 5)]
    envelope = encode(Envelope(m.PROTOCOL_VERSION, EPOCH, 1, 0, [m.Release([*others, lent, lent], True)]))
    slave.received(envelope, 100.0)
    assert workers.released == [lent]


@pytest.mark.parametrize("timeout_s", [float("nan"), -1.0, float("-inf")])
def test_a_limit_that_is_none_ends_the_session(slave: SlaveCore, timeout_s: float) -> None:
    frames = encode(Envelope(m.PROTOCOL_VERSION, EPOCH, 1, 0, [m.Assign(JOB, b"f" * 32, timeout_s, [])]))
    with pytest.raises(ProtocolError, match="tasks that may run"):
        slave.received(frames, 100.0)


class Writing(Workers):
    """Workers whose tasks write."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[bool] = []

    def hold_notes(self, hold: bool) -> None:
        """Note what was asked."""
        self.held.append(hold)

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Have none."""

    def write(self, size: int) -> None:
        """Write so many bytes."""
        self._reports.output.append((m.TaskRef(JOB, 1, 1), m.NOTES, bytes(size)))


@pytest.mark.parametrize("ends", [False, True])
def test_tasks_that_write_more_than_the_master_takes_are_slowed(ends: bool) -> None:
    workers, received = Writing(), 0
    slave = SlaveCore("east", EPOCH, workers, 1.0)
    for _ in range(OUTPUT_BYTES_MAX // (1 << 20)):
        workers.write(1 << 20)
        received += len(slave.step(100.0))
    assert workers.held == []
    workers.write(1)
    received += len(slave.step(100.0))
    workers.write(1)
    received += len(slave.step(100.0))
    assert workers.held == [True]
    if ends:
        slave.end()
    else:  # the master acknowledges what it has got, and that until all is sent
        seq = 0
        while workers.held == [True]:
            seq += 1
            slave.received(encode(Envelope(m.PROTOCOL_VERSION, EPOCH, seq, received, [])), 100.0)
            received += len(slave.step(100.0))
    assert workers.held == [True, False]


# ---------------------------------------------------------------------------- a master that was started again


def messages_of(slave: SlaveCore, now: float) -> list[m.AnyMessage]:
    return [item.message for frames in slave.step(now) for item in decode(frames, "from_slave")[1]]


def acknowledge(slave: SlaveCore, envelopes: int) -> None:
    slave.received(encode(Envelope(m.PROTOCOL_VERSION, EPOCH, 0, envelopes, [])), 100.0)


def test_what_a_master_with_a_journal_has_not_acknowledged_is_offered_to_its_next_run(workers: Workers) -> None:
    kept = Unacknowledged()
    slave = SlaveCore("east", EPOCH, workers, interval_s=1.0, unacknowledged=kept)
    workers.run_dry()
    workers.end(2)
    assert sent_outcomes(slave, 100.0) == [0, 1]
    acknowledge(slave, 1)
    workers.end(1)
    running = m.StartedTask(JOB, 7, 1, 4711)
    workers._reports.started += [running, m.StartedTask(JOB, 8, 1, 4711)]
    workers._reports.returned.append(m.TaskRef(JOB, 8, 1))
    assert sent_outcomes(slave, 101.0) == [2]

    workers.end(1)  # without a session
    workers._reports.returned.append(m.TaskRef(JOB, 9, 1))  # the next run may number another attempt of it so
    workers.attempts = lambda: [m.TaskRef(JOB, 7, 1)]  # type: ignore[method-assign]
    again = SlaveCore("east", EPOCH + 1, workers, interval_s=1.0, unacknowledged=kept, resumes=True)
    offer, started, *outcomes = messages_of(again, 102.0)
    assert isinstance(offer, m.OfferAttempts) and offer.is_last
    assert [ref.index for ref in offer.tasks] == [7, 2, 3]
    assert started == m.Started("east", [running])
    assert not [each for each in outcomes if isinstance(each, m.Returned)]
    assert [frame.index for each in outcomes if isinstance(each, m.Outcomes) for frame in each.items] == [2, 3]

    # A third run gets both again, as they are still not acknowledged.
    third = SlaveCore("east", EPOCH + 2, workers, interval_s=1.0, unacknowledged=kept, resumes=True)
    assert [ref.index for ref in kept.refs()] == [2, 3]
    assert sent_outcomes(third, 103.0) == [2, 3]
    third.received(encode(Envelope(m.PROTOCOL_VERSION, EPOCH + 2, 0, 1, [])), 103.0)
    third.step(103.1)
    assert kept.refs() == [] and kept.take() == []


def test_many_attempts_are_offered_in_several_messages(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "OFFERED_MAX", 2)
    workers.attempts = lambda: [m.TaskRef(JOB, index, 1) for index in range(5)]  # type: ignore[method-assign]
    slave = SlaveCore("east", EPOCH, workers, interval_s=1.0, unacknowledged=Unacknowledged(), resumes=True)
    offers = [each for each in messages_of(slave, 100.0) if isinstance(each, m.OfferAttempts)]
    assert [(len(each.tasks), each.is_last) for each in offers] == [(2, False), (2, False), (1, True)]
    workers.attempts = list  # type: ignore[method-assign]
    slave = SlaveCore("east", EPOCH, workers, interval_s=1.0, unacknowledged=Unacknowledged(), resumes=True)
    assert messages_of(slave, 100.0)[0] == m.OfferAttempts([], True)
