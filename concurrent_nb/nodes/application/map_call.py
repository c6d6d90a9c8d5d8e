"""One `map`: packs items into chunks, sends chunks as tasks, returns results in order.

    reader's thread: fill --items--> waiting     client thread: cut --chunks--> client core
    reader's thread: results <------------------ client thread: _ended

The user's code runs in the reader's thread: the iterables, the pickling of arguments, the unpickling of results. The
client thread only puts together what is pickled, or can be pickled without calling code of the user. A chunk of one
item is an ordinary task.

A chunk that comes back without the answers of its items, because its worker died, for example, runs again in parts,
until the item that is to blame is alone. So items may run more than once, as may any task whose worker dies.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.errors import ClusterError, NotPicklable, TooLarge
from concurrent_nb.nodes.application import chunking
from concurrent_nb.nodes.application.chunking import ChunkPacker, Item
from concurrent_nb.nodes.application.client_tasks import TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job_origin import new_record
from concurrent_nb.nodes.application.payload import with_inputs_of
from concurrent_nb.nodes.application.progress_bar import Progress
from concurrent_nb.nodes.application.results import open_item
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import TaskOptions
from concurrent_nb.nodes.common import nested
from concurrent_nb.shipping.runtime.call_chunks import ChunkResults, FailedItem, PickledItem
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small
from concurrent_nb.tasks.chunk_size import AdaptiveSize

#: number of parts of a chunk that has to run again
PARTS: Final = 8
#: items that are read in one step from iterables that call no code of the user
BLOCK: Final = 1024
_STATIC_TYPES: Final = frozenset({list, tuple, range, str, dict})
_TUPLES: Final = {tuple}
#: types of rows of results that have to be opened
_TO_OPEN: Final = frozenset({PickledItem, FailedItem})


@dataclass(eq=False, slots=True)
class MapChunk:
    """Items that travel as one task. It has ended once it has answers, an error or parts."""

    items: Sequence[Any]  #: each an Item; until it has ended
    numbers: range  #: of the items in the map
    answers: list[Any] | None = None  #: for several items `ChunkResults.rows`; for one, its value
    error: BaseException | None = None  #: ends each of its items
    parts: "Sequence[MapChunk] | None" = None  #: run instead of it
    future: TaskFuture | None = None  #: of several items, once it has answers: its task

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self.numbers)


class MapCall:
    """The items of one `map`, from the iterables to the results.

    Args:
        size: items per task, or what decides on it.
        ahead: items that may be read and not yet returned; None for all.
        options: of each task.

    Raises NotPicklable if the function cannot be sent.
    """

    def __init__(
        self,
        packer: ChunkPacker,
        client_thread: ClientThread,
        fn: Callable[..., Any],
        iterables: Sequence[Iterable[Any]],
        name: str,
        size: int | AdaptiveSize,
        ahead: int | None,
        options: TaskOptions,
    ) -> None:
        self._packer = packer
        self._client_thread = client_thread
        self._fn = fn
        self._function = packer.function_payload(fn, spawns=True)
        # For the reader's thread:
        self._calls = zip(*iterables, strict=False)
        # Other iterables may return the same object again, changed meanwhile, or may be slow.
        self._is_static = all(type(source) in _STATIC_TYPES for source in iterables)
        self._notify_items = 1 if isinstance(size, AdaptiveSize) else size
        self._ahead = ahead
        self._outstanding = 0  # items that were read and not returned
        self._read = 0  # items that were read
        # Written by one thread, read by another:
        self._waiting: deque[Item] = deque()
        self._exhausted = False  # the reader will add nothing
        self._notify_on_input = True  # whether to call `cut` when items wait
        # For the client thread:
        self._is_leaving = False  # the application leaves: nothing more will be read
        self._resend: deque[MapChunk] = deque()  # parts to send before what waits
        self._options = options
        self._needs = options.needs_with(self._function)
        self.record = new_record(name, strategy=options.strategy)
        self._size = size
        self._index = itertools.count()
        self._cut_count = 0  # items that are in chunks
        self._unanswered: dict[TaskFuture, MapChunk] = {}
        self._abandoned = False
        self._workers_seen: set[tuple[str, int]] = set()  # by slave and pid: those that have answered
        self._progress = Progress("map", name, lambda: (self._items_ended, self._read))
        # Guarded, for both:
        self._items_ended = 0
        self._condition = Condition()
        self._order: deque[MapChunk] = deque()  # chunks that were cut and not returned, in order
        self._closed = False  # no more chunks will be cut
        client_thread.open_source(self)

    # ------------------------------------------------------------------------------------------ in the reader's thread

    def fill(self) -> None:
        """Read as far ahead as allowed. Raises what the iterables raise, and RuntimeError after a shutdown."""
        if self._exhausted:
            return
        self._client_thread.check_open()
        room = None if self._ahead is None else self._ahead - self._outstanding
        items = itertools.islice(self._calls, room)
        read = self._read_in_blocks(items) if self._is_static else self._read_one_by_one(items)
        self._outstanding += read
        if read != room:
            self._exhausted = True
            self._client_thread.call_soon(self.cut)

    def _read_one_by_one(self, items: Iterator[tuple[Any, ...]]) -> int:
        waiting, read = self._waiting, 0
        for read, args in enumerate(items, 1):
            for arg in args:
                if type(arg) not in SMALL_ATOMS and not is_small(arg):
                    # Now, because it may change, and in this thread, because its own code may run.
                    waiting.append(self._pack_item(args, self._read + read - 1))
                    break
            else:
                waiting.append(args)
            if self._notify_on_input:
                self._notify_cutter()
        self._read += read
        return read

    def _read_in_blocks(self, items: Iterator[tuple[Any, ...]]) -> int:
        read = 0
        while block := list(itertools.islice(items, BLOCK)):
            read += len(block)
            if _are_small(block):
                self._waiting.extend(block)
                self._read += len(block)
            else:
                self._read_one_by_one(iter(block))
            if self._notify_on_input:
                self._notify_cutter()
        return read

    def _notify_cutter(self) -> None:
        """Notify the client thread that items wait, if there are enough."""
        if len(self._waiting) >= self._notify_items:
            self._notify_on_input = False
            self._client_thread.call_soon(self.cut)

    def _pack_item(self, args: tuple[Any, ...], number: int) -> Item:
        try:
            return chunking.pack_item(self._packer, self._fn, args, number)
        except NotPicklable as error:
            return error

    def results(self, deadline: float | None, return_exceptions: bool) -> Iterator[Any]:
        """Iterate over the results. Closing the iterator cancels what has not been read.

        Args:
            deadline: when to raise TimeoutError, on the clock of `time.monotonic`.
            return_exceptions: return exceptions in place of results; else the first is raised, which ends the
                iteration.
        """
        try:
            while (chunk := self._next(deadline)) is not None:
                answers = chunk.answers
                if answers is None:
                    assert chunk.error is not None
                    answers = [_raised(chunk.error, return_exceptions)] * chunk.count
                answers.reverse()
                while answers:
                    if type(answers[-1]) in _TO_OPEN and chunk.future is not None:
                        answers[-1] = self._opened(chunk.future, answers[-1], return_exceptions)
                    if self._ahead is not None:
                        self._outstanding -= 1
                        self.fill()
                    yield answers.pop()  # so that no reference stays here
        finally:
            self._progress.close()
            self.close()

    def close(self) -> None:
        """Cancel what has not been read."""
        with self._condition:
            is_over = self._closed and not self._order
        if not is_over:
            self._client_thread.call_soon(self._abandon)

    def _next(self, deadline: float | None) -> MapChunk | None:
        """Wait for the next chunk that has ended, in order; None after the last."""
        while True:
            if nested.waiting is not None:
                nested.waiting.for_job(self.record.id, self._is_ready, _left(deadline))
            with self._condition:
                while self._order and self._order[0].parts is not None:
                    self._order.extendleft(reversed(self._order.popleft().parts or ()))
                if self._order:
                    head = self._order[0]
                    if head.answers is not None or head.error is not None:
                        return self._order.popleft()
                elif self._closed:
                    if self._waiting:  # items were read while the application was shut down
                        self._client_thread.check_open()
                    return None
                left = _left(deadline)
                if left is not None and left <= 0:
                    raise TimeoutError
                self._condition.wait(self._progress.wait_s(left))
            self._progress.look()  # not while the lock is held: a stream may block

    def _is_ready(self) -> bool:
        """Return whether `_next` has something to do."""
        with self._condition:
            if not self._order:
                return self._closed
            head = self._order[0]
            return head.answers is not None or head.error is not None or head.parts is not None

    def _opened(self, future: TaskFuture, answer: Any, return_exceptions: bool) -> Any:
        value, error = open_item(future, answer)
        if error is None:
            return value
        if self._client_thread.present is not None:
            self._client_thread.present(future, error)
        return _raised(error, return_exceptions)

    # --------------------------------------------------------------------------------------------- in the client thread

    def cut(self) -> None:
        """Send the chunks that may be sent now."""
        entries = [self._entry(chunk) for chunk in self._resend]
        self._resend.clear()
        while len(entries) < chunking.CHUNKS_PER_TURN and (size := self._next_size()):
            chunk = self._cut_one(size)
            with self._condition:
                self._order.append(chunk)
                self._condition.notify_all()
            if chunk.error is None:
                entries.append(self._entry(chunk))
        self._client_thread.add(entries)
        if len(entries) >= chunking.CHUNKS_PER_TURN:
            self._client_thread.call_soon(self.cut)
        elif (self._exhausted or self._is_leaving) and not self._waiting:
            self._close()

    def leave(self, cancel: bool) -> None:
        """Read nothing more, because the application leaves. With `cancel`, what has not been sent is cancelled."""
        self._is_leaving = True
        if cancel:
            self._drop(CancelledError())
        self.cut()

    def fail(self, error: ClusterError) -> None:
        """End what has not been sent with an error: the cluster is gone."""
        self._drop(error)
        self._close()

    def _next_size(self) -> int:
        """Return how many items are to be sent now."""
        waiting = len(self._waiting)
        if len(self.record.waiting) >= chunking.BACKLOG:
            return 0  # the reader continues: `_notify_on_input` stays as it is
        if isinstance(self._size, AdaptiveSize):
            if len(self._unanswered) >= self._size.in_flight:
                return 0  # the next end of a task calls again
            size = self._size.next_size(waiting) if waiting else 0
        elif waiting >= self._size:
            size = self._size
        else:
            size = waiting if self._exhausted or self._is_leaving else 0
        if not size:
            self._notify_on_input = True
            # For items that the reader added just before it could see that, it will not call.
            if len(self._waiting) != waiting and not self._unanswered:
                return self._next_size()
        return size

    def _cut_one(self, size: int) -> MapChunk:
        waiting = self._waiting
        items = [waiting.popleft() for _ in range(size)]
        count = chunking.count_fitting(
            items, chunking.CHUNK_BYTES if isinstance(self._size, AdaptiveSize) else math.inf
        )
        waiting.extendleft(reversed(items[count:]))
        del items[count:]
        first = items[0]
        numbers = range(self._cut_count, self._cut_count + len(items))
        self._cut_count = numbers.stop
        return MapChunk(items, numbers, error=first if isinstance(first, NotPicklable) else None)

    def _entry(self, chunk: MapChunk) -> TaskEntry[TaskHandle]:
        """Make the task of a chunk."""
        future = TaskFuture(self.record.id, next(self._index), self._client_thread.cancel)
        self._unanswered[future] = chunk
        future.add_done_callback(self._ended)
        payload = with_inputs_of(self._function, chunking.chunk_payload(chunk.items, chunk.numbers), self.record)
        return TaskEntry(self.record, future.index, self._function, payload, future, self._options.limits, self._needs)

    def _ended(self, future: Any) -> None:
        chunk = self._unanswered.pop(future)
        error = CancelledError() if future.cancelled() else future.exception()
        with self._condition:
            if error is None:
                value = future.result()
                chunk.answers = ChunkResults(*value).rows() if chunk.count > 1 else [value]
                chunk.future = future if chunk.count > 1 else None  # else it would keep the value alive
            elif chunk.count > 1 and (future.status in chunking.RERUN_STATUSES or type(error) is TooLarge):
                chunk.parts = _parts(chunk)
                self._resend.extend(chunk.parts)
            else:
                chunk.error = error
            if chunk.parts is None:
                self._items_ended += chunk.count
            chunk.items = ()
            self._condition.notify_all()
        if isinstance(self._size, AdaptiveSize) and future.status in chunking.TIMED_STATUSES:
            self._workers_seen.add((future.slave, future.worker))
            self._size.slots = max(self._size.slots, len(self._workers_seen))  # some have been added since the count
            self._size.measured(chunk.count, future.elapsed_s)
        if self._abandoned:
            self._resend.clear()
        # Later, because what a callback of a future raises is only logged.
        self._client_thread.call_soon(self._finish if self._closed and not self._resend else self.cut)

    def _abandon(self) -> None:
        self._abandoned = True
        self._waiting.clear()
        self._resend.clear()
        self._close()
        for future in list(self._unanswered):
            future.cancel()

    def _drop(self, error: BaseException) -> None:
        """End all items that have not been sent with an error."""
        with self._condition:
            for chunk in self._resend:
                chunk.error = error
            self._resend.clear()
            dropped = 0
            while self._waiting:
                self._waiting.popleft()
                dropped += 1
            if dropped:
                self._order.append(MapChunk((), range(dropped), error=error))
            self._condition.notify_all()

    def _close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._finish()

    def _finish(self) -> None:
        """Close the job once nothing of it is unanswered."""
        if not self._unanswered:
            self._client_thread.close_source(self)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


def _parts(chunk: MapChunk) -> list[MapChunk]:
    size = -(-chunk.count // PARTS)
    cuts = [slice(at, at + size) for at in range(0, chunk.count, size)]
    return [MapChunk(chunk.items[cut], chunk.numbers[cut]) for cut in cuts]


def _are_small(calls: Sequence[tuple[Any, ...]]) -> bool:
    """Return whether no argument of these calls needs a pickle of its own."""
    kinds = set(map(type, itertools.chain.from_iterable(calls)))
    if kinds <= SMALL_ATOMS:
        return True
    if kinds - SMALL_ATOMS != _TUPLES:
        return False
    tuples = (arg for arg in itertools.chain.from_iterable(calls) if type(arg) is tuple)
    return SMALL_ATOMS.issuperset(map(type, itertools.chain.from_iterable(tuples)))


def _raised(error: BaseException, return_exceptions: bool) -> BaseException:
    """Return an exception, or raise it."""
    if return_exceptions:
        return error
    raise error
