"""Virtual time: what is due comes in order, and actors sleep, wake, freeze and end."""

from tests.simulator.agenda import Actor, Agenda, Life


class Sleeper(Actor):
    """Sleeps for a second at a time, and notes when it was awake."""

    def __init__(self, agenda: Agenda, turn_s: float = 0.0, turns: int = 100) -> None:
        super().__init__(agenda, "sleeper", turn_s)
        self.awake: list[float] = []
        self.begin(self._live(turns))

    def _live(self, turns: int) -> Life:
        for _ in range(turns):
            self.awake.append(self.agenda.now)
            yield self.agenda.now + 1.0


def run(agenda: Agenda, until_s: float) -> None:
    over: list[bool] = []
    agenda.at(until_s, lambda: over.append(True))
    agenda.run(lambda: bool(over))


def test_what_is_due_happens_in_order_and_in_the_order_of_planning_at_one_time() -> None:
    agenda, happened = Agenda(), list[str]()
    for when_s, what in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        agenda.at(when_s, lambda what=what: happened.append(f"{what} at {agenda()}"))  # type: ignore[misc]
    agenda.run(lambda: False)
    assert happened == ["a at 1.0", "b at 1.0", "c at 2.0"]


def test_what_should_have_happened_happens_now() -> None:
    agenda, happened = Agenda(), list[float]()
    agenda.at(5.0, lambda: agenda.at(1.0, lambda: happened.append(agenda())))
    agenda.run(lambda: False)
    assert happened == [5.0]


def test_an_actor_sleeps_until_it_is_woken() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda)
    agenda.at(0.3, sleeper.wake)
    run(agenda, 2.0)
    assert sleeper.awake == [0.0, 0.3, 1.3]


def test_what_comes_during_a_turn_waits_for_its_end() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda, turn_s=0.25)
    for when_s in (0.05, 0.1, 0.2):
        agenda.at(when_s, sleeper.wake)
    run(agenda, 1.0)
    assert sleeper.awake == [0.0, 0.25]


def test_a_frozen_actor_does_nothing_until_it_goes_on() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda)
    agenda.at(0.5, lambda: sleeper.freeze(5.0))
    agenda.at(0.7, sleeper.wake)
    run(agenda, 6.0)
    assert sleeper.awake == [0.0, 5.5]


def test_a_frozen_actor_can_be_thawed() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda)
    agenda.at(0.5, lambda: sleeper.freeze(5.0))
    agenda.at(2.5, sleeper.thaw)
    run(agenda, 3.0)
    assert sleeper.awake == [0.0, 2.5]


def test_an_actor_that_ends_is_never_awake_again() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda)
    agenda.at(1.5, sleeper.end)
    agenda.at(1.6, sleeper.wake)
    run(agenda, 5.0)
    assert sleeper.awake == [0.0, 1.0]
    assert not sleeper.alive


def test_an_actor_may_come_to_its_own_end() -> None:
    agenda = Agenda()
    sleeper = Sleeper(agenda, turns=2)
    agenda.run(lambda: False)
    assert sleeper.awake == [0.0, 1.0]
    assert not sleeper.alive
