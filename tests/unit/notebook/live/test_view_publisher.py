"""When a view is asked about and sent, and what becomes of it when the master does not answer."""

import threading
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from concurrent_nb import Job
from concurrent_nb.clock import ManualClock
from concurrent_nb.errors import ConfigurationError, MasterUnreachable
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.master_calls import MasterCalls
from concurrent_nb.notebook.live import view_publisher
from concurrent_nb.notebook.live.view_publisher import (
    CALL_S,
    GIVE_UP_S,
    LONGEST_TICK_S,
    RETRY_S,
    SETTLED_S,
    TICK_OF_JOB_S,
    TICK_S,
    UNWANTED_S,
    Schedule,
    ViewPublisher,
)
from tests.made_up_jobs import MadeUpJob


class Master:
    """Stands for the calls of an application: notes them, and answers as the test says."""

    def __init__(self) -> None:
        self.wanted = False
        self.error: Exception | None = None
        self.has_left = False
        self.connections = 0
        self.asked = 0
        self.sent: list[tuple[str, Any]] = []
        self.reached: Callable[[], None] = lambda: None

    def separate(self, timeout_s: float) -> "Master":
        assert timeout_s == CALL_S
        self.connections += 1
        return self

    def close(self) -> None:
        self.connections -= 1

    def __call__(self, method: str, *, job: str, view: msgspec.Raw | None) -> dict[str, bool]:
        assert method == "share_view"
        self.reached()
        if self.error is not None:
            raise self.error
        if view is None:
            self.asked += 1
        else:
            self.sent.append((job, msgspec.json.decode(view)))
        return {"wanted": self.wanted}


class Shown:
    """A view that changes when the test says so."""

    def __init__(self, master: Master | None) -> None:
        self.it = MadeUpJob(1)
        self.job: Job[Any] = self.it.job
        self.it.job.futures[0].job = self.it.job
        self.job.ask = cast("MasterCalls | None", master)
        self.is_final = False
        self.version: object = 0
        self.encoded = 0

    def finish(self) -> None:
        self.is_final = True

    def encode(self) -> bytes:
        self.encoded += 1
        return msgspec.json.encode({"version": self.version, "is_over": self.is_final})


class Bench:
    """A publisher whose turns the test takes."""

    def __init__(self) -> None:
        self.clock, self.cpu = ManualClock(), ManualClock()
        self.publisher = ViewPublisher(self.clock, self.cpu)
        self.publisher._thread = threading.current_thread()  # so that it starts none
        self.publisher._next_tick_s = TICK_S
        self.master = Master()
        self.left: float | None = 0.0

    def add(self) -> Shown:
        shown = Shown(self.master)
        self.publisher.add(shown)
        return shown

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(TICK_S)
            self.left = self.publisher.turn()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nobody_looks_so_it_is_asked_about_and_seldom_sent(bench: Bench) -> None:
    shown = bench.add()
    bench.tick(9)
    assert (bench.master.asked, bench.master.sent, shown.encoded) == (9, [], 0)
    bench.tick()
    assert [view["version"] for _, view in bench.master.sent] == [0]
    bench.tick(20)
    assert len(bench.master.sent) == 1, "it has not changed"
    shown.version = 1
    bench.tick()
    assert [view["version"] for _, view in bench.master.sent] == [0, 1]
    assert shown.encoded == 2


def test_somebody_looks_so_each_change_is_sent(bench: Bench) -> None:
    shown = bench.add()
    bench.master.wanted = True
    bench.tick()
    assert len(bench.master.sent) == 1
    bench.tick(3)
    assert len(bench.master.sent) == 1
    for version in (1, 2):
        shown.version = version
        bench.tick()
    assert [view["version"] for _, view in bench.master.sent] == [0, 1, 2]
    bench.master.wanted = False
    shown.version = 3
    bench.tick(3)
    assert len(bench.master.sent) == 3


def test_an_old_job_is_sent_less_often() -> None:
    schedule = Schedule(None, 0.0)
    assert not schedule.is_due(1, UNWANTED_S - 0.1, wanted=False)
    assert schedule.is_due(1, UNWANTED_S, wanted=False)
    schedule.sent(1, 1000.0)
    assert not schedule.is_due(2, 1300.0, wanted=False)
    assert schedule.is_due(2, 1340.0, wanted=False)
    assert schedule.is_due(2, 1001.0, wanted=True)
    assert not schedule.is_due(1, 9000.0, wanted=True)


def test_the_last_view_is_sent_at_once_and_then_nothing(bench: Bench) -> None:
    shown = bench.add()
    bench.publisher.finish(shown)
    assert bench.publisher._wake.is_set()
    assert bench.publisher.turn() is None
    assert bench.master.sent == [(shown.job.id.hex(), {"version": 0, "is_over": True})]
    assert bench.master.asked == 0
    assert bench.master.connections == 0


def test_the_end_of_one_job_does_not_hurry_the_others(bench: Bench) -> None:
    ends, goes_on = bench.add(), bench.add()
    goes_on.job.id = JobId(b"\2" * 16)
    bench.clock.advance(TICK_S / 4)
    bench.publisher.finish(ends)
    assert bench.publisher.turn() == pytest.approx(TICK_S * 3 / 4)
    assert [job for job, _ in bench.master.sent] == [ends.job.id.hex()]
    assert bench.master.asked == 0
    assert bench.master.connections == 1
    bench.tick()
    assert bench.master.asked == 1


def test_what_changes_while_it_is_sent_is_sent_again(bench: Bench) -> None:
    shown = bench.add()
    bench.master.wanted = True

    def change() -> None:
        shown.version = 1

    bench.master.reached = change
    bench.tick()
    bench.tick()
    assert len(bench.master.sent) == 2


