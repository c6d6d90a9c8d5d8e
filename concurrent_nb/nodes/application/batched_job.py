"""A job whose tasks travel in batches: packs items into batch tasks, distributes batch results to the items' futures.

    caller's thread: items packed, a future for each     client thread: cut --batches--> client core
    client thread: batch_ended --values, errors--> futures of items

On the cluster a batch is one task; here each item has a future, and ends once. Items that come back without an end are
sent again unless the job is over: those behind an item that took long, together; all items of a batch whose worker died
or which ran too long, one by one, so that only the item that is to blame ends with the error. So items may run more
than once, as may any task whose worker dies.
"""

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from concurrent_nb import foreign
from concurrent_nb.errors import ClusterError, ConfigurationError, StackUnavailable, TooLarge
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.chunking import (
    BACKLOG,
    CHUNK_BYTES,
    CHUNKS_PER_TURN,
    RERUN_STATUSES,
    TIMED_STATUSES,
    ChunkPacker,
    chunk_payload,
    count_fitting,
    pack_item,
)
from concurrent_nb.nodes.application.client_tasks import TaskEntry, TaskLimits
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.payload import with_inputs_of
from concurrent_nb.nodes.application.results import open_item
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import JobOptions, checked_needs
from concurrent_nb.outcome import RETRIABLE, Status
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.call_chunks import BatchTerms, ChunkResults, FailedItem
from concurrent_nb.shipping.runtime.job_batches import MarkReader
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small
from concurrent_nb.tasks.chunk_size import AdaptiveSize

log = foreign.Log(__name__)

_OK: Final = Status.OK  # a global is read faster than a member of an enumeration
#: part of an item's time limit after which no other item of the batch is started
SHARE_OF_TIMEOUT: Final = 0.5


