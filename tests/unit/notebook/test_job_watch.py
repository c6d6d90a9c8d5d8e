"""Waiting for a job in a cell: what is shown when, and what an interrupt does."""

import io
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from concurrent_nb import Job
from concurrent_nb.api import Counts, OutputPiece
from concurrent_nb.clock import ManualClock
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.job_watch import FIRST_S, SLICE_S, JobWatch
from concurrent_nb.notebook.progress_display import (
    KernelProgress,
    SummaryOnly,
    TerminalProgress,
    progress_display_for,
    progress_text,
    system_text,
)
from concurrent_nb.notebook.results import plural, stopped, summary
from concurrent_nb.notebook.stop_button import StopButton
from concurrent_nb.shipping.runtime.notes import PhaseCounts, SystemCounts

Step = Callable[["ScriptedJob"], None]


@dataclass
class Future:
    ended: bool = False

    def done(self) -> bool:
        return self.ended


@dataclass
class ScriptedJob:
    """A job to which one step happens in each slice of waiting; it has ended after the last."""

    steps: list[Step]
    now: Counts
    pieces: list[OutputPiece] = field(default_factory=list)
    cancelled: int = 0
    slaves: set[str] = field(default_factory=lambda: {"one"})
    futures: list[Future] = field(default_factory=lambda: [Future() for _ in range(3)])
    waited: list[float | None] = field(default_factory=list)

    def wait(self, timeout_s: float | None = None) -> bool:
        self.waited.append(timeout_s)
        if not self.steps:
            return True
        self.steps.pop(0)(self)
        return False

    def cancel(self) -> None:
        self.cancelled += 1

    def counts(self) -> Counts:
        return self.now

    def input_counts(self) -> tuple[int, int]:
        return 0, 0

    def take_output(self) -> list[OutputPiece]:
        pieces, self.pieces = self.pieces, []
        return pieces


class Recorder:
    """A line that remembers what it was asked to show."""

    def __init__(self, is_fixed: bool = False) -> None:
        self.is_fixed = is_fixed
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def make_room(self) -> None:
        if self.shown and not self.shown[-1].startswith("("):
            self.shown.append("(room)")

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        self.shown.append(f"end: {text}")
        self.summary_parts = (elapsed_s, list(notes))


def nothing(job: ScriptedJob) -> None:
    pass


def interrupt(job: ScriptedJob) -> None:
    raise KeyboardInterrupt


def watching(job: ScriptedJob, clock: ManualClock | None = None) -> tuple[JobWatch, Recorder, io.StringIO]:
    line, out = Recorder(), io.StringIO()
    clock = clock or ManualClock(10.0)
    return JobWatch(cast(Job, job), line, Printer(True, out, out), StopButton(), clock(), clock=clock), line, out


def test_a_quick_job_shows_its_summary_only() -> None:
    job = ScriptedJob([], Counts(0, 0, 3, 0, 0))
    watch, line, _ = watching(job)
    watch.wait()
    assert line.shown == ["end: 3 tasks in 0.00 s"]


def test_prints_and_progress_are_shown_while_it_runs() -> None:
    clock = ManualClock()

    def prints(job: ScriptedJob) -> None:
        clock.advance(2.0)
        job.pieces.append(OutputPiece(1, 1, "hello\nrest"))

    def ends(job: ScriptedJob) -> None:
        clock.advance(2.0)
        job.futures[1].ended = True
        job.now = Counts(1, 0, 2, 0, 0)

    job = ScriptedJob([prints, ends], Counts(1, 1, 1, 0, 0))
    watch, line, out = watching(job, clock)
    watch.wait()
    assert out.getvalue() == "[1] hello\n[1] rest\n"
    assert line.shown == [
        "[######--------------] 1/3 tasks, 1 running, 0.5/s, 4.0 s left",
        "(room)",
        "[#############-------] 2/3 tasks, 0.5/s, 2.0 s left",
        "(room)",
        "end: 3 tasks: 2 done in 4.0 s",
    ]
    assert job.waited == [FIRST_S, SLICE_S, SLICE_S]


def test_a_fixed_display_is_updated_before_the_output_of_tasks() -> None:
    order: list[str] = []

    class Leading(Recorder):
        def show(self, text: str) -> None:
            order.append("line")

        def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
            order.append("end")

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            order.append(text)
            return len(text)

    for steps in ([nothing], []):
        order.clear()
        job = ScriptedJob([*steps], Counts(0, 0, 3, 0, 0), [OutputPiece(0, 1, "hello\n")])
        printer = Printer(False, Out(), Out())
        JobWatch(cast(Job, job), Leading(is_fixed=True), printer, StopButton(), 0.0, clock=ManualClock()).wait()
        assert order == (["line", "hello\n", "end"] if steps else ["end", "hello\n"])


def test_an_interrupt_stops_the_job_and_reports_its_counts() -> None:
    def stops(job: ScriptedJob) -> None:
        job.now = Counts(0, 0, 12, 0, 116)

    job = ScriptedJob([nothing, interrupt, stops], Counts(113, 3, 12, 0, 0))
    watch, line, _ = watching(job)
    with pytest.raises(KeyboardInterrupt) as raised:
        watch.wait()
    assert job.cancelled == 1
    assert line.shown[-1] == "end: stopped: 12 done, 3 stopped while running, 113 never ran"
    assert line.summary_parts == (0.0, ["stopped", "3 stopped while running", "113 never ran"])
    assert raised.value._render_traceback_()[0].startswith("KeyboardInterrupt: ")  # type: ignore[attr-defined]
    assert sum(seconds or 99 for seconds in job.waited[2:]) < 1.0


