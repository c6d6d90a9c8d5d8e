"""Bars are shown to who waits long, in the main thread, and are taken away again."""

import io
import sys
import threading

import pytest

from concurrent_nb.nodes.application import progress_bar
from concurrent_nb.nodes.application.progress_bar import Bar, Kind, Progress


class Kept:
    """A bar that remembers."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, int]] = []
        self.closed = False

    def move(self, done: int, total: int) -> None:
        self.moves.append((done, total))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Kind, str, Kept]]:
    """Have bars made that are kept here."""
    made: list[tuple[Kind, str, Kept]] = []

    def make(kind: Kind, name: str) -> Bar:
        made.append((kind, name, Kept()))
        return made[-1][2]

    monkeypatch.setattr(progress_bar.SHOWN, "make", make)
    return made


def test_nothing_is_shown_of_what_ends_within_a_second(made: list[tuple[Kind, str, Kept]]) -> None:
    shown = Progress("map", "square", lambda: (1, 2))
    shown.look()
    shown.close()
    assert made == []


def test_a_long_wait_shows_a_bar_until_the_end(
    made: list[tuple[Kind, str, Kept]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER_S", 0.0)
    counts = [(1, 4), (3, 4), (4, 4)]
    shown = Progress("map", "square", lambda: counts.pop(0))
    assert shown.wait_s(None) == progress_bar.MOVED_EVERY_S
    assert shown.wait_s(0.1) == 0.1
    shown.look()
    shown.look()
    shown.close()
    ((kind, name, bar),) = made
    assert (kind, name, bar.moves, bar.closed) == ("map", "square", [(1, 4), (3, 4), (4, 4)], True)


def test_other_threads_wait_in_silence(made: list[tuple[Kind, str, Kept]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER_S", 0.0)
    waits: list[float | None] = []

    def wait() -> None:
        shown = Progress("job", "", lambda: (0, 1))
        waits.append(shown.wait_s(None))
        shown.look()
        shown.close()

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert (made, waits) == ([], [None])


def test_a_bar_that_raises_is_shown_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER_S", 0.0)
    tries: list[str] = []

    def make(kind: Kind, name: str) -> Bar:
        tries.append(name)
        raise SystemExit(3)

    monkeypatch.setattr(progress_bar.SHOWN, "make", make)
    shown = Progress("map", "square", lambda: (0, 1))
    shown.look()
    shown.look()
    shown.close()
    assert tries == ["square"]
    assert shown.wait_s(None) is None


def test_a_bar_may_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar.SHOWN, "make", progress_bar.terminal_bar)
    progress_bar.show_progress(False)
    assert Progress("map", "square", lambda: (0, 1)).wait_s(None) is None


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert progress_bar.terminal_bar("map", "square") is None


def test_a_terminal_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress_bar.terminal_bar("map", "square")
    assert bar is not None
    bar.move(3, 4)
    text = terminal.getvalue()
    bar.close()
    assert "square" in text
    assert "3/4" in text
