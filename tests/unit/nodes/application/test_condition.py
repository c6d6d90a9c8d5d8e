"""The condition that may be interrupted anywhere: interrupted at every place where Python looks for signals."""

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from concurrent_nb.nodes.application.condition import Condition

Wait = Callable[[Any], None]


def wait_a_little(condition: Any) -> None:
    with condition:
        condition.wait(0.0)


def wait_for_the_other(condition: Any) -> None:
    """Be notified by another thread, which can enter only if the lock is free meanwhile."""

    def notify() -> None:
        with condition:
            condition.notify_all()

    with condition:
        other = threading.Thread(target=notify)
        other.start()
        condition.wait(10.0)
    other.join()


def notify(condition: Any) -> None:
    with condition:
        condition.notify_all()


def interrupted(what: Wait, condition: Any, after: int) -> tuple[bool, BaseException | None]:
    """Do something, interrupted after so many calls of it. Return whether that was before its end, and what it raised.

    Python looks for signals when a function begins, and when one written in C has returned.
    """
    left = after

    def step(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    try:
        sys.setprofile(step)
        what(condition)
    except BaseException as error:  # noqa: BLE001  (which one it is is the question)
        return True, error
    finally:
        sys.setprofile(None)
    return left <= 0, None


def is_free(condition: Any) -> bool:
    """Return whether another thread can enter."""
    free: list[bool] = []

    def try_it() -> None:
        if got := condition.acquire(blocking=False):
            condition.release()
        free.append(got)

    other = threading.Thread(target=try_it)
    other.start()
    other.join()
    return free[0]


def count_interruptions(what: Wait, make: Callable[[], Any]) -> tuple[int, list[str]]:
    """Interrupt at every place; return how many there were, and what went wrong."""
    wrong: list[str] = []
    for places in range(1, 200):
        condition = make()
        was_interrupted, error = interrupted(what, condition, places)
        if not was_interrupted:
            return places - 1, wrong
        if not isinstance(error, KeyboardInterrupt):
            wrong.append(f"place {places}: {error!r}")
        if not is_free(condition):
            wrong.append(f"place {places}: the lock is taken for good")
    raise AssertionError("it has no end")


@pytest.mark.parametrize("what", [wait_a_little, notify])
def test_an_interrupt_leaves_it_in_order_wherever_it_comes(what: Wait) -> None:
    places, wrong = count_interruptions(what, Condition)
    assert places >= 3
    assert wrong == []


def test_that_of_the_standard_library_would_be_left_taken() -> None:
    """Why there is one of our own: when this fails, there need not be."""
    _, wrong = count_interruptions(wait_a_little, threading.Condition)
    assert any("taken for good" in what for what in wrong)


def test_a_notification_wakes_threads_that_wait() -> None:
    condition = Condition()
    wait_for_the_other(condition)
    assert is_free(condition)


def test_without_a_notification_waiting_ends_with_its_time() -> None:
    condition = Condition()
    with condition:
        assert condition.wait(0.001) is False
        assert condition.wait(-1.0) is False
        condition.notify_all()  # no thread waits


def test_a_thread_that_has_not_entered_gets_an_error() -> None:
    condition = Condition()
    with pytest.raises(RuntimeError, match="cannot wait"):
        condition.wait()
    with pytest.raises(RuntimeError, match="cannot notify"):
        condition.notify_all()
