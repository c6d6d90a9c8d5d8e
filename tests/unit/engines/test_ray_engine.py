"""The engine "ray": the threads in which it calls Ray. Whole engines are in `tests/contract/test_engines.py`."""

import threading
from concurrent.futures import Future

import pytest

pytest.importorskip("ray")

from concurrent_nb.engines.ray_engine import RayEngine


class Ref:
    """An answer of Ray that is still to come."""

    def __init__(self) -> None:
        self.answer: Future[str] = Future()

    def future(self) -> Future[str]:
        return self.answer


def test_answers_are_handled_in_no_thread_of_rays() -> None:
    """A call of an actor in the thread in which Ray's client answers waits for ever."""
    engine, ref, threads, handled = RayEngine("ray"), Ref(), list[str](), threading.Event()

    def handle(answer: Future[str]) -> None:
        threads.append(threading.current_thread().name)
        if answer.result() == "wrong":
            raise ValueError("this answer cannot be handled")
        handled.set()

    engine._handler.start()
    wrong = Ref()
    engine._when_answered(wrong, handle)
    engine._when_answered(ref, handle)
    for answer, text in ((wrong.answer, "wrong"), (ref.answer, "right")):
        answering = threading.Thread(target=answer.set_result, args=(text,))
        answering.start()
        answering.join()
    assert handled.wait(10)
    assert threads == ["concurrent_nb ray answers"] * 2  # what one handler raises does not end the thread
    engine._answers.put(None)
    engine._handler.join(10)
    assert not engine._handler.is_alive()
