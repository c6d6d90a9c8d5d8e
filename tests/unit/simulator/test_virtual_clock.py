"""Virtual time: what is due comes in order, and actors sleep, wake, freeze and end."""

import pytest

from tests.simulator.virtual_clock import Actor, Steps, VirtualClock


class Sleeper(Actor):
    """Sleeps for a second at a time, and notes when it was awake."""

    def __init__(self, clock: VirtualClock, turn_s: float = 0.0, turns: int = 100) -> None:
        super().__init__(clock, "sleeper", turn_s)
        self.awake: list[float] = []
        self.begin(self._run(turns))

    def _run(self, turns: int) -> Steps:
        for _ in range(turns):
            self.awake.append(self.clock.now)
            yield self.clock.now + 1.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def sleeper(clock: VirtualClock) -> Sleeper:
    return Sleeper(clock)


def run(clock: VirtualClock, until_s: float) -> None:
    over: list[bool] = []
    clock.at(until_s, lambda: over.append(True))
    clock.run(lambda: bool(over))


def test_what_is_due_happens_in_order_and_in_the_order_of_planning_at_one_time(clock: VirtualClock) -> None:
    happened = list[str]()
    for when_s, what in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        clock.at(when_s, lambda what=what: happened.append(f"{what} at {clock()}"))  # type: ignore[misc]
    clock.run(lambda: False)
    assert happened == ["a at 1.0", "b at 1.0", "c at 2.0"]


def test_what_should_have_happened_happens_now(clock: VirtualClock) -> None:
    happened = list[float]()
    clock.at(5.0, lambda: clock.at(1.0, lambda: happened.append(clock())))
    clock.run(lambda: False)
    assert happened == [5.0]


def test_an_actor_sleeps_until_it_is_woken(clock: VirtualClock, sleeper: Sleeper) -> None:
    clock.at(0.3, sleeper.wake)
    run(clock, 2.0)
    assert sleeper.awake == [0.0, 0.3, 1.3]


def test_what_comes_during_a_turn_waits_for_its_end(clock: VirtualClock) -> None:
    sleeper = Sleeper(clock, turn_s=0.25)
    for when_s in (0.05, 0.1, 0.2):
        clock.at(when_s, sleeper.wake)
    run(clock, 1.0)
    assert sleeper.awake == [0.0, 0.25]


def test_a_frozen_actor_does_nothing_until_it_goes_on(clock: VirtualClock, sleeper: Sleeper) -> None:
    clock.at(0.5, lambda: sleeper.freeze(5.0))
    clock.at(0.7, sleeper.wake)
    run(clock, 6.0)
    assert sleeper.awake == [0.0, 5.5]


def test_a_frozen_actor_can_be_thawed(clock: VirtualClock, sleeper: Sleeper) -> None:
    clock.at(0.5, lambda: sleeper.freeze(5.0))
    clock.at(2.5, sleeper.thaw)
    run(clock, 3.0)
    assert sleeper.awake == [0.0, 2.5]


def test_an_actor_that_ends_is_never_awake_again(clock: VirtualClock, sleeper: Sleeper) -> None:
    clock.at(1.5, sleeper.end)
    clock.at(1.6, sleeper.wake)
    run(clock, 5.0)
    assert sleeper.awake == [0.0, 1.0]
    assert not sleeper.alive


def test_an_actor_may_come_to_its_own_end(clock: VirtualClock) -> None:
    sleeper = Sleeper(clock, turns=2)
    clock.run(lambda: False)
    assert sleeper.awake == [0.0, 1.0]
    assert not sleeper.alive
