"""One `map`: its items on their way into chunks, its chunks on their way to the cluster, its results in order.

    reader's thread: fill --items--> waiting     courier's thread: cut --chunks--> ledger
    reader's thread: results <------------------ courier's thread: _ended

What is the user's runs in the reader's thread: his iterables, the pickling of arguments, the opening of results. The
courier's thread only puts together what is pickled, or needs no code of anybody's to be pickled. A chunk of one item is
an ordinary task.

A chunk that comes back without its items' answers, because its worker died, say, runs again in parts, until the item
that is to blame is alone. So items may run more than once, as may any task whose worker dies.
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
from concurrent_nb.ids import new_job_id
from concurrent_nb.nodes.application.chunking import (
    AGAIN,
    BACKLOG,
    CHUNK_BYTES,
    CUTS_PER_TURN,
    MEASURED,
    ChunkPacker,
    Item,
    body_of,
    fitting,
    packed,
)
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.nodes.application.core import ClientJob, TaskEntry
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.progress_bar import Progress
from concurrent_nb.nodes.application.results import open_item
from concurrent_nb.nodes.application.task_options import TaskOptions
from concurrent_nb.shipping.runtime.call_chunks import ChunkResults, FailedItem, PickledItem
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small
from concurrent_nb.tasks.chunk_size import AdaptiveSize

#: a chunk that has to run again is cut into so many parts
PARTS: Final = 8
#: items that are read at once from iterables which run no code of anybody's
BLOCK: Final = 1024
_STILL: Final = frozenset({list, tuple, range, str, dict})
_TUPLES: Final = {tuple}
#: rows of results that have to be opened
_TO_OPEN: Final = frozenset({PickledItem, FailedItem})


@dataclass(eq=False, slots=True)
class MapChunk:
    """Items that travel as one task. It has ended once it has answers, an error or parts."""

    items: Sequence[Any]  #: each an Item; until it has ended
    numbers: range  #: of the items in the map
    answers: list[Any] | None = None  #: for several items `ChunkResults.rows`; for one, its value
    error: BaseException | None = None  #: ends each of its items
    parts: "Sequence[MapChunk] | None" = None  #: run in its place
    future: TaskFuture | None = None  #: of several items, once it has answers: who ran it

    @property
    def count(self) -> int:
        """Return how many items there are."""
        return len(self.numbers)


class MapCall:
    """The items of one `map`, from the iterables to the results.

    Args:
        size: items per task, or what decides on it.
        ahead: items that may be read and not yet handed out; None for all.
        options: of each task.

    Raises NotPicklable if the function cannot travel.
    """

    def __init__(
        self,
        packer: ChunkPacker,
        courier: ClientThread,
        fn: Callable[..., Any],
        iterables: Sequence[Iterable[Any]],
        name: str,
        size: int | AdaptiveSize,
        ahead: int | None,
        options: TaskOptions,
    ) -> None:
        self._packer = packer
        self._courier = courier
        self._fn = fn
        self._function = packer._ship(fn, spawns=True)
        # The reader's thread:
        self._calls = zip(*iterables, strict=False)
        # What is read from others may be the same object again and again, changed meanwhile; or it takes its time.
        self._is_still = all(type(source) in _STILL for source in iterables)
        self._least = 1 if isinstance(size, AdaptiveSize) else size
        self._ahead = ahead
        self._outstanding = 0  # items that were read and not handed out
        self._read = 0  # items that were read
        # Written by one thread, read by the other:
        self._waiting: deque[Item] = deque()
        self._exhausted = False  # the reader will add nothing
        self._hungry = True  # the courier's thread wants to be told when something waits
        # The courier's thread:
        self._leaving = False  # the application is: nothing more will be read
        self._again: deque[MapChunk] = deque()  # parts to be sent before what waits
        self._options = options
        self._needs = options.needs_with(self._function)
        self.record = ClientJob[TaskFuture](new_job_id(), name, strategy=options.strategy)
        self._size = size
        self._index = itertools.count()
        self._cut = 0  # items that are in chunks
        self._unanswered: dict[TaskFuture, MapChunk] = {}
        self._abandoned = False
        self._workers: set[tuple[str, int]] = set()  # by slave and pid: those that have answered
        self._progress = Progress("map", name, lambda: (self._items_ended, self._read))
        # Guarded, for both:
        self._items_ended = 0
        self._condition = Condition()
        self._order: deque[MapChunk] = deque()  # chunks that were cut and not read, in order
        self._closed = False  # no more will be cut
        courier.open_source(self)

    # -------------------------------------------------------------------------------------------- the reader's thread

    def fill(self) -> None:
        """Read as far ahead as was asked for. Raises what the iterables raise, and RuntimeError after a shutdown."""
        if self._exhausted:
            return
        self._courier.check_open()
        room = None if self._ahead is None else self._ahead - self._outstanding
        items = itertools.islice(self._calls, room)
        read = self._read_in_blocks(items) if self._is_still else self._read_one_by_one(items)
        self._outstanding += read
        if read != room:
            self._exhausted = True
            self._courier.tell(self.cut)

    def _read_one_by_one(self, items: Iterator[tuple[Any, ...]]) -> int:
        waiting, read = self._waiting, 0
        for read, args in enumerate(items, 1):
            for arg in args:
                if type(arg) not in SMALL_ATOMS and not is_small(arg):
                    # Now, because it may change; and here, because its own code may run.
                    waiting.append(self._packed(args, self._read + read - 1))
                    break
            else:
                waiting.append(args)
            if self._hungry:
                self._offer()
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
            if self._hungry:
                self._offer()
        return read

    def _offer(self) -> None:
        """Tell the courier's thread that something waits, if it is enough."""
        if len(self._waiting) >= self._least:
            self._hungry = False
            self._courier.tell(self.cut)

    def _packed(self, args: tuple[Any, ...], number: int) -> Item:
        try:
            return packed(self._packer, self._fn, args, number)
        except NotPicklable as error:
            return error

    def results(self, deadline: float | None, return_exceptions: bool) -> Iterator[Any]:
        """Iterate over the results. Closing it cancels what nobody will read.

        Args:
            deadline: when to raise TimeoutError, on the clock of `time.monotonic`.
            return_exceptions: give exceptions in the place of results; else the first is raised, and is the end.
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
                    yield answers.pop()  # nothing here keeps it alive
        finally:
            self._progress.close()
            self.close()

    def close(self) -> None:
        """Cancel what nobody will read."""
        with self._condition:
            is_over = self._closed and not self._order
        if not is_over:
            self._courier.tell(self._abandon)

    def _next(self, deadline: float | None) -> MapChunk | None:
        """Wait for the next chunk that has ended, in order; None after the last."""
        while True:
            with self._condition:
                while self._order and self._order[0].parts is not None:
                    self._order.extendleft(reversed(self._order.popleft().parts or ()))
                if self._order:
                    head = self._order[0]
                    if head.answers is not None or head.error is not None:
                        return self._order.popleft()
                elif self._closed:
                    if self._waiting:  # read while the application was shut down
                        self._courier.check_open()
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._condition.wait(self._progress.wait_s(left))
            self._progress.look()  # not while the lock is held: a stream may block

    def _opened(self, future: TaskFuture, answer: Any, return_exceptions: bool) -> Any:
        value, error = open_item(future, answer)
        if error is None:
            return value
        if self._courier.present is not None:
            self._courier.present(future, error)
        return _raised(error, return_exceptions)

    # ------------------------------------------------------------------------------------------- the courier's thread

    def cut(self) -> None:
        """Send what may be sent now."""
        entries = [self._entry(chunk) for chunk in self._again]
        self._again.clear()
        while len(entries) < CUTS_PER_TURN and (size := self._next_size()):
            chunk = self._cut_one(size)
            with self._condition:
                self._order.append(chunk)
                self._condition.notify_all()
            if chunk.error is None:
                entries.append(self._entry(chunk))
        self._courier.add(entries)
        if len(entries) >= CUTS_PER_TURN:
            self._courier.tell(self.cut)
        elif (self._exhausted or self._leaving) and not self._waiting:
            self._close()

    def leave(self, cancel: bool) -> None:
        """Read nothing more, because the application leaves. With `cancel`, what has not been sent is cancelled."""
        self._leaving = True
        if cancel:
            self._drop(CancelledError())
        self.cut()

    def fail(self, error: ClusterError) -> None:
        """End what has not been sent with an error: the cluster is gone."""
        self._drop(error)
        self._close()

    def _next_size(self) -> int:
        """Say how many items are to be sent now."""
        waiting = len(self._waiting)
        if len(self.record.waiting) >= BACKLOG:
            return 0  # as well, and so does the reader: `_hungry` stays as it is
        if isinstance(self._size, AdaptiveSize):
            if len(self._unanswered) >= self._size.on_the_way:
                return 0  # the next that ends asks again
            size = self._size.next_size(waiting) if waiting else 0
        elif waiting >= self._size:
            size = self._size
        else:
            size = waiting if self._exhausted or self._leaving else 0
        if not size:
            self._hungry = True
            # What the other thread added just before it could see that, nobody would tell us of.
            if len(self._waiting) != waiting and not self._unanswered:
                return self._next_size()
        return size

    def _cut_one(self, size: int) -> MapChunk:
        waiting = self._waiting
        items = [waiting.popleft() for _ in range(size)]
        count = fitting(items, CHUNK_BYTES if isinstance(self._size, AdaptiveSize) else math.inf)
        waiting.extendleft(reversed(items[count:]))
        del items[count:]
        first = items[0]
        numbers = range(self._cut, self._cut + len(items))
        self._cut = numbers.stop
        return MapChunk(items, numbers, error=first if isinstance(first, NotPicklable) else None)

    def _entry(self, chunk: MapChunk) -> TaskEntry[TaskFuture]:
        """Make the task of a chunk."""
        kind, body, sizes, buffers, lease = body_of(chunk.items, chunk.numbers)
        future = TaskFuture(self.record.id, next(self._index), self._courier.cancel)
        self._unanswered[future] = chunk
        future.add_done_callback(self._ended)
        function = self._function
        return TaskEntry(
            self.record,
            future.index,
            function,
            body,
            sizes,
            buffers,
            self._options.timeout_s,
            self._options.retries,
            future,
            lease=lease,
            needs=self._needs,
            kind=kind,
        )

    def _ended(self, future: Any) -> None:
        chunk = self._unanswered.pop(future)
        error = CancelledError() if future.cancelled() else future.exception()
        with self._condition:
            if error is None:
                value = future.result()
                chunk.answers = ChunkResults(*value).rows() if chunk.count > 1 else [value]
                chunk.future = future if chunk.count > 1 else None  # it would keep the value alive
            elif chunk.count > 1 and (future.status in AGAIN or type(error) is TooLarge):
                chunk.parts = _parts(chunk)
                self._again.extend(chunk.parts)
            else:
                chunk.error = error
            if chunk.parts is None:
                self._items_ended += chunk.count
            chunk.items = ()
            self._condition.notify_all()
        if isinstance(self._size, AdaptiveSize) and future.status in MEASURED:
            self._workers.add((future.slave, future.worker))
            self._size.slots = max(self._size.slots, len(self._workers))  # some have come since it was asked
            self._size.measured(chunk.count, future.elapsed_s)
        if self._abandoned:
            self._again.clear()
        # Not at once, because who ends a future logs what its callbacks raise, and goes on.
        self._courier.tell(self._finish if self._closed and not self._again else self.cut)

    def _abandon(self) -> None:
        self._abandoned = True
        self._waiting.clear()
        self._again.clear()
        self._close()
        for future in list(self._unanswered):
            future.cancel()

    def _drop(self, error: BaseException) -> None:
        """End all that has not been sent with an error."""
        with self._condition:
            for chunk in self._again:
                chunk.error = error
            self._again.clear()
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
        """Let the job go once nothing of it is unanswered."""
        if not self._unanswered:
            self._courier.close_source(self)


def _parts(chunk: MapChunk) -> list[MapChunk]:
    size = -(-chunk.count // PARTS)
    cuts = [slice(at, at + size) for at in range(0, chunk.count, size)]
    return [MapChunk(chunk.items[cut], chunk.numbers[cut]) for cut in cuts]


def _are_small(calls: Sequence[tuple[Any, ...]]) -> bool:
    """Say whether no argument of these calls needs a pickle of its own."""
    kinds = set(map(type, itertools.chain.from_iterable(calls)))
    if kinds <= SMALL_ATOMS:
        return True
    if kinds - SMALL_ATOMS != _TUPLES:
        return False
    tuples = (arg for arg in itertools.chain.from_iterable(calls) if type(arg) is tuple)
    return SMALL_ATOMS.issuperset(map(type, itertools.chain.from_iterable(tuples)))


def _raised(error: BaseException, return_exceptions: bool) -> BaseException:
    """Give an exception, or raise it."""
    if return_exceptions:
        return error
    raise error