def test_a_second_interrupt_waits_for_nothing() -> None:
    job = ScriptedJob([interrupt, interrupt, nothing], Counts(5, 2, 1, 1, 0))
    watch, line, _ = watching(job)
    with pytest.raises(KeyboardInterrupt):
        watch.wait()
    assert job.cancelled == 1
    assert len(job.steps) == 1
    assert "7 still being stopped" in line.shown[-1]
    assert "1 failed" in line.shown[-1]


def test_a_press_from_before_stops_the_job_at_once() -> None:
    job, line, out = ScriptedJob([nothing], Counts(3, 0, 0, 0, 0)), Recorder(), io.StringIO()

    def cell() -> None:
        with StopButton() as button:
            signal.raise_signal(signal.SIGINT)
            JobWatch(cast(Job, job), line, Printer(True, out, out), button, 0.0).wait()

    with pytest.raises(KeyboardInterrupt):
        cell()
    assert job.cancelled == 1


def test_what_was_printed_last_is_shown_after_an_interrupt() -> None:
    job = ScriptedJob([interrupt], Counts(0, 1, 0, 0, 0), [OutputPiece(0, 1, "last words")])
    watch, _, out = watching(job)
    with pytest.raises(KeyboardInterrupt):
        watch.wait()
    assert out.getvalue() == "[0] last words\n"


@pytest.mark.parametrize(
    ("counts", "elapsed_s", "text"),
    [
        (Counts(1, 0, 0, 0, 0), 0.31, "waiting, 0.31 s"),
        (Counts(0, 1, 0, 0, 0), 2.04, "running, 2.0 s"),
        (Counts(4, 0, 0, 0, 0), 0.2, "[--------------------] 0/4 tasks"),
        (Counts(0, 1, 1, 1, 1), 2.0, "[###############-----] 3/4 tasks, 1 running, 1 failed, 1.5/s, 0.67 s left"),
    ],
)
def test_progress_is_a_line_of_text(counts: Counts, elapsed_s: float, text: str) -> None:
    assert progress_text(counts, elapsed_s) == text


def test_progress_of_a_task_system_is_one_too() -> None:
    summary_parts = SystemCounts("running", 50, 20, 18, 2, 29, 1, 0, False, 2.0, [PhaseCounts(2, 40, 20, 19, 1, 0)])
    text = "30 of 50 tasks so far, phase 2: 20/40, 2 running, 1 failed, 15.0/s"
    assert system_text(summary_parts, 2.0) == text
    preparing = SystemCounts("preparing", 0, 0, 0, 0, 0, 0, 0, True, 0.0, [])
    assert system_text(preparing, 0.25) == "the system is preparing, 0.25 s"


def test_a_job_that_another_one_follows_has_no_summary() -> None:
    job: Any = ScriptedJob([], Counts(0, 0, 1, 0, 0))
    line = Recorder()
    JobWatch(job, line, Printer(tagged=False), StopButton(), 0.0, continues=lambda job: True).wait()
    assert line.shown == []


def test_summaries() -> None:
    job: Any = ScriptedJob([], Counts(0, 0, 113, 0, 15), slaves={"a", "b"})
    assert summary(job, 0.839) == "128 tasks: 113 done, 15 cancelled in 0.84 s, on 2 slaves"
    assert summary(job, 0.839, "in this process").endswith(" in 0.84 s, in this process")
    job.now, job.slaves = Counts(0, 0, 100_000, 0, 0), {"a"}
    assert summary(job, 26.04) == "100,000 tasks in 26.0 s"
    job.now = Counts(0, 0, 2_000, 1_500, 0)
    assert summary(job, 125.2) == "3,500 tasks: 2,000 done, 1,500 failed in 2 min 05 s"
    after = Counts(0, 0, 12, 0, 3)
    assert stopped(Counts(0, 5, 10, 0, 0), after) == ["12 done", "3 stopped while running"]
    assert (plural(1, "task"), plural(0, "task")) == ("1 task", "0 tasks")


def test_a_terminal_s_line_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    line = TerminalProgress()
    line.make_room()
    line.show("one")
    line.show("two")
    line.make_room()
    line.make_room()
    line.end("three")
    assert capsys.readouterr().out == "\r\x1b[2Kone\r\x1b[2Ktwo\r\x1b[2Kthree\n"


def test_without_a_terminal_only_the_last_line_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    line = progress_display_for(None)
    assert isinstance(line, SummaryOnly)
    line.show("one")
    line.make_room()
    line.end("two")
    assert capsys.readouterr().out == "two\n"


def test_a_kernel_s_line_is_a_display_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[str, str, bool]] = []

    class Publisher:
        def publish(self, data: Any, transient: Any, update: bool = False, **_: Any) -> None:
            published.append((data["text/plain"], transient["display_id"], update))

    class Shell:
        kernel = object()
        display_pub = Publisher()

        @classmethod
        def initialized(cls) -> bool:
            return True

        @classmethod
        def instance(cls) -> "Shell":
            return cls()

    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell", Shell)
    line = progress_display_for(cast(Any, Shell()))
    assert isinstance(line, KernelProgress)
    line.show("one")
    line.make_room()
    line.end("two")
    assert [(text, update) for text, _, update in published] == [("one", False), ("two", True)]
    assert published[0][1] == published[1][1]
