"""What becomes of a batch's items when its answer comes, in whatever way it ended. No cluster, no thread."""

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from concurrent_nb.errors import ConfigurationError, MasterLost, StackUnavailable, TaskTimeout, WorkerDied
from concurrent_nb.ids import JobId, digest_of
from concurrent_nb.nodes.application.batched_job import BatchedJob, BatchHandle
from concurrent_nb.nodes.application.client_tasks import FunctionPayload, Payload, TaskEntry, TaskLimits
from concurrent_nb.nodes.application.client_thread import ClientThread, TaskSource
from concurrent_nb.nodes.application.job import Counts, Job
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import JobOptions
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime import job_batches, notes
from concurrent_nb.shipping.runtime.call_chunks import FailedItem
from concurrent_nb.shipping.serialization import error_reports, pickles
from concurrent_nb.tasks.chunk_size import AdaptiveSize
from concurrent_nb.wire.messages import Needs


class Packing:
    """Packs as an application does, but keeps nothing in shared memory."""

    def function_payload(self, fn: Callable[..., Any], *, spawns: bool = False) -> FunctionPayload:
        return FunctionPayload(digest_of(b"f"), Payload(b"f"))

    def item_payload(self, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> Payload:
        return Payload(pickles.dumps_item(args, number)[0])


class Carrying:
    """A client thread that is the test's own."""

    def __init__(self) -> None:
        self.sent: list[TaskEntry[TaskHandle]] = []
        self.cancelled: list[Sequence[int] | None] = []
        self.is_closed = False
        self.present = None
        self._calls: deque[Callable[[], None]] = deque()

    def open_source(self, source: TaskSource) -> None:
        self.is_closed = False

    def close_source(self, source: TaskSource) -> None:
        self.is_closed = True

    def call_soon(self, what: Callable[[], None]) -> None:
        self._calls.append(what)

    def add(self, entries: Sequence[TaskEntry[TaskHandle]]) -> None:
        self.sent += entries

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        self.cancelled.append(indexes)

    def turn(self) -> list[BatchHandle]:
        """Call what is pending; return the batches that this has sent."""
        while self._calls:
            self._calls.popleft()()
        sent, self.sent = self.sent, []
        return [cast(BatchHandle, entry.handle) for entry in sent]


class Bench:
    """A job of `count` items, and what was sent of it."""

    def __init__(
        self,
        count: int,
        size: int | AdaptiveSize,
        *,
        until: bool = False,
        stop: bool = False,
        retries: int = 0,
        needs: Needs | None = None,
    ) -> None:
        self.client_thread = Carrying()
        self.batches = BatchedJob(
            Packing(),
            cast(ClientThread, self.client_thread),
            pow,
            [(n, 2) for n in range(count)],
            size,
            JobOptions(limits=TaskLimits(10.0, retries), until=until, stop_on_error=stop, needs=needs, watched=True),
        )
        self.job: Job = self.batches.start()
        self.names: set[int] = set()

    def turn(self) -> list[BatchHandle]:
        sent = self.client_thread.turn()
        for batch in sent:
            assert batch.index not in self.names, "the master knows a task of this name already"
            self.names.add(batch.index)
        return sent

    def ended(self) -> list[int]:
        return [future.index for future in self.job.ended]


def test_an_item_is_found_in_the_task_that_it_travels_in() -> None:
    bench = Bench(4, 2)
    for item in range(4):
        with pytest.raises(StackUnavailable, match=f"item {item} does not run"):
            bench.job._index_at_master(item)
    sent = bench.turn()
    assert [bench.job._index_at_master(item) for item in range(4)] == [sent[0].index] * 2 + [sent[1].index] * 2


def test_tasks_in_threads_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="tasks in threads do not travel in batches"):
        Bench(3, 3, needs=Needs(kind="thread"))


def items_of(sent: Sequence[BatchHandle]) -> list[list[int]]:
    return [[item.index for item in batch.items] for batch in sent]


def answer(
    batch: BatchHandle,
    answers: Sequence[Any] | None = None,
    status: Status = Status.OK,
    cut: bool = False,
    elapsed_s: float = 0.5,
) -> None:
    """Answer for a batch as a worker does; for all of its items by default."""
    batch.status, batch.slave, batch.worker, batch.attempt, batch.elapsed_s = status, "one", 7, 1, elapsed_s
    values = [item.index for item in batch.items] if answers is None else list(answers)
    if len(batch.items) == 1:
        batch.set_outcome(values[0], None, None)
    else:
        batch.set_outcome((columns(values), [0.1] * (len(values) + cut), cut), None, None)


def fail(batch: BatchHandle, status: Status, error: BaseException) -> None:
    batch.status = status
    batch.set_outcome(None, error, None)


def failure() -> FailedItem:
    status, report, _ = error_reports.failed(ValueError("no"))
    assert isinstance(report, bytes)
    return FailedItem(status, report)


def columns(rows: Sequence[Any]) -> tuple[Any, ...]:
    """Return the results of a chunk as they travel: rows are numbers and failures."""
    failed = {at: tuple(row) for at, row in enumerate(rows) if isinstance(row, FailedItem)}
    return [None if isinstance(row, FailedItem) else row for row in rows], {}, failed


