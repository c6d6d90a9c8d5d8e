"""The progress of a map or a job, shown while the main thread waits for it: a bar on a terminal, or what a front end
makes.

    progress = Progress("map", name, counts)
    while not there: condition.wait(progress.wait_s(left)); progress.look()
    progress.close()

Nothing is shown for what ends within a second.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from concurrent_nb import foreign

#: seconds of waiting after which a bar is shown, and between two moves
SHOWN_AFTER_S: Final = 1.0
MOVED_EVERY_S: Final = 0.25

log = foreign.Log(__name__)

Kind = Literal["map", "job"]


class Bar(Protocol):
    """Shows progress."""

    def move(self, done: int, total: int) -> None:
        """Show that `done` of `total` known items have ended."""

    def close(self) -> None:
        """Show nothing more."""


class TerminalBar:
    """tqdm's bar, on standard error. It disappears when it is closed."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]  # here, because few programs wait that long on a terminal

        # Without its monitor, a thread for bars that are not moved for long; this one is.
        quiet = type("Bar", (tqdm,), {"monitor_interval": 0})
        self._bar: Any = quiet(desc=name, unit=" items", leave=False, dynamic_ncols=True, file=sys.stderr)

    def move(self, done: int, total: int) -> None:
        """Show that `done` of `total` known items have ended."""
        self._bar.total, self._bar.n = total, done
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def terminal_bar(kind: Kind, name: str) -> Bar | None:
    """Return a bar if standard error is a terminal."""
    return TerminalBar(name) if sys.stderr is not None and sys.stderr.isatty() else None


class _Shown:
    """What makes the bars of this process; None shows none."""

    make: Callable[[Kind, str], Bar | None] | None = staticmethod(terminal_bar)


SHOWN: Final = _Shown()


def show_progress(wanted: bool) -> None:
    """Choose whether this process shows a bar while it waits for a map or a job on a terminal. It does by default.

    >>> concurrent_nb.show_progress(False)

    A bar appears on standard error when the main thread has waited for a second, and disappears at the end. Notebooks
    show their own.

    Args:
        wanted: whether bars are shown.
    """
    SHOWN.make = terminal_bar if wanted else None


class Progress:
    """The bar of one wait, once it has lasted for a while. Only the main thread shows one.

    Args:
        counts: returns how many items have ended, and how many are known.
        began_s: start of the wait, on the clock of `time.monotonic`; None: now.
    """

    def __init__(
        self, kind: Kind, name: str, counts: Callable[[], tuple[int, int]], began_s: float | None = None
    ) -> None:
        self._kind: Kind = kind
        self._name = name
        self._counts = counts
        self._make = SHOWN.make if threading.current_thread() is threading.main_thread() else None
        self._show_at_s = (time.monotonic() if began_s is None else began_s) + SHOWN_AFTER_S
        self._bar: Bar | None = None

    def wait_s(self, left_s: float | None) -> float | None:
        """Return how many seconds to wait before the next `look`, given those that are left; None: without a limit."""
        if self._make is None:
            return left_s
        return MOVED_EVERY_S if left_s is None else min(left_s, MOVED_EVERY_S)

    def look(self) -> None:
        """Show the progress, if it is time to."""
        if self._make is None or time.monotonic() < self._show_at_s:
            return
        if foreign.call(log, "showing progress has raised", self._move) is not None or self._bar is None:
            self._make = None

    def _move(self) -> None:
        if self._bar is None and self._make is not None:
            self._bar = self._make(self._kind, self._name)
        if self._bar is not None:
            self._bar.move(*self._counts())

    def close(self) -> None:
        """Show the final progress, and close the bar."""
        bar, self._bar, self._make = self._bar, None, None
        if bar is not None:
            foreign.call(log, "showing progress has raised", bar.move, *self._counts())
            foreign.call(log, "showing progress has raised", bar.close)