def test_a_job_without_a_cluster_is_not_shared(bench: Bench) -> None:
    bench.publisher.add(Shown(None))
    bench.tick()
    assert bench.left is None


@pytest.mark.parametrize("error", [MasterUnreachable("gone"), ConfigurationError("no such job yet"), OSError(9, "x")])
def test_a_call_that_fails_is_tried_again_later(bench: Bench, error: Exception) -> None:
    bench.add()
    bench.master.wanted, bench.master.error = True, error
    reached = []
    bench.master.reached = lambda: reached.append(bench.clock.now)
    bench.tick(12)
    assert reached == [1.0, 1.0 + RETRY_S, 1.0 + 2 * RETRY_S]
    bench.master.error = None
    bench.tick(5)
    assert len(bench.master.sent) == 1


def test_a_master_that_is_away_is_asked_about_one_view_only(bench: Bench) -> None:
    bench.add()
    bench.add()
    reached = []
    bench.master.reached = lambda: reached.append(bench.clock.now)
    bench.master.error = MasterUnreachable("gone")
    bench.tick(4)
    assert reached == [1.0]
    bench.master.error = ConfigurationError("no such job")
    bench.tick(4)
    assert reached == [1.0, 6.0, 6.0], "a refusal concerns one job"


def test_the_last_view_is_given_up_after_a_while(bench: Bench) -> None:
    shown = bench.add()
    bench.master.error = MasterUnreachable("gone")
    bench.publisher.finish(shown)
    ticks = 0
    while bench.left is not None:
        bench.tick()
        ticks += 1
    assert GIVE_UP_S <= ticks * TICK_S <= GIVE_UP_S + 2 * TICK_S
    assert bench.master.connections == 0


def test_an_application_that_has_left_is_given_up_at_once(bench: Bench) -> None:
    bench.add()
    bench.tick()
    bench.master.has_left = True
    bench.tick()
    assert bench.left is None
    assert bench.master.connections == 0


def test_a_view_that_cannot_be_made_is_given_up(bench: Bench) -> None:
    class Broken(Shown):
        def encode(self) -> bytes:
            raise RuntimeError("broken")

    bench.master.wanted = True
    bench.publisher.add(Broken(bench.master))
    bench.tick()
    assert bench.left is None


def test_a_job_that_ended_without_its_display_is_sent_all_the_same(bench: Bench) -> None:
    shown = bench.add()
    shown.it.end(0, 1)
    assert shown.job.done()
    bench.tick(1 + int(SETTLED_S / TICK_S))
    assert bench.left is None
    assert bench.master.sent[-1][1]["is_over"] is True


def test_a_job_that_goes_on_under_another_id_begins_anew(bench: Bench) -> None:
    shown = bench.add()
    bench.tick(10)
    shown.job.id = JobId(b"\2" * 16)
    bench.tick(9)
    assert len(bench.master.sent) == 1
    bench.tick(2)
    assert [job for job, _ in bench.master.sent] == [JobId(b"\1" * 16).hex(), JobId(b"\2" * 16).hex()]


def test_turns_that_take_long_come_less_often(bench: Bench) -> None:
    bench.add()
    bench.master.reached = lambda: bench.cpu.advance(0.2)
    bench.tick()
    assert bench.left == pytest.approx(4.0)
    bench.master.reached = lambda: bench.cpu.advance(60.0)
    bench.tick(4)
    assert bench.left == LONGEST_TICK_S


def test_many_jobs_ask_less_often(bench: Bench) -> None:
    for _ in range(30):
        bench.add()
    bench.tick()
    assert bench.left == pytest.approx(30 * TICK_OF_JOB_S)
    assert bench.master.connections == 1


def join(publisher: ViewPublisher) -> None:
    """Wait for the end of the thread, if it has not ended already."""
    if publisher._thread is not None:
        publisher._thread.join(20)
    assert publisher._thread is None


def test_the_thread_ends_after_the_last_job() -> None:
    publisher, master = ViewPublisher(), Master()
    shown, also = Shown(master), Shown(master)
    publisher.add(shown)
    thread = publisher._thread
    assert thread is not None
    publisher.add(also)
    assert publisher._thread is thread
    publisher.finish(shown)
    publisher.finish(also)
    thread.join(20)
    assert not thread.is_alive()
    assert len(master.sent) == 2
    again = Shown(master)
    publisher.add(again)
    publisher.finish(again)
    join(publisher)
    assert len(master.sent) == 3


def test_at_the_end_of_python_what_is_final_is_sent_and_the_rest_dropped() -> None:
    publisher, master = ViewPublisher(), Master()
    runs, final = Shown(master), Shown(master)
    publisher.add(runs)
    publisher.add(final)
    thread = publisher._thread
    assert thread is not None
    final.finish()
    publisher.close()
    assert not thread.is_alive()
    assert [view["is_over"] for _, view in master.sent] == [True]
    publisher.close()
    late = Shown(master)
    publisher.add(late)
    publisher.finish(late)
    join(publisher)
    assert len(master.sent) == 2


def test_the_end_of_python_does_not_wait_for_a_master_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_publisher, "JOIN_S", 0.05)
    publisher, master = ViewPublisher(), Master()
    answers = threading.Event()

    def hang() -> None:
        answers.wait(20)

    master.reached = hang
    shown = Shown(master)
    publisher.add(shown)
    thread = publisher._thread
    assert thread is not None
    publisher.finish(shown)
    publisher.close()
    assert thread.is_alive()
    answers.set()
    thread.join(20)
    assert not thread.is_alive()
