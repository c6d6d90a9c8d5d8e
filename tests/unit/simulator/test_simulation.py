"""Hundreds of hostile histories with the real cores, and proof that the simulator would see a broken one."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.scheduling.events import SlaveLost
from concurrent_nb.scheduling.slave_events import SlaveEventHandler
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.suspects import Suspects
from concurrent_nb.wire import codec
from concurrent_nb.wire.codec import Buffer, Received, decode
from concurrent_nb.wire.messages import STRATEGIES
from concurrent_nb.wire.session import Session
from tests.simulator.simulation import explain, main, simulate

#: seeds that every run of the suite goes through
SEEDS = 500
CHUNK = 50
#: a core that is broken on purpose is found out within so many seeds
FOUND_WITHIN = 600


@pytest.fixture(scope="module")
def traces() -> list[str]:
    """Return the traces of the histories that have been run, without envelopes."""
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_nothing_goes_wrong_in_any_history(first: int, traces: list[str]) -> None:
    for seed in range(first, first + CHUNK):
        report = simulate(seed)
        assert not report.violation, explain(seed)
        traces += report.trace


@pytest.mark.parametrize(
    "event",
    [
        "no faults, ",
        "bad network, ",
        "all faults, ",
        *(f", {name}, own" for name in STRATEGIES),
        *(f"strategy {name}" for name in (*STRATEGIES, None)),
        "is killed by a task",
        "few that kill slaves",
        "many that kill slaves",
        "is cut off (lose",
        "is cut off (stall",
        "loses its connection",
        "freezes",
        "slave0 crashes",
        "app0 crashes",
        "the master crashes",
        "the master is back, in epoch 2",
        "refuses calls",
        "a worker of",
        "all workers are restarted",
        "restarted, and what runs is stopped",
        "and all that come after them",
        "offers 0 slots",
        "leaves",
        "cancels job",
        "gives up",
        "it was silent for too long",
        "the cluster is stopped",
        *(f" is {status}" for status in (0, 1, 2, 3, 4, 6, 7)),
    ],
)
def test_the_histories_hold_what_is_meant_to_happen(event: str, traces: list[str]) -> None:
    if not traces:
        pytest.skip("no history was run")
    assert any(event in line for line in traces)


# ------------------------------------------------------------------------------------------------- what is simulated


def test_the_same_seed_is_the_same_history() -> None:
    for seed in range(20):
        assert simulate(seed, trace=True).digest == simulate(seed, trace=True).digest


def test_another_seed_is_another_history() -> None:
    assert len({simulate(seed, trace=True).digest for seed in range(20)}) == 20


def test_the_limits_of_the_wire_are_put_back() -> None:
    before = codec.INLINE_BYTES, codec.RUN_ITEMS, codec.FRAME_BYTES
    for seed in range(20):
        simulate(seed)
    assert before == (codec.INLINE_BYTES, codec.RUN_ITEMS, codec.FRAME_BYTES)


# -------------------------------------------------------------------------------------------- what it would not miss


def test_a_session_that_hands_on_what_came_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Session.receive

    def receive(self: Session, frames: Sequence[Buffer], now: float) -> list[Received]:
        envelope, received = decode(frames, self.direction)
        return received if 0 < envelope.seq <= self._received_seq else original(self, frames, now)

    monkeypatch.setattr(Session, "receive", receive)
    assert _finds_out()


def test_a_session_that_never_sends_again_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_due", lambda self, now: [])
    assert _finds_out()


def test_a_master_that_forgets_the_tasks_of_a_lost_slave_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: SlaveEventHandler, event: SlaveLost, now: float) -> None:
        if (slave := self._state.slaves.get(event.slave)) is not None:
            self._state.remove_slave(slave)

    monkeypatch.setattr(SlaveEventHandler, "lost", lost)
    assert _finds_out()


ALTERED: dict[str, tuple[type, str, str, str]] = {
    "a master that takes any attempt for the current one": (
        SlaveEventHandler,
        "_end_attempts",
        "task is None or task.slave != slave_id or task.attempt != item.attempt",
        "task is None or task.slave is None",
    ),
    "a master that blames only the tasks of which a start was reported": (
        SlaveEventHandler,
        "lost",
        "if event.left:",
        "if event.left or not started:",
    ),
    "a master that blames no task": (SlaveEventHandler, "lost", "if event.left:", "if True:"),
    "a master that quarantines every task that was there the last time": (
        SlaveEventHandler,
        "lost",
        "in_company=task is not surely",
        "in_company=False",
    ),
    "an application that does not submit again": (
        ClientCore,
        "attach",
        "self._wait(job, [entry for entry in job.entries.values() if not entry.is_held])",
        "pass",
    ),
}


@pytest.mark.parametrize(("owner", "method", "old", "new"), ALTERED.values(), ids=ALTERED)
def test_an_altered_method_is_found_out(
    owner: type, method: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, _altered(getattr(owner, method), old, new))
    assert _finds_out()


def test_a_master_that_runs_suspects_beside_others_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspects, "_close", lambda self: False)
    assert _finds_out()


def test_a_master_that_ignores_credit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlaveState, "room", property(lambda slave: 1_000_000 if slave.trusted and slave.slots else 0))
    assert _finds_out()


def test_a_master_without_liveness_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.scheduling.liveness.Liveness.tick", lambda self, now: [])
    assert _finds_out()


def test_what_went_wrong_is_told_with_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SlaveState, "room", property(lambda slave: 1_000_000 if slave.trusted and slave.slots else 0))
    seed = _finds_out()
    # When it is run by hand, then the last part of what happened is shown, and what was wrong with it
    assert main(["--seed", str(seed)]) == 1
    printed = capsys.readouterr().out
    assert f"replay it: python -m tests.simulator.simulation --seed {seed} --trace" in printed
    assert "its credit is" in printed
    assert "Assign(" in printed


def test_a_history_is_printed_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--trace"]) == 0
    printed = capsys.readouterr().out
    assert "has registered as" in printed
    assert "1 seeds, 0 failed" in printed


def _finds_out() -> int | None:
    """Return the first seed whose history has a violation; None if no early one has."""
    return next((seed for seed in range(1, FOUND_WITHIN) if simulate(seed).violation), None)


def _altered(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """Return a function with one expression replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} has changed: alter something else"
    names = dict(function.__globals__)
    exec(source.replace(old, new), names)
    altered: Callable[..., Any] = names[function.__name__]
    return altered
