"""A batch: a chunk whose items are tasks of a job, each with a result, prints and notes of its own (`--batch`).

    worker:       run(function, calls, terms) --> BatchResults
                  what items print   "a line" --> mark of the item, "a line"
                  their notes        note     --> notes.Item, note
                  a slow batch       results so far --> notes.ItemEnded
    application:  MarkReader.feed(text)       --> (position of the item, text)

An item is identified by its position in the batch. Text that is written to Python's standard streams is marked, and so
is the start of the item after one that has printed. What C code or another process writes belongs to the item of the
last mark before it, or to the first item.
"""

import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TextIO

from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.runtime import call_chunks, notes
from concurrent_nb.shipping.runtime.call_chunks import BatchTerms, Call, ChunkResults, Snapshot

#: encloses a mark. A control character, which text for people does not contain
_EDGE: Final = "\x1e"

#: time between two reports of a running batch's results, in seconds; and the limit of one report
PROGRESS_S: Final = 0.2
PROGRESS_BYTES_MAX: Final = 64 * 1024


class BatchResults(NamedTuple):
    """The results of a batch. It travels as a tuple of tuples."""

    items: ChunkResults
    seconds: list[float]  #: that each item took, also one that was stopped
    is_cut: bool  #: the last item was stopped, and has no result


def run(
    function: Callable[..., Any],
    calls: Iterable[Call] | tuple[int, list[Any]],
    numbers: Iterable[int],
    terms: BatchTerms,
    begin_item: Callable[[int], None] = lambda number: None,
    after_call: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    snapshot: Snapshot = bytearray,
) -> BatchResults | Hit:
    """Make the calls of a batch until all are made, or its terms or an interrupt end it.

    A Hit if the last result is one.

    Args:
        numbers: of the items in their job.
        begin_item: called with each number before its call.
        after_call: called after each call, as part of it.
        snapshot: as for `call_chunks.run`.
    """
    batch = _BatchRun(function, terms, begin_item, after_call, clock, snapshot)
    with batch.marking_items():
        result = batch.run(calls, numbers)
    return Hit(result) if batch.has_hit else result


def dumps_results(results: BatchResults) -> tuple[bytes, list[memoryview]]:
    """Pickle the results of a batch; return the pickle and the large buffers that are not in it."""
    return call_chunks.dumps_results((tuple(results.items), results.seconds, results.is_cut))


@dataclass(slots=True, eq=False)
class _BatchRun:
    """A run of a batch, with the arguments of `run`."""

    function: Callable[..., Any]
    terms: BatchTerms
    begin_item: Callable[[int], None]
    after_call: Callable[[], None]
    clock: Callable[[], float]
    snapshot: Snapshot
    has_hit: bool = False
    _results: ChunkResults = field(default_factory=lambda: ChunkResults([], {}, {}))
    _seconds: list[float] = field(default_factory=list)
    _streams: tuple["MarkedStream", ...] = ()
    _reported: int = 0  # items whose results were reported
    _began_at: float = 0.0
    _last: float = 0.0  # when the last item began
    _reported_at: float = 0.0

    def run(self, calls: Iterable[Call] | tuple[int, list[Any]], numbers: Iterable[int]) -> BatchResults:
        self._began_at = self._last = self._reported_at = self.clock()
        is_cut = False
        try:
            call_chunks.run(
                self._call, calls, numbers, self.begin_item, self._results, self._may_continue, self.snapshot
            )
        except KeyboardInterrupt:
            is_cut = True
            self._results.drop_unfinished()
        if len(self._seconds) < len(self._results.values) + is_cut:
            self._seconds.append(self.clock() - self._last)
        return BatchResults(self._results, self._seconds, is_cut)

    def _call(self, *args: Any) -> Any:
        value = self.function(*args)
        self.after_call()
        if type(value) is Hit:
            self.has_hit = self.terms.until
        return value

    def _may_continue(self) -> bool:
        now = self.clock()
        done = len(self._results.values)
        if not done:
            self._last = now
            return True
        self._seconds.append(now - self._last)
        self._last = now
        for stream in self._streams:
            stream.next_item()
        terms = self.terms
        if (
            self.has_hit
            or (terms.stop_on_error and done - 1 in self._results.failed)
            or (terms.most_s is not None and now - self._began_at >= terms.most_s)
        ):
            return False
        if now - self._reported_at >= PROGRESS_S:
            self._reported_at = now
            self._report_progress()
        return True

    def _report_progress(self) -> None:
        """Report the results so far, unless they are large: those are sent at the end only."""
        unreported = self._results.since(self._reported)
        if any(len(parts) > 1 for parts in unreported.pickled.values()):
            return
        body = pickle.dumps((tuple(unreported), self._seconds[self._reported :]), 5)
        if len(body) <= PROGRESS_BYTES_MAX:
            notes.SINK.put_progress(notes.ItemEnded(self._reported, os.getpid(), body))
            self._reported = len(self._results.values)

    def position(self) -> int:
        """Return the position of the running item."""
        return len(self._results.values)

    @contextmanager
    def marking_items(self) -> Iterator[None]:
        """Mark what is printed and noted meanwhile with its item."""
        secret = self.terms.secret
        marked = MarkedStream(sys.stdout, secret, self.position), MarkedStream(sys.stderr, secret, self.position)
        sys.stdout, sys.stderr = self._streams = marked
        notes.SINK.item = self.position
        try:
            yield
        finally:
            notes.SINK.item = None
            # A stream that an item has put in place of these is removed as after any task.
            if sys.stdout is marked[0]:
                sys.stdout = marked[0].unwrap()
            if sys.stderr is marked[1]:
                sys.stderr = marked[1].unwrap()


