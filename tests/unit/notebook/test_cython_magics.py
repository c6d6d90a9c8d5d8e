"""`%%cython_task` without a compiler: its options, its line, and how it shows what is wrong."""

import os
import signal
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from concurrent_nb.clock import ManualClock
from concurrent_nb.errors import BuildFailed, CompileError
from concurrent_nb.notebook import cython_magics
from concurrent_nb.notebook.cython_magics import CythonMagics, _CompileProgress, _with_flags_joined
from concurrent_nb.notebook.hints import prange_without_openmp
from concurrent_nb.notebook.tracebacks import name_compiled, trim
from concurrent_nb.shipping.compiled.recipe import Recipe

TEXT = """Traceback (most recent call last):
  File "/opt/concurrent_nb/shipping/compiled/build.py", line 130, in load
    module.__spec__.loader.exec_module(module)
  File "<frozen importlib._bootstrap_external>", line 1233, in exec_module
  File "_cython_cell_0123.pyx", line 9, in init _cython_cell_0123
    Pair(1, 0).ratio()
  File "_cython_cell_0123.pyx", line 3, in _cython_cell_0123.Pair.ratio
    return a / b
  File "<stringsource>", line 371, in View.MemoryView.memoryview.__cinit__
ZeroDivisionError: float division
"""


class RecordedDisplay:
    is_fixed = False

    def __init__(self) -> None:
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def make_room(self) -> None:
        self.shown.append("(room)")

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        self.shown.append(f"end: {text}")


@pytest.fixture
def display() -> RecordedDisplay:
    return RecordedDisplay()


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ("--flags -O3", "--flags=-O3"),
        ("--openmp --flags '-O3 -lm' --name x", "--openmp '--flags=-O3 -lm' --name x"),
        ("--flags=-O3", "--flags=-O3"),
        ("--flags", "--flags"),
        ("--flags '", "--flags '"),
    ],
)
def test_flags_may_begin_with_a_dash(given: str, joined: str) -> None:
    assert _with_flags_joined(given) == joined


def test_the_progress_contains_the_time(display: RecordedDisplay) -> None:
    clock = ManualClock()
    progress = _CompileProgress(display, "3.1", clock)

    def build() -> int:
        for _ in range(240):  # 12 seconds
            clock.advance(0.05)
            progress.tick()
        return 1

    assert progress.watch(build) == 1
    progress.end("f, g")
    assert display.shown[0] == "compiling with Cython 3.1, 0.1 s …"
    assert display.shown[-1] == "end: f, g: compiled with Cython 3.1 in 12.0 s"
    assert 9 <= len(display.shown) <= 13  # a front end without widgets keeps each


def test_what_was_compiled_before_takes_no_time(display: RecordedDisplay) -> None:
    progress = _CompileProgress(display, "3.1", ManualClock())
    progress.end("f")
    assert display.shown == ["end: f: compiled with Cython 3.1 before"]


@pytest.mark.parametrize(
    ("error", "shown"),
    [(KeyboardInterrupt(), "end: stopped, after 2.0 s"), (BuildFailed("x"), "end: not compiled, after 2.0 s")],
)
def test_the_progress_ends_with_the_reason(display: RecordedDisplay, error: BaseException, shown: str) -> None:
    clock = ManualClock()
    progress = _CompileProgress(display, "3.1", clock)

    def build() -> None:
        clock.advance(2.0)
        progress.tick()
        raise error

    with pytest.raises(type(error)):
        progress.watch(build)
    assert display.shown[1:] == [shown]


def test_errors_show_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    # No real shell: there can be one in a process, and it takes a lot for itself.
    magics = cast(Any, CythonMagics.__new__(CythonMagics))
    magics.shell = SimpleNamespace(user_ns={"known": 1}, displayhook=SimpleNamespace(prompt_count=3))
    problems = [
        (3, 11, "undeclared name not builtin: known"),
        (1, 0, "x"),
        (99, 0, "y"),
        (0, 0, "z"),
        (4, 2, "v"),
        (5, 1, "w"),
    ]

    def fails(recipe: Recipe, *_: Any) -> None:
        raise CompileError("line 3: ...", problems)

    monkeypatch.setattr(cython_magics, "cython_version", lambda: "3.1")
    monkeypatch.setattr(magics, "_built", fails)
    with pytest.raises(CompileError) as caught:
        magics.cython_task("", "def f():\n    return known\n\tx\n")
    assert [text for text in cast(Any, caught.value)._render_traceback_() if not text.startswith("  Cell")] == [
        "    return known",
        "           ^",
        "CompileError: undeclared name not builtin: known: a compiled cell does not see the notebook's variables, so"
        " pass it as an argument",
        "    ",
        "    ^",
        "CompileError: x",
        "CompileError: y",
        "CompileError: z",
        "    x",
        "     ^",
        "CompileError: v",
        "and 1 more",
    ]


def test_frames_of_compiled_cells_are_named_like_the_cell() -> None:
    name_compiled("_cython_cell_0123.pyx", "In[7]")
    assert trim(TEXT).splitlines() == [
        "Traceback (most recent call last):",
        "  Cell In[7], line 9",
        "    Pair(1, 0).ratio()",
        "  Cell In[7], line 3, in Pair.ratio",
        "    return a / b",
        "ZeroDivisionError: float division",
    ]


def test_an_interrupt_waits_until_the_progress_is_shown(
    display: RecordedDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        display.shown.append(text)

    monkeypatch.setattr(display, "show", show)
    progress = _CompileProgress(display, "3.1", ManualClock())
    with pytest.raises(KeyboardInterrupt):
        progress.watch(progress.tick)
    assert display.shown == ["compiling with Cython 3.1, 0.0 s …", "end: stopped, after 0.0 s"]


@pytest.mark.parametrize(
    ("source", "hinted"),
    [
        ("from cython.parallel cimport prange\nfor i in prange(3): pass", True),
        ("    for i in prange(3, nogil=True):", True),
        ("# for i in prange(3):", False),
        ("for i in range(3):", False),
    ],
)
def test_prange_without_openmp_is_hinted_at(source: str, hinted: bool) -> None:
    assert (prange_without_openmp(source) is not None) is hinted
