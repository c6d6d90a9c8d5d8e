"""A match: robots fight by the rules, turn by turn, and all turns are recorded."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from numbers import Real
from random import Random
from typing import Any, Final, NamedTuple

from concurrent_nb.errors import WorldError
from concurrent_nb.samples.arena.battle_rules import RADIUS, Battle, Commands, Tank, TurnEvents
from concurrent_nb.samples.arena.replay import Replay, ReplayRecorder
from concurrent_nb.samples.arena.robots import Robot, Senses, noisy
from concurrent_nb.worlds.time_limit import MemberTimer

WIDTH: Final = 800.0
HEIGHT: Final = 600.0
MAX_TURNS: Final = 2000
#: seconds in which a robot must decide: long enough that a busy machine does not change a match
TIMEOUT_S: Final = 1.0
#: turns that a robot may skip
SKIPS_MAX: Final = 30


class MatchResult(NamedTuple):
    """How a match ended."""

    names: list[str]
    scores: list[float]
    turns: int
    failures: dict[int, str]  #: robots that raised an error, with what and when; they stood still from then on
    replay: Replay | None
    skips: dict[int, int]  #: robots that have decided too late, with the number of turns


def start_places(count: int, width: float, height: float, seed: int | str) -> list[tuple[float, float, float]]:
    """Return places that do not touch, and headings. Raises ValueError if the arena has no room for so many."""
    chance, places = Random(f"{seed}/places"), list[tuple[float, float, float]]()
    for _ in range(1000 * count):
        if len(places) == count:
            break
        x, y = chance.uniform(RADIUS, width - RADIUS), chance.uniform(RADIUS, height - RADIUS)
        if all((x - a) ** 2 + (y - b) ** 2 > (3 * RADIUS) ** 2 for a, b, _ in places):
            places.append((x, y, chance.uniform(0, 360)))
    if len(places) < count:
        raise ValueError(f"an arena of {width:.0f} x {height:.0f} has no room for {count} tanks: make it larger")
    return places


def check_robots(robots: Sequence[Robot]) -> None:
    """Raise ValueError if there are too few for a match."""
    if len(robots) < 2:
        raise ValueError(f"{len(robots)} robots: a match needs two or more")


class Mind:
    """A copy of a robot that fights in a match, with its random streams. After an error it decides nothing more.

    Args:
        timeout_s: in which the robot must decide. If it takes longer, it is interrupted, and what it has decided in the
            turn before counts again; if that happens in 30 turns, it decides nothing more.
    """

    def __init__(self, number: int, robot: Robot, seed: int | str, timeout_s: float = TIMEOUT_S) -> None:
        self.robot = deepcopy(robot)
        self.robot.random = Random(f"{seed}/robot {number}")
        self.radar = Random(f"{seed}/radar {number}")
        self.failure = ""
        self.skips = 0
        self._timeout_s = timeout_s
        self._last = Commands()
        self._has_skipped = False

    def decide(self, battle: Battle, tank: Tank, events: TurnEvents) -> Commands | None:
        """Return the robot's commands, or None if it has raised an error in this turn or before."""
        if self.failure:
            return None
        senses = self._senses(battle, tank, events)
        timer = MemberTimer(self._timeout_s)
        is_late = False
        try:
            self._last = timer.call(lambda senses: _checked(self.robot.decide(senses)), senses)
        except WorldError:
            is_late = True
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a robot may raise anything)
            self.failure = f"{type(error).__name__} in turn {battle.turn + 1}: {error}"
            return None
        self._has_skipped = is_late
        self.skips += is_late
        if self.skips >= SKIPS_MAX:
            limit = f"it took longer than {self._timeout_s:g} s"
            self.failure = f"TimeoutError in turn {battle.turn + 1}: {limit} in {self.skips} turns"
            return None
        return self._last

    def _senses(self, battle: Battle, tank: Tank, events: TurnEvents) -> Senses:
        seen = [noisy(sighting, self.radar) for sighting in events.sightings]
        return Senses(
            battle.turn, battle.width, battle.height, len(battle.alive) - 1, tank.x, tank.y, tank.heading, tank.gun,
            tank.radar, tank.speed, tank.energy, tank.heat,
            replace(events, sightings=seen, skipped=self._has_skipped),
        )  # fmt: skip


def _checked(decided: Any) -> Commands:
    """Return what a robot has decided. Raises TypeError, or what float raises, if these are no commands."""
    if not isinstance(decided, tuple) or not all(isinstance(each, Real) for each in decided):
        raise TypeError(f"decide must return Commands, which are numbers, not {decided!r:.80}")
    return Commands(*(float(each) for each in decided))


def fight(
    robots: Sequence[Robot],
    seed: int | str = 0,
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    max_turns: int = MAX_TURNS,
    timeout_s: float = TIMEOUT_S,
    record: bool = True,
    on_turn: Callable[[Battle], object] | None = None,
) -> MatchResult:
    """Let copies of robots fight until one is left. The result depends on the robots and the seed only.

    A robot that raises an error stands still from then on, and `failures` has the error. Raises ValueError for fewer
    than two robots, and for more than the arena has room for.

    Args:
        timeout_s: seconds in which a robot must decide. One that takes longer skips the turn: it is interrupted, and
            what it has decided before counts again. After 30 skipped turns it has failed.
    """
    check_robots(robots)
    battle = Battle(width, height, start_places(len(robots), width, height, seed))
    minds = [Mind(number, robot, seed, timeout_s) for number, robot in enumerate(robots)]
    recorder = ReplayRecorder(width, height, [robot.name for robot in robots]) if record else None
    if recorder is not None:
        recorder.add(battle)
    events = {tank.number: TurnEvents() for tank in battle.tanks}
    while not battle.is_over and battle.turn < max_turns:
        decided = {tank.number: minds[tank.number].decide(battle, tank, events[tank.number]) for tank in battle.alive}
        commands = {number: wanted for number, wanted in decided.items() if wanted is not None}
        events = battle.advance(commands)
        if recorder is not None:
            recorder.add(battle)
        if on_turn is not None:
            on_turn(battle)
    replay = None if recorder is None else recorder.replay(battle.scores)
    failures = {number: mind.failure for number, mind in enumerate(minds) if mind.failure}
    skips = {number: mind.skips for number, mind in enumerate(minds) if mind.skips}
    return MatchResult([robot.name for robot in robots], battle.scores, battle.turn, failures, replay, skips)