def test_items_travel_together_and_each_has_its_own_end() -> None:
    bench = Bench(7, 3)
    sent = bench.turn()
    assert items_of(sent) == [[0, 1, 2], [3, 4, 5], [6]]
    answer(sent[1], [3, failure(), 5])
    answer(sent[2])
    answer(sent[0])
    assert bench.turn() == []
    assert bench.client_thread.is_closed
    assert bench.job.counts() == Counts(0, 0, 6, 1, 0)
    assert [future.result() for future in bench.job.futures if future.index != 4] == [0, 1, 2, 3, 5, 6]
    failed = bench.job.futures[4]
    assert isinstance(failed.exception(), ValueError)
    assert (failed.slave, failed.worker, failed.elapsed_s, failed.status) == ("one", 7, 0.1, Status.ERROR)


def test_a_batch_that_has_no_time_for_all_sends_the_rest_again() -> None:
    bench = Bench(5, 5)
    (batch,) = bench.turn()
    answer(batch, [0, 1])
    (batch,) = sent = bench.turn()
    assert items_of(sent) == [[2, 3, 4]]
    answer(batch)
    assert bench.turn() == []
    assert bench.job.results(0) == [0, 1, 2, 3, 4]


def test_all_of_a_batch_that_dies_or_overruns_run_again_alone() -> None:
    for status, error in ((Status.TIMEOUT, TaskTimeout("too long")), (Status.POISON, WorkerDied("dead"))):
        bench = Bench(3, 3, stop=True)
        (batch,) = bench.turn()
        fail(batch, status, error)
        sent = bench.turn()
        assert items_of(sent) == [[0], [1], [2]]
        assert [batch.index for batch in sent[1:]] == [1, 2]  # for messages
        answer(sent[0])
        fail(sent[1], status, error)
        assert bench.job.futures[1].exception() is error
        answer(sent[2])
        bench.turn()
        assert bench.client_thread.cancelled == [None]
        assert bench.job.counts() == Counts(0, 0, 2, 1, 0)


def test_what_fails_is_tried_again_alone() -> None:
    bench = Bench(3, 3, stop=True, retries=2)
    (batch,) = bench.turn()
    answer(batch, [0, failure(), 2])
    (again,) = sent = bench.turn()
    assert items_of(sent) == [[1]]
    answer(again, [4])
    bench.turn()
    assert bench.job.results(0) == [0, 4, 2]
    assert [future.attempt for future in bench.job.futures] == [1, 2, 1]
    assert bench.client_thread.cancelled == []


def test_a_hit_ends_the_job() -> None:
    bench = Bench(9, 3, until=True)
    first, second, third = bench.turn()
    answer(second, [3, 4], Status.HIT)
    answer(third, [6], cut=True)
    first.status = Status.CANCELLED
    first.end_cancelled()
    assert bench.turn() == []
    assert bench.job.hit is bench.job.futures[4]
    assert bench.job.counts() == Counts(0, 0, 3, 0, 6)
    assert bench.job.futures[7].elapsed_s == 0.1  # it was stopped
    assert bench.job.futures[8].elapsed_s == 0.0  # it never ran


def test_the_first_error_ends_the_job_with_what_was_not_sent() -> None:
    size = AdaptiveSize(1)
    bench = Bench(100, size, stop=True)
    first, second, third = bench.turn()
    answer(first)
    fail(second, Status.ERROR, ValueError("no"))
    bench.turn()
    assert bench.client_thread.cancelled == [None]
    third.end_cancelled()
    assert bench.turn() == []
    assert bench.client_thread.is_closed
    assert bench.job.counts() == Counts(0, 0, 1, 1, 98)


def test_one_item_can_be_cancelled_and_the_others_run() -> None:
    bench = Bench(6, 3)
    first, second = bench.turn()
    assert bench.job.futures[1].cancel()
    bench.turn()
    assert bench.client_thread.cancelled == [[first.index]]
    first.end_cancelled()
    (again,) = sent = bench.turn()
    assert items_of(sent) == [[0, 2]]
    answer(again)
    answer(second)
    bench.turn()
    assert bench.job.counts() == Counts(0, 0, 5, 0, 1)


def test_items_of_a_batch_that_runs_cannot_be_cancelled_one_by_one() -> None:
    bench = Bench(3, 3)
    (batch,) = bench.turn()
    batch.note_running("one")
    assert [future.cancel() for future in bench.job.futures] == [False] * 3
    assert bench.job.counts() == Counts(2, 1, 0, 0, 0)  # one runs at a time
    bench.job.cancel()
    bench.turn()
    assert bench.client_thread.cancelled == [None]
    answer(batch, [0], cut=True)
    bench.turn()
    assert bench.job.counts() == Counts(0, 0, 1, 0, 2)


