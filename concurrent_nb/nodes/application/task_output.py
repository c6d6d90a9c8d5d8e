"""Writes what tasks print and display to this process's streams: in order, in a thread of its own.

    client thread: text, call --> waiting --> our thread --> sys.stdout, sys.stderr, displays

A stream may block as long as its reader likes. Output of a task is written before its future ends, so ends wait for it;
after `overtake` they do not wait, until everything is written. The thread starts with the first output.
"""

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb import foreign
from concurrent_nb.clock import monotonic

log = foreign.Log(__name__)

#: seconds that the client thread waits for output, and output for room
SETTLE_S: Final = 1.0
#: characters that may wait to be written; more are left out if there is no room within SETTLE_S
HELD_MOST: Final = 16 << 20
#: characters per write: small, so that a slow reader can be distinguished from one that reads nothing
PIECE: Final = 8192
#: streams that cannot be written and were warned about, so that each is warned about once
_WARNED_MOST: Final = 64

_NAMES: Final = {1: "standard output", 2: "standard error"}


class _Text:
    """Text for a stream."""

    __slots__ = ("number", "size", "stream", "text")

    def __init__(self, number: int, stream: Any, text: str) -> None:
        self.number = number
        self.stream = stream
        self.text = text
        self.size = len(text)


class _Callback:
    """A function to call in the order of the output."""

    __slots__ = ("size", "what")

    def __init__(self, what: Callable[[], object], size: int) -> None:
        self.what = what
        self.size = size