class BatchHandle(TaskHandle):
    """The task that items travel as. It passes what the cluster reports on to the items' futures."""

    def __init__(self, batches: "BatchedJob", index: int, items: Sequence[TaskFuture]) -> None:
        self.job_id = batches.record.id
        self.index = index
        self.job = batches.job
        self.items = items
        self.ended_count = 0  #: items, the first ones, of which it is known how they ended
        self.recalled = False  #: it was cancelled because one of its items was
        self._batches = batches
        self._readers: dict[tuple[int, int], MarkReader] = {}  # by attempt and stream
        self._position = 0  # of the item whose notes are received

    def cancel(self) -> bool:
        """Cancel the items, unless they run. Return whether all of them are cancelled."""
        cancelled = [item.cancel() for item in self.items]
        return all(cancelled)

    def note_running(self, slave: str, begins: bool = True) -> None:
        """Note that the first item runs, and that the others cannot be cancelled by themselves any more."""
        self.slave = slave
        for item in self.items[self.ended_count :]:
            item.note_running(slave, begins and item is self.items[self.ended_count])

    def split_output(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Return which item has written which part of `text`."""
        reader = self._readers.get((attempt, stream))
        if reader is None:
            reader = self._readers[attempt, stream] = MarkReader(self._batches.secret)
        return [(self._item_at(position).index, part) for position, part in reader.feed(text)]

    def add_notes(self, received: Sequence[notes.Note], attempt: int) -> None:
        """Pass on what the items have reported, published and displayed, and which have ended."""
        for note in received:
            if isinstance(note, notes.Item):
                self._position = note.position
            elif isinstance(note, notes.ItemEnded):
                self.attempt, self.worker = attempt, note.worker
                self._batches.items_ended(self, note)
            else:
                self._item_at(self._position).add_notes([note], attempt)

    def end(self, value: Any, error: BaseException | None) -> bool:
        """End the items."""
        self._batches.batch_ended(self, value, error)
        return True

    def end_cancelled(self) -> None:
        """Report that nothing of the batch runs any more."""
        self._batches.batch_cancelled(self)

    def _item_at(self, position: int) -> TaskFuture:
        return self.items[min(max(position, 0), len(self.items) - 1)]


class BatchedJob:
    """The items of one job.

    Args:
        size: items per batch, or what decides on it.
        options: of the job; limits and needs are those of each item.

    Raises NotPicklable if the function or an item cannot travel.
    """

    def __init__(
        self,
        packer: ChunkPacker,
        client_thread: ClientThread,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        size: int | AdaptiveSize,
        options: JobOptions,
    ) -> None:
        # The cluster does not stop a job at an error: a batch has one of many tasks'.
        self.record = replace(options, stop_on_error=False).new_record()
        self.job = Job(self.record.id, options.name, self.cancel, options.watched, options.prints)
        self.job._is_batched = True
        self.job._index_at_master = self._index_at_master
        self.secret = os.urandom(8).hex()
        self.client_thread = client_thread
        self._function = packer.function_payload(function, spawns=True)
        self._needs = self._function.needs if options.needs is None else checked_needs(options.needs)
        if self._needs is not None and self._needs.kind == "thread":
            # Output of the items is separated by marks in the process's streams, which threads share.
            raise ConfigurationError("tasks in threads do not travel in batches: leave out batch, or the needs")
        self._size = size
        self._limits = limits = options.limits
        self._stop_on_error = options.stop_on_error
        most_s = None if limits.timeout_s is None else limits.timeout_s * SHARE_OF_TIMEOUT
        self._terms = BatchTerms(options.until, options.stop_on_error and not limits.retries, most_s, self.secret)
        self._room_bytes = CHUNK_BYTES if isinstance(size, AdaptiveSize) else math.inf
        # None once an item has ended.
        self._items: list[Any] = [
            call if call and all(map(is_small, call)) else pack_item(packer, function, call, number)
            for number, call in enumerate(calls)
        ]
        self.job.futures.extend(
            [TaskFuture(self.record.id, index, self.cancel, self.job) for index in range(len(calls))]
        )
        # For the client thread:
        self._next_item = 0  # the first item that has not been sent
        self._resend: deque[Sequence[TaskFuture]] = deque()  # items to send again, before those
        self._used_indexes: set[int] = set()  # of tasks in the cluster; each may be used once
        self._spare_indexes = itertools.count(len(calls))
        self._batch_of: dict[int, BatchHandle] = {}  # by index of the item
        self._failures: dict[int, int] = {}  # attempts that have failed in batches, of items that run again
        self._workers_seen: set[tuple[str, int]] = set()  # by slave and pid: those that have answered
        self._unanswered = 0
        self._is_over = False  # nothing more is sent

    def start(self) -> Job:
        """Send the first batches; return the job. Raises RuntimeError after a shutdown, MasterLost."""
        self.client_thread.open_source(self)
        self.client_thread.call_soon(self.cut)
        return self.job

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Cancel items, or all (None), running ones too. For any thread."""
        self.client_thread.call_soon(lambda: self._stop() if indexes is None else self._recall(indexes))

    def _index_at_master(self, index: int) -> int:
        """Return the index of the batch that has an item. For any thread."""
        batch = self._batch_of.get(index)
        if batch is None:
            raise StackUnavailable(f"item {index} does not run: it waits in this application, or has ended")
        return batch.index

    # --------------------------------------------------------------------------------------------- in the client thread

    def cut(self) -> None:
        """Send the batches that may be sent now."""
        entries: list[TaskEntry[TaskHandle]] = []
        while len(entries) < CHUNKS_PER_TURN and self._resend:
            if resend := [item for item in self._resend.popleft() if not item.done()]:
                entries.append(self._entry(resend))
        while len(entries) < CHUNKS_PER_TURN and (items := self._next_items()):
            entries.append(self._entry(items))
        self.client_thread.add(entries)
        if len(entries) >= CHUNKS_PER_TURN:
            self.client_thread.call_soon(self.cut)
        elif not self._unanswered:
            self.client_thread.close_source(self)

    def leave(self, cancel: bool) -> None:
        """Continue, or, with `cancel`, cancel what has not been sent, because the application leaves."""
        if cancel:
            self._end_unsent()
            self.client_thread.call_soon(self.cut)

    def fail(self, error: ClusterError) -> None:
        """End what has not been sent with an error: the cluster is gone."""
        self._is_over = True
        for item in self._take_unsent():
            item.end(None, error)

    def items_ended(self, batch: BatchHandle, note: notes.ItemEnded) -> None:
        """End items of a batch that still runs."""
        try:
            results, seconds = note.read()
            answers = ChunkResults(*results).rows()
        except Exception as error:  # noqa: BLE001  (a task may damage what its worker sends; the end of the batch reports all)
            log.warning("a note of task %s cannot be read: %s", batch.task, error)
            return
        self._end_items(batch, answers, seconds, note.position)
        if batch.ended_count < len(batch.items):
            batch.items[batch.ended_count].note_running(batch.slave)
        if self._resend:
            self.client_thread.call_soon(self.cut)
        self._stop_if_it_ends_the_job(batch)

    def batch_ended(self, batch: BatchHandle, value: Any, error: BaseException | None) -> None:
        """End the items of a batch: `value` is that of `runtime.job_batches.run`; of one item, its own."""
        self._batch_is_over(batch)
        items = batch.items[batch.ended_count :]
        if len(batch.items) == 1:
            items[0].usage = batch.usage
            self._end(items[0], batch, batch.status, value, error, batch.elapsed_s)
            self._measured(batch, 1)
        elif error is None:
            results, seconds, is_cut = value
            answers = ChunkResults(*results).rows()
            self._measured(batch, len(answers))
            self._end_items(batch, answers, seconds)
            self._resend_rest(batch, seconds[len(answers) :] if is_cut else [])
        elif (batch.status in RERUN_STATUSES or type(error) is TooLarge) and not self._is_over:
            self._resend.extend([item] for item in items)
        else:
            for item in items:
                self._end(item, batch, batch.status, None, error, 0.0)
        self._stop_if_it_ends_the_job(batch)

    def batch_cancelled(self, batch: BatchHandle) -> None:
        """Take the items back of a batch that was cancelled, or one of whose items was."""
        self._batch_is_over(batch)
        if not batch.recalled:
            self._end_unsent()
        self._resend_rest(batch, [])

    def _batch_is_over(self, batch: BatchHandle) -> None:
        """Note that nothing more will be reported of a batch."""
        self._unanswered -= 1
        for item in batch.items:
            if self._batch_of.get(item.index) is batch:
                del self._batch_of[item.index]
        self.client_thread.call_soon(self.cut)  # later, because more batches may have ended

    def _end_items(self, batch: BatchHandle, answers: list[Any], seconds: list[float], at: int = 0) -> None:
        """End items, from the one at this position on, unless they have ended.

        They may have: a batch that runs again, because its worker has died, starts with its first item.
        """
        known = batch.ended_count - at
        if known < 0 or known >= len(answers):
            return
        batch.ended_count = at + len(answers)
        items, slave, worker, attempt = batch.items[at:], batch.slave, batch.worker, batch.attempt
        last = len(answers) - 1 if batch.status is Status.HIT else -1
        done: list[TaskFuture] = []
        for number in range(known, len(answers)):
            item, answer = items[number], answers[number]
            status, error = _OK, None
            if type(answer) is FailedItem and self._may_retry(item, status := Status(answer.status)):
                self._failures[item.index] = self._failures.get(item.index, 0) + 1
                self._resend.append([item])
                continue
            item.status = Status.HIT if number == last else status
            item.slave, item.worker, item.elapsed_s = slave, worker, seconds[number]
            item.attempt = attempt + self._failures.get(item.index, 0) if self._failures else attempt
            self._items[item.index] = None
            if type(answer) not in SMALL_ATOMS:
                answer, error = open_item(item, answer)
                if error is not None and self.client_thread.present is not None:
                    self.client_thread.present(item, error)
            if item.set_end(answer, error):
                done.append(item)
        self.job._tasks_ended(done)  # together: threads that wait for the job wake once

    def _resend_rest(self, batch: BatchHandle, stopped_s: Sequence[float]) -> None:
        """Send the items that have not ended again, or end them if the job is over.

        Args:
            stopped_s: seconds for which the first of them ran, if it was stopped.
        """
        rest = batch.items[batch.ended_count :]
        if not self._is_over:
            # An item that was stopped took too long, or is at fault.
            self._resend.extend((rest[:1], rest[1:]) if stopped_s else (rest,))
            return
        if stopped_s and rest:
            first = rest[0]
            first.slave, first.worker, first.attempt = batch.slave, batch.worker, batch.attempt
            first.elapsed_s = stopped_s[0]
        self._cancel(rest)

    def _may_retry(self, item: TaskFuture, status: Status) -> bool:
        return status in RETRIABLE and self._failures.get(item.index, 0) < self._limits.retries and not self._is_over

    def _end(
        self,
        item: TaskFuture,
        batch: BatchHandle,
        status: Status | None,
        value: Any,
        error: BaseException | None,
        took_s: float,
    ) -> None:
        item.status, item.slave, item.worker, item.elapsed_s = status, batch.slave, batch.worker, took_s
        item.attempt = batch.attempt + self._failures.get(item.index, 0)
        self._items[item.index] = None
        item.set_outcome(value, error, self.client_thread.present)

    def _cancel(self, items: Sequence[TaskFuture]) -> None:
        unfinished = [item for item in items if not item.done()]
        for item in unfinished:
            item.status = Status.CANCELLED
        self.job._tasks_ended([item for item in unfinished if item.set_cancelled()])

    def _stop_if_it_ends_the_job(self, batch: BatchHandle) -> None:
        is_hit = batch.status is Status.HIT and self.record.until
        if not self._is_over and (is_hit or (self._stop_on_error and self.job.first_error is not None)):
            self._stop()

    def _stop(self) -> None:
        """End the job: cancel what was sent, and what was not."""
        self.client_thread.cancel(self.record.id, None)
        self._end_unsent()
        self.client_thread.call_soon(self.cut)

    def _end_unsent(self) -> None:
        self._is_over = True
        self._cancel(self._take_unsent())

    def _take_unsent(self) -> list[TaskFuture]:
        unsent = [*itertools.chain.from_iterable(self._resend), *self.job.futures[self._next_item :]]
        self._resend.clear()
        self._next_item = len(self.job.futures)
        return unsent

    def _recall(self, indexes: Sequence[int]) -> None:
        """Cancel the batches of items that were cancelled; their other items will be sent again."""
        recalled = []
        for index in indexes:
            batch = self._batch_of.get(index)
            if batch is not None and not batch.recalled:
                batch.recalled = True
                recalled.append(batch.index)
        if recalled:
            self.client_thread.cancel(self.record.id, recalled)
        self.client_thread.call_soon(self.cut)

    def _measured(self, batch: BatchHandle, items: int) -> None:
        if isinstance(self._size, AdaptiveSize) and items and batch.status in TIMED_STATUSES:
            self._workers_seen.add((batch.slave, batch.worker))
            self._size.slots = max(self._size.slots, len(self._workers_seen))  # some have been added since the count
            self._size.measured(items, batch.elapsed_s)

    def _next_items(self) -> Sequence[TaskFuture]:
        """Return the items of the next batch that is sent for the first time."""
        futures, at = self.job.futures, self._next_item
        if len(self.record.waiting) >= BACKLOG:
            return ()  # the next end of a task calls again
        if not isinstance(self._size, AdaptiveSize):
            size = self._size
        elif at < len(futures) and self._unanswered < self._size.in_flight:
            size = self._size.next_size(len(futures) - at)
        else:
            return ()
        items: list[TaskFuture] = []
        while at < len(futures) and len(items) < size:
            if not futures[at].done():  # it may be cancelled
                items.append(futures[at])
            at += 1
        if items and (count := count_fitting([self._items[item.index] for item in items], self._room_bytes)) < len(
            items
        ):
            at = items[count].index
            del items[count:]
        self._next_item = at
        return items

    def _entry(self, items: Sequence[TaskFuture]) -> TaskEntry[TaskHandle]:
        """Make the task of a batch."""
        # The index of its first item if that is free: then messages about a single item have its own number.
        index = items[0].index if items[0].index not in self._used_indexes else next(self._spare_indexes)
        self._used_indexes.add(index)
        numbers = _numbers([item.index for item in items])
        payload = chunk_payload([self._items[number] for number in numbers], numbers, self._terms)
        payload = with_inputs_of(self._function, payload, self.record)
        batch = BatchHandle(self, index, items)
        self._unanswered += 1
        for item in items:
            self._batch_of[item.index] = batch
        # The cluster retries a single item; items that have failed in a batch are sent again from here.
        retries = self._limits.retries - self._failures.get(items[0].index, 0) if len(items) == 1 else 0
        limits = self._limits if retries == self._limits.retries else TaskLimits(self._limits.timeout_s, retries)
        return TaskEntry(self.record, index, self._function, payload, batch, limits, self._needs)


def _numbers(indexes: list[int]) -> Sequence[int]:
    """Return consecutive numbers as a range, which is pickled in a few bytes."""
    whole = range(indexes[0], indexes[-1] + 1)
    return whole if len(whole) == len(indexes) else indexes