def test_an_item_that_stops_its_batch_by_itself_runs_again_alone() -> None:
    bench = Bench(4, 4)
    (batch,) = bench.turn()
    answer(batch, [0], cut=True)
    alone, rest = bench.turn()
    assert items_of([alone, rest]) == [[1], [2, 3]]
    fail(alone, Status.ERROR, KeyboardInterrupt("its own"))
    answer(rest)
    bench.turn()
    assert bench.job.counts() == Counts(0, 0, 3, 1, 0)


def test_items_that_were_cancelled_before_they_were_sent_are_left_out() -> None:
    bench = Bench(4, 2)
    for index in (0, 2, 3):
        bench.job.futures[index].cancel()
    (batch,) = sent = bench.turn()
    assert items_of(sent) == [[1]]
    answer(batch)
    bench.turn()
    assert bench.client_thread.is_closed


def test_when_the_cluster_is_gone_every_item_says_so() -> None:
    bench = Bench(50, AdaptiveSize(2))
    sent = bench.turn()
    for batch in sent:
        batch.end(None, MasterLost("gone"))
    bench.batches.fail(MasterLost("gone"))
    assert bench.turn() == []
    assert all(isinstance(future.exception(0), MasterLost) for future in bench.job.futures)
    assert len(bench.ended()) == len(set(bench.ended())) == 50


def test_an_application_that_leaves_and_cancels_sends_nothing_more() -> None:
    bench = Bench(4, AdaptiveSize(1))
    sent = bench.turn()
    bench.batches.leave(cancel=True)
    for batch in sent:
        answer(batch)
    assert bench.turn() == []
    assert bench.job.counts() == Counts(0, 0, len(sent), 0, 4 - len(sent))


def report(batch: BatchHandle, position: int, answers: Sequence[Any], attempt: int = 1) -> None:
    """Report the ends of items of a batch that still runs."""
    batch.slave = "one"
    body = pickle.dumps((columns(answers), [0.2] * len(answers)))
    batch.add_notes([notes.ItemEnded(position, 7, body)], attempt)


def test_items_of_a_slow_batch_end_while_it_goes_on() -> None:
    bench = Bench(6, 6, retries=1)
    (batch,) = bench.turn()
    report(batch, 0, [0, failure()])
    report(batch, 2, [2])
    assert bench.ended() == [0, 2]
    assert bench.job.counts() == Counts(3, 1, 2, 0, 0)
    (again,) = sent = bench.turn()
    assert items_of(sent) == [[1]]
    report(batch, 0, [0, 1, 2, 3], attempt=2)  # its worker has died, and it runs again
    assert bench.ended() == [0, 2, 3]
    report(batch, 5, [5], attempt=2)  # what was between has been lost
    answer(batch)
    answer(again)
    bench.turn()
    assert bench.job.results(0) == [0, 1, 2, 3, 4, 5]
    assert [future.attempt for future in bench.job.futures] == [1, 2, 1, 2, 1, 1]
    assert bench.ended() == [0, 2, 3, 4, 5, 1]


def test_a_note_of_a_batch_that_cannot_be_read_is_left_out() -> None:
    bench = Bench(3, 3)
    (batch,) = bench.turn()
    batch.add_notes([notes.ItemEnded(0, 7, b"nonsense")], 1)
    answer(batch)
    bench.turn()
    assert bench.job.results(0) == [0, 1, 2]


def test_items_whose_end_was_reported_do_not_run_again() -> None:
    for status in (Status.TIMEOUT, Status.CANCELLED):
        bench = Bench(4, 4)
        (batch,) = bench.turn()
        report(batch, 0, [0, 1])
        if status is Status.TIMEOUT:
            fail(batch, status, TaskTimeout("too long"))
            assert items_of(bench.turn()) == [[2], [3]]
        else:
            batch.end_cancelled()
            assert bench.turn() == []
            assert bench.job.counts() == Counts(0, 0, 2, 0, 2)


def test_short_items_are_sent_in_larger_and_larger_batches() -> None:
    bench = Bench(1000, AdaptiveSize(1))
    sizes, sent = [], bench.turn()
    while sent:
        for batch in sent:
            sizes.append(len(batch.items))
            answer(batch, elapsed_s=1e-6)
        sent = bench.turn()
    assert bench.job.results(0) == list(range(1000))
    assert sizes[0] == 1
    assert len(sizes) < 100


def test_prints_and_notes_come_from_the_item_that_has_written_them() -> None:
    bench = Bench(6, 3)
    _, batch = bench.turn()
    secret = bench.batches.secret
    assert batch.split_output(f"zero{job_batches.mark(secret, 2)}two", 1, 1) == [(3, "zero"), (5, "two")]
    assert batch.split_output("three", 2, 1) == [(3, "three")]  # each stream by itself
    assert batch.split_output(f"{job_batches.mark(secret, 99)}late", 1, 1) == [(5, "late")]
    assert batch.split_output("again", 1, 2) == [(3, "again")]  # each attempt by itself
    batch.add_notes([notes.Item(1), notes.ProgressReport(0.5, "half"), notes.Display({"text/plain": "x"})], 1)
    assert [note.index for note in bench.job.take_notes()] == [4]
    assert [shown.index for shown in bench.job.take_output()] == [4]
