"""A chunk whose items are tasks of a job, each with an end, prints and notes of its own: what `--batch` makes.

    worker:       run(function, calls, terms) --> (answers, seconds, is_cut)
                  what items print   "a line" --> mark of the item, "a line"
                  what they say      note     --> notes.Item, note
                  a slow batch       how items have ended --> notes.Ended, before the batch has
    application:  MarkReader.feed(text)       --> (position of the item, text)

An item is known by its position in the batch. Prints are marked where Python's own streams are written to, and so is
the item after one that has printed; what C code or another process writes bears the last mark before it, or is the
first item's.
"""

import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.runtime import call_chunks, notes
from concurrent_nb.shipping.runtime.call_chunks import Call, Snapshot, Terms

#: encloses a mark. No text that is meant to be read has this character
_EDGE: Final = "\x1e"

#: how items have ended is told while the batch goes on, so often, in seconds; and so much of it at once
TELL_S: Final = 0.2
TOLD_BYTES_MAX: Final = 64 * 1024

#: an answer for each item that has ended, as `chunks` has them; the seconds that each item took, also one that was
#: stopped; whether one was stopped, which has no answer
Ran = tuple[list[Any], list[float], bool]


def run(
    function: Callable[..., Any],
    calls: Iterable[Call] | tuple[int, list[Any]],
    numbers: Iterable[int],
    terms: Terms,
    begin: Callable[[int], None] = lambda number: None,
    after_call: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    snapshot: Snapshot = bytearray,
) -> Ran | Hit:
    """Make the calls of a batch, until all are made or the terms or an interrupt end it; Hit if the last answer is one.

    Args:
        numbers: of the items in their job.
        begin: called with each before its call.
        after_call: called after each, as part of it.
        snapshot: as for `chunks.run`.
    """
    batch = _Batch(function, terms, begin, after_call, clock, snapshot)
    with batch.telling_items_apart():
        ran = batch.run(calls, numbers)
    return Hit(ran) if batch.has_hit else ran


class _Batch:
    def __init__(
        self,
        function: Callable[..., Any],
        terms: Terms,
        begin: Callable[[int], None],
        after_call: Callable[[], None],
        clock: Callable[[], float],
        snapshot: Snapshot,
    ) -> None:
        self._function = function
        self._terms = terms
        self._begin = begin
        self._after_call = after_call
        self._clock = clock
        self._snapshot = snapshot
        self._answers: list[Any] = []
        self._seconds: list[float] = []
        self._streams: tuple[MarkedStream, ...] = ()
        self._told = 0  # of so many it was told how they have ended
        self.has_hit = False

    def run(self, calls: Iterable[Call] | tuple[int, list[Any]], numbers: Iterable[int]) -> Ran:
        self._began_at = self._last = self._told_at = self._clock()
        is_cut = False
        try:
            call_chunks.run(self._call, calls, numbers, self._begin, self._answers, self._goes_on, self._snapshot)
        except KeyboardInterrupt:
            is_cut = True
        if len(self._seconds) < len(self._answers) + is_cut:
            self._seconds.append(self._clock() - self._last)
        return self._answers, self._seconds, is_cut

    def _call(self, *args: Any) -> Any:
        value = self._function(*args)
        self._after_call()
        if type(value) is Hit:
            self.has_hit = self._terms.until
        return value

    def _goes_on(self) -> bool:
        now = self._clock()
        if not self._answers:
            self._last = now
            return True
        self._seconds.append(now - self._last)
        self._last = now
        for stream in self._streams:
            stream.next_item()
        terms = self._terms
        if (
            self.has_hit
            or (terms.stop_on_error and type(self._answers[-1]) is dict)
            or (terms.most_s is not None and now - self._began_at >= terms.most_s)
        ):
            return False
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._tell()
        return True

    def _tell(self) -> None:
        """Tell how items have ended, unless that is much, and so takes the way of all results."""
        fresh = self._answers[self._told :]
        if list in set(map(type, fresh)):
            return
        body = pickle.dumps((fresh, self._seconds[self._told :]), 5)
        if len(body) <= TOLD_BYTES_MAX:
            notes.SINK.put_progress(notes.ItemEnded(self._told, os.getpid(), body))
            self._told = len(self._answers)

    def position(self) -> int:
        """Give the position of the item that runs."""
        return len(self._answers)

    @contextmanager
    def telling_items_apart(self) -> Iterator[None]:
        """Say of what is printed and noted meanwhile which item it is of."""
        secret = self._terms.secret
        marked = MarkedStream(sys.stdout, secret, self.position), MarkedStream(sys.stderr, secret, self.position)
        sys.stdout, sys.stderr = self._streams = marked
        notes.SINK.item = self.position
        try:
            yield
        finally:
            notes.SINK.item = None
            # What an item has put in their place is taken away as it is after any task.
            if sys.stdout is marked[0]:
                sys.stdout = marked[0].let_go()
            if sys.stderr is marked[1]:
                sys.stderr = marked[1].let_go()


class MarkedStream:
    """A text stream that writes marks of items; in all else it is the stream that it stands for."""

    def __init__(self, stream: TextIO, secret: str, position: Callable[[], int]) -> None:
        self._stream = stream
        self._secret = secret
        self._position: Callable[[], int] | None = position
        self._marked = 0  # text before the first mark is the first item's
        self._wrote = False

    def write(self, text: str) -> int:
        """Write text, behind a mark if it is another item's than what was written before."""
        if text:
            self._mark()
            self._wrote = True
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def next_item(self) -> None:
        """If an item has written something, let it come out, and mark the next: it may write past this stream."""
        if self._wrote:
            self._wrote = False
            with suppress(OSError, ValueError):  # the item has closed it
                self._mark()
                self._stream.flush()

    def let_go(self) -> TextIO:
        """Write no more marks, whoever has kept this; give the stream that it stands for."""
        self._position = None
        return self._stream

    def _mark(self) -> None:
        if self._position is not None and (position := self._position()) != self._marked:
            self._marked = position
            self._stream.write(mark(self._secret, position))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mark(secret: str, position: int) -> str:
    """Give what stands before the text of the item at `position`."""
    return f"{_EDGE}{secret}:{position}{_EDGE}"


class MarkReader:
    """Tell apart by their marks which text is which item's.

    >>> reader = MarkReader("key")
    >>> reader.feed("zero" + mark("key", 12)[:5]), reader.feed(mark("key", 12)[5:] + "twelve")
    ([(0, 'zero')], [(12, 'twelve')])
    """

    def __init__(self, secret: str) -> None:
        self._begin = f"{_EDGE}{secret}:"
        self._mark = re.compile(f"{re.escape(self._begin)}([0-9]+){_EDGE}")
        self._position = 0
        self._held = ""  # may be the beginning of a mark

    def feed(self, text: str) -> Sequence[tuple[int, str]]:
        """Take what was written; give the position of an item and its text, in order."""
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
        """Say how many characters at the end may be the beginning of a mark."""
        tail = text[text.rfind(_EDGE) :] if _EDGE in text else ""
        digits = tail.removeprefix(self._begin)
        is_part = self._begin.startswith(tail) or (digits != tail and digits.isdecimal())
        return len(tail) if is_part else 0
