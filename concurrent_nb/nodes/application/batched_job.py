"""A job whose tasks travel many at a time: its items on their way into batches, its batches' answers on their way home.

    caller's thread: items packed, a future for each     courier's thread: cut --batches--> ledger
    courier's thread: ended --values, errors--> futures of items

On the cluster a batch is one task; here each item has a future, and ends once. What comes back without an end goes out
again unless the job is over: items behind one that took long, as they are, and all of a batch whose worker died or
which ran too long, one by one, so that the item that is to blame ends and no other. So items may run more than once, as
may any task whose worker dies.
"""

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb import foreign
from concurrent_nb.errors import ClusterError, ConfigurationError, TooLarge
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.chunking import (
    AGAIN,
    BACKLOG,
    CHUNK_BYTES,
    CUTS_PER_TURN,
    MEASURED,
    ChunkPacker,
    body_of,
    fitting,
    packed,
)
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.core import ClientJob, TaskEntry
from concurrent_nb.nodes.application.futures import Presenter, TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.results import open_item
from concurrent_nb.outcome import RETRIABLE, Status
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.call_chunks import BatchTerms, ChunkResults, FailedItem
from concurrent_nb.shipping.runtime.job_batches import MarkReader
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small
from concurrent_nb.tasks.chunk_size import AdaptiveSize
from concurrent_nb.wire.messages import Needs

log = foreign.Log(__name__)

_OK: Final = Status.OK  # a name in a module is found faster than a member of an enumeration
#: of the time that an item may run; after so much of it no other item of the batch is begun
SHARE_OF_TIMEOUT: Final = 0.5