class MarkedStream:
    """A text stream that writes marks of items; otherwise it behaves as the stream that it wraps."""

    def __init__(self, stream: TextIO, secret: str, position: Callable[[], int]) -> None:
        self._stream = stream
        self._secret = secret
        self._position: Callable[[], int] | None = position
        self._marked = 0  # text before the first mark belongs to the first item
        self._wrote = False

    def write(self, text: str) -> int:
        """Write text, after a mark if the item is not that of the text before."""
        if text:
            self._mark()
            self._wrote = True
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def next_item(self) -> None:
        """If an item has written text, flush it, and mark the next item, which may write to the descriptor directly."""
        if self._wrote:
            self._wrote = False
            with suppress(OSError, ValueError):  # the item has closed it
                self._mark()
                self._stream.flush()

    def unwrap(self) -> TextIO:
        """Stop writing marks, also for code that has kept this stream; return the wrapped stream."""
        self._position = None
        return self._stream

    def _mark(self) -> None:
        if self._position is not None and (position := self._position()) != self._marked:
            self._marked = position
            self._stream.write(mark(self._secret, position))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mark(secret: str, position: int) -> str:
    """Return the mark before the text of the item at `position`."""
    return f"{_EDGE}{secret}:{position}{_EDGE}"


class MarkReader:
    """Assigns text to items by their marks.

    >>> reader = MarkReader("key")
    >>> reader.feed("zero" + mark("key", 12)[:5]), reader.feed(mark("key", 12)[5:] + "twelve")
    ([(0, 'zero')], [(12, 'twelve')])
    """

    def __init__(self, secret: str) -> None:
        self._prefix = f"{_EDGE}{secret}:"
        self._mark = re.compile(f"{re.escape(self._prefix)}([0-9]+){_EDGE}")
        self._position = 0
        self._held = ""  # possibly the start of a mark

    def feed(self, text: str) -> Sequence[tuple[int, str]]:
        """Add text that was written; return pairs of an item's position and its text, in order."""
        text = self._held + text
        pieces: list[tuple[int, str]] = []
        at = 0
        for found in self._mark.finditer(text):
            pieces.append((self._position, text[at : found.start()]))
            self._position, at = int(found[1]), found.end()
        end = len(text) - self._part_of_mark(text[at:])
        self._held = text[end:]
        pieces.append((self._position, text[at:end]))
        return [piece for piece in pieces if piece[1]]

    def _part_of_mark(self, text: str) -> int:
        """Return how many characters at the end may be the start of a mark."""
        tail = text[text.rfind(_EDGE) :] if _EDGE in text else ""
        digits = tail.removeprefix(self._prefix)
        is_part = self._prefix.startswith(tail) or (digits != tail and digits.isdecimal())
        return len(tail) if is_part else 0
