"""The engine "ray": the threads in which it calls Ray, and a Ray that hangs.

Whole engines are in `tests/contract/test_engines.py`, a head that dies in `tests/integration/test_ray_nodes.py`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

pytest.importorskip("ray")

import ray

from concurrent_nb.engines import ray_engine
from concurrent_nb.engines.group_messages import EngineSession
from concurrent_nb.engines.ray_engine import RayConnection, RayEngine, _RayActor
from concurrent_nb.errors import EngineUnavailable
from tests.engine_events import Heard

SESSION = EngineSession(b"t" * 16, "another machine", [], "", 1.0)


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


class HangingRay:
    """Stands for Ray's functions; those in `hangs` wait until the test has ended."""

    def __init__(self) -> None:
        self.hangs: set[str] = set()
        self.called: list[str] = []
        self.is_initialized = False
        self._go_on = threading.Event()

    def call(self, name: str) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self.called.append(name)
            if name in self.hangs:
                self._go_on.wait()
            if name in ("init", "shutdown"):
                self.is_initialized = name == "init"
            return [{"NodeManagerAddress": "127.0.0.1"}]

        return called

    def go_on(self) -> None:
        self._go_on.set()
        for thread in threading.enumerate():
            if thread.name == "concurrent_nb ray asks":
                thread.join(10)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingRay]:
    found = HangingRay()
    for name in ("init", "nodes", "shutdown"):
        monkeypatch.setattr(ray, name, found.call(name))
    monkeypatch.setattr(ray, "is_initialized", lambda: found.is_initialized)
    monkeypatch.setattr(ray_engine, "CONNECTION", RayConnection())
    for name in ("START_S", "LEAVE_S", "LOOK_S", "ANSWER_S", "SILENT_S"):
        monkeypatch.setattr(ray_engine, name, 0.01)
    monkeypatch.setattr(ray_engine, "HANGS_S", 0.05)
    yield found
    found.go_on()


def test_a_ray_that_hangs_while_it_is_connected_is_named_and_left_when_it_goes_on(hanging: HangingRay) -> None:
    hanging.hangs = {"init"}
    engine = RayEngine("ray")
    with pytest.raises(EngineUnavailable, match=r"the Ray of this machine has not answered for 0\.01 s: its head may"):
        engine.open(SESSION, Heard())
    engine.close()
    assert "shutdown" not in hanging.called
    hanging.go_on()
    assert hanging.called == ["init", "shutdown"]


def test_a_ray_that_hangs_is_told_and_given_up_and_holds_up_no_close(
    hanging: HangingRay, caplog: pytest.LogCaptureFixture
) -> None:
    engine = RayEngine("ray")
    engine._events, engine._session = (heard := Heard()), SESSION
    ray_engine.CONNECTION.join(engine._connect)
    engine._has_joined = True
    hanging.hangs = {"nodes", "shutdown"}
    engine._watch()
    ((kind, reason),) = heard.events
    assert (kind, reason.startswith("the Ray of this machine does not answer: it has hung for")) == ("gone", True)
    engine.close()
    assert "the Ray of this machine has not answered for" in caplog.text
    assert "the Ray of this machine does not let this process go" in caplog.text
    assert hanging.called == ["init", "nodes", "shutdown"]


def test_the_last_engine_on_a_connection_of_ours_ends_it(hanging: HangingRay) -> None:
    engines = [RayEngine("ray"), RayEngine("ray")]
    for engine in engines:
        engine._session = SESSION
        ray_engine.CONNECTION.join(engine._connect)
        engine._has_joined = True
    engines[0].close()
    engines[0].close()  # counts once
    assert hanging.called == ["init"]
    engines[1].close()
    assert hanging.called == ["init", "shutdown"]


def test_a_connection_of_the_user_stays(hanging: HangingRay) -> None:
    hanging.is_initialized = True
    engine = RayEngine("ray")
    engine._session = SESSION
    ray_engine.CONNECTION.join(engine._connect)
    engine._has_joined = True
    engine.close()
    assert hanging.called == []


def test_actors_that_do_not_start_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RayEngine("ray")
    engine._events, engine.slots = Heard(), 2
    engine._actors = actors = [_RayActor(None), _RayActor(None)]
    for actor in actors:
        failed: Future[bool] = Future()
        failed.set_exception(ImportError("no module of ours\nmore"))
        engine._is_placed(actor, failed)
    begun = time.monotonic()
    with pytest.raises(
        EngineUnavailable, match=r"our actors do not start on the Ray of this machine: no module of ours$"
    ):
        engine._await_first_actor()
    assert time.monotonic() - begun < ray_engine.START_S / 2


@pytest.mark.parametrize("error", [CancelledError(), KeyboardInterrupt(), ValueError("it cannot be unpickled")])
def test_a_group_ends_whatever_ray_answers(error: BaseException) -> None:
    engine = RayEngine("ray")
    engine._events = heard = Heard()
    actor = _RayActor(None)
    actor.group, engine._actor_of[3] = 3, actor
    answer: Future[Any] = Future()
    answer.set_exception(error)
    engine._ended(3, actor, answer)
    assert [(kind, number) for kind, number, _ in heard.events] == [("lost", 3)]
    assert actor.group != 3
    assert not engine._actor_of