class BatchHandle(TaskFuture):
    """The task that items travel as. What the cluster says of it is said of them."""

    def __init__(self, batches: "BatchedJob", index: int, items: Sequence[TaskFuture]) -> None:
        super().__init__(batches.record.id, index, batches.cancel, batches.job)
        self.items = items
        self.heard = 0  #: of so many items, the first ones, it is known how they ended
        self.recalled = False  #: its end was asked for, because of an item that was cancelled
        self._batches = batches
        self._readers: dict[tuple[int, int], MarkReader] = {}  # by attempt and stream
        self._position = 0  # of the item whose notes come

    def cancel(self) -> bool:
        """Cancel the items, unless they run. Return whether they are cancelled."""
        cancelled = [item.cancel() for item in self.items]
        return all(cancelled)

    def note_running(self, slave: str, begins: bool = True) -> None:
        """Note that the first item runs, and that no other can be cancelled by itself any more."""
        self.slave = slave
        for item in self.items[self.heard :]:
            item.note_running(slave, begins and item is self.items[self.heard])

    def pieces(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Say which item has written what."""
        reader = self._readers.get((attempt, stream))
        if reader is None:
            reader = self._readers[attempt, stream] = MarkReader(self._batches.secret)
        return [(self._item_at(position).index, part) for position, part in reader.feed(text)]

    def take_notes(self, said: Sequence[notes.Note], attempt: int) -> None:
        """Note what the items have said, and which have ended."""
        for note in said:
            if isinstance(note, notes.Item):
                self._position = note.position
            elif isinstance(note, notes.ItemEnded):
                self.attempt, self.worker = attempt, note.worker
                self._batches.told(self, note)
            else:
                self._item_at(self._position).take_notes([note], attempt)

    def answer(self, value: Any, error: BaseException | None, present: Presenter | None) -> None:
        """Hand the answers to the items."""
        self.end(value, error)

    def end(self, value: Any, error: BaseException | None) -> bool:
        """End the items."""
        self._batches.ended(self, value, error)
        return True

    def end_cancelled(self) -> None:
        """Take the cluster's word that nothing of it runs."""
        self._batches.cancelled(self)

    def _item_at(self, position: int) -> TaskFuture:
        return self.items[min(max(position, 0), len(self.items) - 1)]


class BatchedJob:
    """The items of one job.

    Args:
        size: items per batch, or what decides on it.
        limits: timeout_s and retries, of each item.
        stop_on_error: an item that fails ends the job.

    Raises NotPicklable if the function or an item cannot travel.
    """

    def __init__(
        self,
        packer: ChunkPacker,
        courier: ClientThread,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        record: ClientJob[TaskFuture],
        size: int | AdaptiveSize,
        *,
        limits: tuple[float | None, int],
        stop_on_error: bool,
        needs: Needs | None,
        watched: bool,
        prints: bool,
    ) -> None:
        self.record = record
        self.job = Job(record.id, record.name, self.cancel, watched, prints)
        self.secret = os.urandom(8).hex()
        self._courier = courier
        self._shipment = packer._ship(function, spawns=True)
        self._needs = self._shipment.needs if needs is None else needs
        if self._needs is not None and self._needs.kind == "thread":
            # Tasks of a batch are told apart by the process's standard streams, which threads share.
            raise ConfigurationError("tasks in threads do not travel in batches: leave out batch, or the needs")
        self._size = size
        self._timeout_s, self._retries = limits
        self._stop_on_error = stop_on_error
        most_s = None if self._timeout_s is None else self._timeout_s * SHARE_OF_TIMEOUT
        self._terms = BatchTerms(record.until, stop_on_error and not self._retries, most_s, self.secret)
        self._room_bytes = CHUNK_BYTES if isinstance(size, AdaptiveSize) else math.inf
        # None once an item has ended.
        self._items: list[Any] = [
            call if call and all(map(is_small, call)) else packed(packer, function, call, number)
            for number, call in enumerate(calls)
        ]
        self.job.futures.extend([TaskFuture(record.id, index, self.cancel, self.job) for index in range(len(calls))])
        # The courier's thread:
        self._next = 0  # the first item that was not sent yet
        self._again: deque[Sequence[TaskFuture]] = deque()  # to be sent before those
        self._used: set[int] = set()  # names of tasks in the cluster, which no other task may have
        self._more_names = itertools.count(len(calls))
        self._carried: dict[int, BatchHandle] = {}  # by index of the item
        self._failures: dict[int, int] = {}  # attempts that have failed in batches, of items that run again
        self._workers: set[tuple[str, int]] = set()  # by slave and pid: those that have answered
        self._unanswered = 0
        self._is_over = False  # nothing more is sent

    def start(self) -> Job:
        """Let the items go; return their job. Raises RuntimeError after a shutdown, MasterLost."""
        self._courier.open_source(self)
        self._courier.tell(self.cut)
        return self.job

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Ask for the end of items, or of all (None), running ones too. For any thread."""
        self._courier.tell(lambda: self._stop() if indexes is None else self._withdraw(indexes))

    # ------------------------------------------------------------------------------------------- the courier's thread

    def cut(self) -> None:
        """Send what may be sent now."""
        entries: list[TaskEntry[TaskFuture]] = []
        while len(entries) < CUTS_PER_TURN and self._again:
            if again := [item for item in self._again.popleft() if not item.done()]:
                entries.append(self._entry(again))
        while len(entries) < CUTS_PER_TURN and (items := self._next_items()):
            entries.append(self._entry(items))
        self._courier.add(entries)
        if len(entries) >= CUTS_PER_TURN:
            self._courier.tell(self.cut)
        elif not self._unanswered:
            self._courier.close_source(self)

    def leave(self, cancel: bool) -> None:
        """Go on, or, with `cancel`, cancel what has not been sent, because the application leaves."""
        if cancel:
            self._end_unsent()
            self._courier.tell(self.cut)

    def fail(self, error: ClusterError) -> None:
        """End what has not been sent with an error: the cluster is gone."""
        self._is_over = True
        for item in self._take_unsent():
            item.end(None, error)

    def told(self, batch: BatchHandle, note: notes.ItemEnded) -> None:
        """Give items of a batch that goes on their ends."""
        try:
            results, seconds = note.read()
            answers = ChunkResults(*results).rows()
        except Exception as error:  # noqa: BLE001  (a task may have damaged what its worker says; the end has it all)
            log.warning("task %s told what cannot be read: %s", batch.task, error)
            return
        self._end_some(batch, answers, seconds, note.position)
        if batch.heard < len(batch.items):
            batch.items[batch.heard].note_running(batch.slave)
        if self._again:
            self._courier.tell(self.cut)
        self._stop_if_it_ends_the_job(batch)

    def ended(self, batch: BatchHandle, value: Any, error: BaseException | None) -> None:
        """Give the items of a batch their ends: `value` is that of `runtime.job_batches.run`; of one item, its own."""
        self._answered(batch)
        items = batch.items[batch.heard :]
        if len(batch.items) == 1:
            self._end(items[0], batch, batch.status, value, error, batch.elapsed_s)
            self._measured(batch, 1)
        elif error is None:
            results, seconds, is_cut = value
            answers = ChunkResults(*results).rows()
            self._measured(batch, len(answers))
            self._end_some(batch, answers, seconds)
            self._go_on_with(batch, seconds[len(answers) :] if is_cut else [])
        elif (batch.status in AGAIN or type(error) is TooLarge) and not self._is_over:
            self._again.extend([item] for item in items)
        else:
            for item in items:
                self._end(item, batch, batch.status, None, error, 0.0)
        self._stop_if_it_ends_the_job(batch)

    def cancelled(self, batch: BatchHandle) -> None:
        """Take a batch back of which nothing runs: it was cancelled, or one of its items was."""
        self._answered(batch)
        if not batch.recalled:
            self._end_unsent()
        self._go_on_with(batch, [])

    def _answered(self, batch: BatchHandle) -> None:
        """Note that nothing more will come of a batch."""
        self._unanswered -= 1
        for item in batch.items:
            if self._carried.get(item.index) is batch:
                del self._carried[item.index]
        self._courier.tell(self.cut)  # not at once: more batches may have ended

    def _end_some(self, batch: BatchHandle, answers: list[Any], seconds: list[float], at: int = 0) -> None:
        """Give items their ends, from the one at this position on, unless they have them.

        They may: a batch that runs again, because its worker has died, begins at its beginning.
        """
        known = batch.heard - at
        if known < 0 or known >= len(answers):
            return
        batch.heard = at + len(answers)
        items, slave, worker, attempt = batch.items[at:], batch.slave, batch.worker, batch.attempt
        last = len(answers) - 1 if batch.status is Status.HIT else -1
        done: list[TaskFuture] = []
        for number in range(known, len(answers)):
            item, answer = items[number], answers[number]
            status, error = _OK, None
            if type(answer) is FailedItem and self._may_retry(item, status := Status(answer.status)):
                self._failures[item.index] = self._failures.get(item.index, 0) + 1
                self._again.append([item])
                continue
            item.status = Status.HIT if number == last else status
            item.slave, item.worker, item.elapsed_s = slave, worker, seconds[number]
            item.attempt = attempt + self._failures.get(item.index, 0) if self._failures else attempt
            self._items[item.index] = None
            if type(answer) not in SMALL_ATOMS:
                answer, error = open_item(item, answer)
                if error is not None and self._courier.present is not None:
                    self._courier.present(item, error)
            if item.set_end(answer, error):
                done.append(item)
        self.job._tasks_ended(done)  # at once: whoever waits for the job is woken once

    def _go_on_with(self, batch: BatchHandle, stopped_s: Sequence[float]) -> None:
        """Send what has not ended again, or end it if the job is over.

        Args:
            stopped_s: seconds for which the first of that ran, if it was stopped.
        """
        rest = batch.items[batch.heard :]
        if not self._is_over:
            # What was stopped was in the way, or is at fault.
            self._again.extend((rest[:1], rest[1:]) if stopped_s else (rest,))
            return
        if stopped_s and rest:
            first = rest[0]
            first.slave, first.worker, first.attempt = batch.slave, batch.worker, batch.attempt
            first.elapsed_s = stopped_s[0]
        self._cancel(rest)

    def _may_retry(self, item: TaskFuture, status: Status) -> bool:
        return status in RETRIABLE and self._failures.get(item.index, 0) < self._retries and not self._is_over

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
        item.answer(value, error, self._courier.present)

    def _cancel(self, items: Sequence[TaskFuture]) -> None:
        waited = [item for item in items if not item.done()]
        for item in waited:
            item.status = Status.CANCELLED
        self.job._tasks_ended([item for item in waited if item.set_cancelled()])

    def _stop_if_it_ends_the_job(self, batch: BatchHandle) -> None:
        is_hit = batch.status is Status.HIT and self.record.until
        if not self._is_over and (is_hit or (self._stop_on_error and self.job.first_error is not None)):
            self._stop()

    def _stop(self) -> None:
        """End the job: cancel what was sent, and what was not."""
        self._courier.cancel(self.record.id, None)
        self._end_unsent()
        self._courier.tell(self.cut)

    def _end_unsent(self) -> None:
        self._is_over = True
        self._cancel(self._take_unsent())

    def _take_unsent(self) -> list[TaskFuture]:
        unsent = [*itertools.chain.from_iterable(self._again), *self.job.futures[self._next :]]
        self._again.clear()
        self._next = len(self.job.futures)
        return unsent

    def _withdraw(self, indexes: Sequence[int]) -> None:
        """Call batches back, some items of which are cancelled; the others will be sent again."""
        recalled = []
        for index in indexes:
            batch = self._carried.get(index)
            if batch is not None and not batch.recalled:
                batch.recalled = True
                recalled.append(batch.index)
        if recalled:
            self._courier.cancel(self.record.id, recalled)
        self._courier.tell(self.cut)

    def _measured(self, batch: BatchHandle, items: int) -> None:
        if isinstance(self._size, AdaptiveSize) and items and batch.status in MEASURED:
            self._workers.add((batch.slave, batch.worker))
            self._size.slots = max(self._size.slots, len(self._workers))  # some have come since it was asked
            self._size.measured(items, batch.elapsed_s)

    def _next_items(self) -> Sequence[TaskFuture]:
        """Give the items that are to be sent now for the first time, together."""
        futures, at = self.job.futures, self._next
        if len(self.record.waiting) >= BACKLOG:
            return ()  # the next that ends asks again
        if not isinstance(self._size, AdaptiveSize):
            size = self._size
        elif at < len(futures) and self._unanswered < self._size.on_the_way:
            size = self._size.next_size(len(futures) - at)
        else:
            return ()
        items: list[TaskFuture] = []
        while at < len(futures) and len(items) < size:
            if not futures[at].done():  # else it was cancelled
                items.append(futures[at])
            at += 1
        if items and (count := fitting([self._items[item.index] for item in items], self._room_bytes)) < len(items):
            at = items[count].index
            del items[count:]
        self._next = at
        return items

    def _entry(self, items: Sequence[TaskFuture]) -> TaskEntry[TaskFuture]:
        """Make the task of a batch."""
        # Called as its first item if that is possible: messages about one that is alone then tell its own number.
        index = items[0].index if items[0].index not in self._used else next(self._more_names)
        self._used.add(index)
        numbers = _numbers([item.index for item in items])
        kind, body, sizes, buffers, lease = body_of([self._items[number] for number in numbers], numbers, self._terms)
        batch = BatchHandle(self, index, items)
        self._unanswered += 1
        for item in items:
            self._carried[item.index] = batch
        # The cluster runs a failed task again if that is one item; what has failed in a batch is sent again from here.
        retries = self._retries - self._failures.get(items[0].index, 0) if len(items) == 1 else 0
        return TaskEntry(
            self.record,
            index,
            self._shipment,
            body,
            sizes,
            buffers,
            self._timeout_s,
            retries,
            batch,
            lease=lease,
            needs=self._needs,
            kind=kind,
        )


def _numbers(indexes: list[int]) -> Sequence[int]:
    """Give numbers as a range if they are one: it is pickled in a few bytes."""
    whole = range(indexes[0], indexes[-1] + 1)
    return whole if len(whole) == len(indexes) else indexes
