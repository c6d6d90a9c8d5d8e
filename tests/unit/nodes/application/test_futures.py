"""Futures whose condition is made when a thread waits behave as the standard library's."""

import concurrent.futures
import threading
import tracemalloc
from collections.abc import Sequence

import pytest

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.futures import TaskFuture

CANCELLED: list[tuple[JobId, Sequence[int] | None]] = []


def make(index: int = 0) -> TaskFuture:
    return TaskFuture(JobId(b"j" * 16), index, lambda job, indexes: CANCELLED.append((job, indexes)))


def is_furnished(future: TaskFuture) -> bool:
    return "_condition" in vars(future)


def test_a_future_that_has_ended_before_anybody_looks_is_never_furnished() -> None:
    future = make()
    assert not future.done() and not future.running() and not future.cancelled()
    assert future.end(5, None)
    assert future.done() and future.result(0) == 5
    assert not is_furnished(future)


def test_an_exception_is_raised_as_the_standard_library_does() -> None:
    future = make()
    assert future.end(None, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        future.result()
    assert str(future.exception()) == "no"


def test_callbacks_are_called_before_and_after_the_end() -> None:
    early, late = make(), make()
    called: list[object] = []
    early.add_done_callback(called.append)
    early.end(1, None)
    late.end(2, None)
    late.add_done_callback(called.append)
    assert called == [early, late]


def test_the_standard_librarys_functions_take_them() -> None:
    futures = [make(n) for n in range(4)]
    futures[0].end(0, None)
    assert concurrent.futures.wait(futures, timeout=0).done == {futures[0]}
    for future in futures[1:]:
        threading.Thread(target=future.end, args=(future.index, None)).start()
    assert {future.result() for future in concurrent.futures.as_completed(futures, timeout=60)} == set(range(4))


def test_a_cancelled_future_takes_no_result() -> None:
    future = make(3)
    assert future.cancel() and future.cancelled() and future.done()
    assert not future.end(1, None)
    assert CANCELLED[-1] == (future.job_id, (3,))
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_a_future_without_such_an_attribute_says_so() -> None:
    with pytest.raises(AttributeError, match="'TaskFuture' object has no attribute 'nonsense'"):
        make().nonsense  # noqa: B018


def test_no_thread_waits_for_ever_however_the_end_and_the_wait_meet() -> None:
    for _ in range(300):
        assert sorted(found_in_a_race(20)) == sorted([*range(20), *range(20)])


def found_in_a_race(count: int) -> list[int]:
    """Wait for futures in two threads while a third ends them; return what was found."""
    futures = [make(n) for n in range(count)]
    found: list[int] = []
    start = threading.Barrier(3)

    def wait() -> None:
        start.wait()
        found.extend(future.result(60) for future in futures)

    def end() -> None:
        start.wait()
        for future in futures:
            future.end(future.index, None)

    threads = [threading.Thread(target=target) for target in (wait, wait, end)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_what_the_cluster_cancels_is_not_furnished_either_and_has_ended_once() -> None:
    future = make()
    future.end_cancelled()
    assert future.cancelled() and future.done()
    assert not is_furnished(future)
    assert not future.end(5, None)
    future.end_cancelled()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_a_future_that_is_known_to_run_cannot_be_cancelled_and_one_that_was_cancelled_does_not_run() -> None:
    running, cancelled = make(), make()
    running.note_running("one")
    assert (running.running(), running.cancel(), running.slave) == (True, False, "one")
    cancelled.cancel()
    cancelled.note_running("one")
    assert cancelled.cancelled() and not cancelled.running()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
@pytest.mark.parametrize("end", ["end", "end_cancelled", "cancel", "before"])
def test_whatever_a_callback_raises_is_logged_and_the_others_are_called(
    end: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    future = make()
    called: list[object] = []

    def raises(ended: object) -> None:
        raise kind("from a callback")

    def adds() -> None:
        future.add_done_callback(raises)
        future.add_done_callback(called.append)

    if end == "before":
        future.end(1, None)
    else:
        adds()
    ends = {
        "end": lambda: future.end(1, None),
        "end_cancelled": future.end_cancelled,
        "cancel": future.cancel,
        "before": adds,
    }
    ours = threading.Thread(target=ends[end])
    ours.start()
    ours.join()
    assert called == [future] and future.done()
    (record,) = caplog.records
    assert record.name == "concurrent.futures" and record.message.startswith("exception calling callback for <")


def test_a_press_of_the_stop_button_in_a_callback_of_cancel_comes_after_the_bookkeeping() -> None:
    future = make(7)
    called: list[object] = []

    def pressed(ended: object) -> None:
        raise KeyboardInterrupt

    future.add_done_callback(pressed)
    future.add_done_callback(called.append)
    CANCELLED.clear()
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert called == [future] and [indexes for _, indexes in CANCELLED] == [(7,)]
    assert concurrent.futures.wait([future], timeout=0).done == {future}


def test_the_outcome_of_a_future_takes_no_more_memory() -> None:
    futures = [make(i) for i in range(1000)]
    tracemalloc.start()
    before_bytes, _ = tracemalloc.get_traced_memory()
    for future in futures:
        future.slave, future.worker, future.attempt, future.elapsed_s = "slave", 1, 1, 0.5
        future.end(None, None)
    after_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after_bytes - before_bytes < 10_000  # a dict for each would take a hundred times as much
