"""The stop button: noted where it would leave something half done, obeyed where one waits, and never lost."""

import io
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import pytest

from concurrent_nb import Job, TaskFuture
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.job_watch import JobWatch
from concurrent_nb.notebook.stop_button import DEFERRED_PRESSES, StopButton


def press() -> None:
    signal.raise_signal(signal.SIGINT)


class PressedJob:
    """A job that has the button pressed while somebody waits for it."""

    def wait(self, timeout_s: float | None = None) -> bool:
        press()
        return False


class EndedJob:
    """A job that has ended."""

    def wait(self, timeout_s: float | None = None) -> bool:
        return True


def test_a_press_while_one_waits_is_obeyed_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopButton() as button, pytest.raises(KeyboardInterrupt):
        button.wait(PressedJob(), 0.0)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_earlier_one_is_obeyed_when_one_waits() -> None:
    with StopButton() as button:
        press()
        with pytest.raises(KeyboardInterrupt):
            button.wait(EndedJob(), 0.0)
        assert button.wait(EndedJob(), 0.0)  # it has been heard of


def test_one_for_which_nobody_has_waited_is_obeyed_on_leaving() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopButton():
        press()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_is_not_hidden_by_a_press() -> None:
    def fails() -> None:
        with StopButton():
            press()
            raise ValueError("the job could not be started")

    with pytest.raises(ValueError, match="the job could not be started"):
        fails()


def test_who_presses_again_and_again_is_obeyed_anywhere() -> None:
    done = []

    def goes_on() -> None:
        with StopButton():
            for number in range(DEFERRED_PRESSES + 2):
                press()
                done.append(number)

    with pytest.raises(KeyboardInterrupt):
        goes_on()
    assert len(done) == DEFERRED_PRESSES


def test_other_threads_have_no_button() -> None:
    seen: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with StopButton() as button:
            seen.append(signal.getsignal(signal.SIGINT) is before)
            seen.append(button.wait(EndedJob(), 0.0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, True]


class OneTask(Job):
    """A job of one task that runs until it is cancelled."""

    def __init__(self) -> None:
        super().__init__(new_job_id(), "one", self._cancel)
        self.futures = [TaskFuture(self.id, 0, self._cancel, self)]
        self.cancels = 0

    def wait(self, timeout_s: float | None = None) -> bool:
        return super().wait(0.0)

    def _cancel(self, job: JobId, indexes: object) -> None:
        self.cancels += 1


def is_free(job: Job) -> bool:
    """Tell whether the application's thread could go on."""
    free: list[bool] = []

    def look() -> None:
        if got := job._condition.acquire(blocking=False):
            job._condition.release()
        free.append(got)

    other = threading.Thread(target=look)
    other.start()
    other.join()
    return free[0]


class Said:
    """A line that remembers its end."""

    is_fixed = False

    def __init__(self) -> None:
        self.end_text = ""

    def show(self, text: str) -> None:
        pass

    def make_room(self) -> None:
        pass

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        self.end_text = text


@pytest.mark.parametrize("pressed_at", range(1, 150))
def test_wherever_it_is_pressed_the_job_is_stopped_and_the_cell_says_so(pressed_at: int) -> None:
    """Press when so many calls have been made since the job was started."""
    job, line, out, left = OneTask(), Said(), io.StringIO(), pressed_at

    def step(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == 0:
                press()

    def cell() -> None:
        with StopButton() as button:
            sys.setprofile(step)
            try:
                JobWatch(job, line, Printer(True, out, out), button, 0.0).wait()
            finally:
                sys.setprofile(None)

    with pytest.raises(KeyboardInterrupt):
        cell()
    assert job.cancels == 1
    assert line.end_text.startswith("stopped: ")
    assert is_free(job)
