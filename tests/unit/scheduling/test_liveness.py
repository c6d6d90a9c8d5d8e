"""Silence becomes suspicion, suspicion becomes loss, on a clock that stands still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.liveness import Liveness, NodeChange, NodeState

A, B = SessionId(b"a"), SessionId(b"b")


def watching(**settings: float) -> Liveness:
    """Watch node A from time 0 on."""
    liveness = Liveness(**settings)
    liveness.watch(A, 0.0)
    return liveness


def test_no_node_is_watched_at_first() -> None:
    liveness = Liveness()
    assert liveness.next_deadline() is None
    assert liveness.tick(1e9) == []


def test_a_silent_node_is_suspected_and_then_lost() -> None:
    liveness = watching(interval_s=1.0, suspect_after_s=3.0, lost_after_s=5.0)
    assert liveness.next_deadline() == 3.0
    assert liveness.tick(2.9) == []
    assert liveness.tick(3.0) == [NodeChange(A, NodeState.SUSPECTED)]
    assert liveness.next_deadline() == 5.0
    assert liveness.tick(4.9) == []
    assert liveness.tick(5.0) == [NodeChange(A, NodeState.LOST)]
    # It is not watched any more, and a late sign of life changes nothing.
    liveness.seen(A, 5.1)
    liveness.unreachable(A, 5.1)
    assert liveness.next_deadline() is None


def test_a_node_that_sends_something_is_trusted() -> None:
    liveness = watching()
    for second in range(1, 100):
        liveness.seen(A, float(second))
        assert liveness.tick(float(second)) == []
    assert liveness.tick(102.0) == [NodeChange(A, NodeState.SUSPECTED)]


def test_a_suspected_node_that_sends_something_is_trusted_again() -> None:
    liveness = watching()
    liveness.tick(3.0)
    liveness.seen(A, 4.0)
    assert liveness.next_deadline() == 4.0
    assert liveness.tick(4.0) == [NodeChange(A, NodeState.TRUSTED)]
    assert liveness.tick(6.9) == []
    assert liveness.tick(7.0) == [NodeChange(A, NodeState.SUSPECTED)]


def test_a_node_whose_connection_is_gone_is_suspected_at_once_and_lost_soon() -> None:
    liveness = watching(unreachable_after_s=1.0)
    liveness.seen(A, 0.9)
    liveness.unreachable(A, 1.0)
    assert liveness.tick(1.0) == [NodeChange(A, NodeState.SUSPECTED)]
    liveness.unreachable(A, 1.5)  # a second report does not delay it
    assert liveness.tick(1.9) == []
    assert liveness.tick(2.0) == [NodeChange(A, NodeState.LOST)]


def test_a_node_that_connects_again_in_time_is_trusted_again() -> None:
    liveness = watching(unreachable_after_s=1.0)
    liveness.unreachable(A, 1.0)
    liveness.tick(1.0)
    liveness.seen(A, 1.5)
    assert liveness.tick(1.5) == [NodeChange(A, NodeState.TRUSTED)]
    assert liveness.tick(4.4) == []


def test_a_connection_that_is_gone_does_not_lengthen_the_silence() -> None:
    liveness = watching(unreachable_after_s=10.0)
    liveness.tick(3.0)
    liveness.unreachable(A, 4.5)
    assert liveness.tick(5.0) == [NodeChange(A, NodeState.LOST)]


def test_a_forgotten_node_is_not_judged() -> None:
    liveness = watching()
    liveness.watch(B, 0.0)
    liveness.forget(A)
    liveness.forget(A)
    assert liveness.tick(3.0) == [NodeChange(B, NodeState.SUSPECTED)]


def test_silence_while_this_process_slept_proves_nothing() -> None:
    liveness = watching(interval_s=1.0, suspect_after_s=3.0, lost_after_s=5.0)
    liveness.watch(B, 0.0)
    # Given that this process was stopped for a minute
    assert liveness.tick(60.0) == []
    # When one of two is seen then, the other is lost after one more interval
    liveness.seen(A, 60.5)
    assert liveness.next_deadline() == 61.0
    assert liveness.tick(61.0) == [NodeChange(B, NodeState.LOST)]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"interval_s": 3.0}, "interval_s is 3.0 s, but suspect_after_s is 3.0 s"),
        ({"interval_s": float("nan")}, "interval_s is nan s, but suspect_after_s is 3.0 s"),
        ({"suspect_after_s": 6.0}, "suspect_after_s is 6.0 s, but lost_after_s is 5.0 s"),
        ({"interval_s": 0.0}, "interval_s is 0.0, unreachable_after_s is 1.0"),
        ({"unreachable_after_s": -1.0}, "interval_s is 1.0, unreachable_after_s is -1.0"),
    ],
)
def test_senseless_settings_are_refused_with_both_values(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Liveness(**settings)


@given(st.lists(st.tuples(st.sampled_from(["seen", "unreachable", "quiet"]), st.floats(0.01, 0.9)), max_size=80))
def test_whatever_happens_changes_are_in_order_and_in_time(steps: list[tuple[str, float]]) -> None:
    liveness = watching(interval_s=1.0, suspect_after_s=3.0, lost_after_s=5.0, unreachable_after_s=1.0)
    now, heard_s, state = 0.0, 0.0, NodeState.TRUSTED
    for step, pause_s in steps:
        now += pause_s
        if step == "seen" and state is not NodeState.LOST:
            heard_s = now
            liveness.seen(A, now)
        elif step == "unreachable":
            liveness.unreachable(A, now)
        for change in liveness.tick(now):
            assert state not in (change.state, NodeState.LOST)
            state = change.state
        if state is not NodeState.LOST:
            assert now - heard_s < 5.0
            assert (liveness.next_deadline() or 0.0) > now
        if now - heard_s >= 3.0:
            assert state is not NodeState.TRUSTED


def test_silence_of_a_node_that_is_kept_is_no_loss_and_only_a_long_broken_connection_is() -> None:
    liveness = watching(interval_s=1.0, suspect_after_s=3.0, lost_after_s=5.0, unreachable_after_s=1.0)
    liveness.keep(A, 3600.0)
    assert liveness.tick(3.0) == [NodeChange(A, NodeState.SUSPECTED)]
    assert liveness.next_deadline() is None
    assert liveness.tick(1e6) == []
    # Its connection breaks, and it is seen again within the time
    liveness.unreachable(A, 1e6)
    assert liveness.tick(1e6) == [] and liveness.next_deadline() == 1e6 + 3600
    liveness.seen(A, 1e6 + 3500)
    assert liveness.tick(1e6 + 3500) == [NodeChange(A, NodeState.TRUSTED)]
    # ... and another time it is not
    liveness.unreachable(A, 1e6 + 3501)
    assert liveness.tick(1e6 + 3501) == [NodeChange(A, NodeState.SUSPECTED)]
    assert liveness.tick(1e6 + 3501 + 3599) == []
    assert liveness.tick(1e6 + 3501 + 3600) == [NodeChange(A, NodeState.LOST)]


def test_a_node_that_does_not_come_back_is_lost_a_moment_after_its_connection() -> None:
    liveness = watching(interval_s=1.0, suspect_after_s=3.0, lost_after_s=5.0, unreachable_after_s=1.0)
    liveness.keep(A)
    assert liveness.tick(3.0) == [NodeChange(A, NodeState.SUSPECTED)] and liveness.tick(60.0) == []
    liveness.unreachable(A, 60.0)
    assert liveness.tick(60.9) == [] and liveness.tick(61.0) == [NodeChange(A, NodeState.LOST)]


def test_keeping_a_node_that_is_not_watched_changes_nothing() -> None:
    liveness = Liveness()
    liveness.keep(A, 1.0)
    assert liveness.next_deadline() is None