class OutputThread:
    """The output of one application's tasks. `write`, `call` and `settle` are for one thread.

    Args:
        name: of the application, for the thread.
        held_most: characters that may wait.
        settle_s: seconds for which the caller waits at most.
        drained: called, in our thread, when everything is written after a `settle` that returned False.
    """

    def __init__(
        self,
        name: str,
        *,
        held_most: int = HELD_MOST,
        settle_s: float = SETTLE_S,
        drained: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._held_most = held_most
        self._settle_s = settle_s
        self._drained = drained
        self._changed = threading.Condition()
        self._waiting: deque[_Text | _Callback] = deque()
        self._held = 0  # characters that wait or are being written
        self.is_busy = False  #: something waits or is being written
        self._may_overtake = False
        self._is_awaited = False  # `drained` is called when everything is written
        self._taken_at = monotonic()  # when a stream last accepted something
        self._left_out: dict[int, int] = {}  # characters, by stream
        self._closing = False
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._warned_streams: deque[Any] = deque(maxlen=_WARNED_MOST)

    def write(self, number: int, text: str) -> None:
        """Write text to the present standard output (1) or error (2)."""
        stream = sys.stdout if number == 1 else sys.stderr
        if stream is None or not text:  # a process without one prints nothing, as `print` does
            return
        with self._changed:
            if not self._has_room(len(text)):
                self._left_out[number] = self._left_out.get(number, 0) + len(text)
                return
            if number in self._left_out:
                text = _omission_notice(self._left_out.pop(number)) + text
            self._put(_Text(number, stream, text))

    def call(self, what: Callable[[], object], size: int) -> None:
        """Call a function after what was written before; `size`, in characters, is what it keeps in memory."""
        with self._changed:
            if self._has_room(size):
                self._put(_Callback(what, size))
            else:
                self._left_out[1] = self._left_out.get(1, 0) + size

    def settle(self) -> bool:
        """Wait until everything is written, at most `settle_s`. Return False if it is not, and nothing may overtake
        it."""
        if not self.is_busy or self._may_overtake:
            return True
        with self._changed:
            is_settled = self._changed.wait_for(lambda: not self.is_busy, self._settle_s)
            self._is_awaited = not is_settled
            return is_settled

    def overtake(self) -> None:
        """Make `settle` return immediately until everything is written that waits now."""
        with self._changed:
            self._may_overtake = self.is_busy

    def close(self) -> None:
        """Accept nothing more, and end the thread when everything is written. Waits at most `settle_s`."""
        with self._changed:
            for number, count in self._left_out.items():
                stream = sys.stdout if number == 1 else sys.stderr
                if stream is not None and self._thread is not None:
                    self._put(_Text(number, stream, _omission_notice(count)))
            self._left_out.clear()
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(self._settle_s)

    def join(self) -> None:
        """Wait until everything is written, without a limit."""
        if os.getpid() != self._pid:
            return  # a forked copy: thread and output belong to the parent
        with self._changed:
            self._changed.wait_for(lambda: not self.is_busy)

    # ---------------------------------------------------------------------------------------------- with _changed held

    def _has_room(self, size: int) -> bool:
        """Wait for room while the streams accept something. A single larger piece may be written alone."""

        def there_is() -> bool:
            return not self._held or self._held + size <= self._held_most

        if there_is():
            return True
        left_s = self._taken_at + self._settle_s - monotonic()
        return left_s > 0 and self._changed.wait_for(there_is, left_s)

    def _put(self, item: _Text | _Callback) -> None:
        if self._thread is None and not self._start():
            self._do(item)
            return
        if not self.is_busy:
            self._taken_at = monotonic()
        self._waiting.append(item)
        self._held += item.size
        self.is_busy = True
        self._changed.notify_all()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name=f"concurrent_nb {self._name} output", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at its end Python starts no more threads
            return False
        self._thread = thread
        atexit.register(self.join)  # at its end Python closes the streams, also for a thread that writes
        return True

    # --------------------------------------------------------------------------------------------------- in our thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    atexit.unregister(self.join)
                    return
                item = self._next()
            self._do(item)
            with self._changed:
                self._held -= item.size
                self._taken_at = monotonic()
                is_drained = not self._waiting
                if is_drained:
                    self.is_busy = self._may_overtake = False
                    is_awaited, self._is_awaited = self._is_awaited, False
                self._changed.notify_all()
            if is_drained and is_awaited:
                self._drained()
            del item

    def _next(self) -> _Text | _Callback:
        """Return the next piece: of a long text its beginning, and short ones for one stream together."""
        item = self._waiting.popleft()
        if isinstance(item, _Callback):
            return item
        if item.size > PIECE:
            self._waiting.appendleft(_Text(item.number, item.stream, item.text[PIECE:]))
            return _Text(item.number, item.stream, item.text[:PIECE])
        parts, size = [item.text], item.size
        while self._waiting:
            following = self._waiting[0]
            if isinstance(following, _Callback) or following.stream is not item.stream or size + following.size > PIECE:
                break
            parts.append(following.text)
            size += following.size
            self._waiting.popleft()
        return item if len(parts) == 1 else _Text(item.number, item.stream, "".join(parts))

    def _do(self, item: _Text | _Callback) -> None:
        if isinstance(item, _Text):
            self._write(item)
        else:
            foreign.call(log, "showing what a task displays has raised", item.what)

    def _write(self, item: _Text) -> None:
        try:
            try:
                item.stream.write(item.text)
            except UnicodeEncodeError:
                item.stream.write(_encodable(item.stream, item.text))
            flush = getattr(item.stream, "flush", None)
            if flush is not None:
                flush()
        except BaseException as error:  # noqa: BLE001  (a stream is the user's; there is one warning)
            self._warn_once(item, error)

    def _warn_once(self, item: _Text, error: BaseException) -> None:
        if any(stream is item.stream for stream in self._warned_streams):
            return
        self._warned_streams.append(item.stream)
        log.warning(
            "what tasks print on %s cannot be written, and is dropped: %s of this process raises %s",
            _NAMES[item.number],
            f"sys.{'stdout' if item.number == 1 else 'stderr'} ({type(item.stream).__name__})",
            foreign.describe(error),
        )


def _encodable(stream: Any, text: str) -> str:
    """Replace characters that the stream's encoding does not have."""
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):
        encoding = "ascii"
    try:
        return text.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "replace").decode()


def _omission_notice(count: int) -> str:
    return f"\n[{count:,} characters of output are left out here: the stream was not read for too long]\n"
