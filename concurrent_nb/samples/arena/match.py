"""A match: robots fight by the rules, turn by turn, and all turns are recorded."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Final, NamedTuple

from concurrent_nb.samples.arena.battle_rules import RADIUS, Battle, Commands, Tank, TurnEvents
from concurrent_nb.samples.arena.replay import Replay, ReplayRecorder
from concurrent_nb.samples.arena.robots import Robot, Senses, noisy

WIDTH: Final = 800.0
HEIGHT: Final = 600.0
MAX_TURNS: Final = 2000


class MatchResult(NamedTuple):
    """How a match ended."""

    names: list[str]
    scores: list[float]
    turns: int
    failures: dict[int, str]  #: robots that raised an error, with what and when; they stood still from then on
    replay: Replay | None


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


def fight(
    robots: Sequence[Robot],
    seed: int | str = 0,
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    max_turns: int = MAX_TURNS,
    record: bool = True,
    on_turn: Callable[[Battle], object] | None = None,
) -> MatchResult:
    """Let copies of robots fight until one is left. The result depends on the robots and the seed only.

    A robot that raises an error stands still from then on, and `failures` says what it was. Raises ValueError for fewer
    than two robots, and for more than the arena has room for.
    """
    if len(robots) < 2:
        raise ValueError(f"{len(robots)} robots: a match needs two or more")
    battle = Battle(width, height, start_places(len(robots), width, height, seed))
    minds = [deepcopy(robot) for robot in robots]
    for number, mind in enumerate(minds):
        mind.random = Random(f"{seed}/robot {number}")
    radars = [Random(f"{seed}/radar {number}") for number in range(len(robots))]
    recorder = ReplayRecorder(width, height, [robot.name for robot in robots]) if record else None
    if recorder is not None:
        recorder.add(battle)
    failures: dict[int, str] = {}
    events = {tank.number: TurnEvents() for tank in battle.tanks}
    while not battle.is_over and battle.turn < max_turns:
        orders: dict[int, Commands] = {}
        for tank in battle.alive:
            number = tank.number
            if number in failures:
                continue
            try:
                orders[number] = Commands(*minds[number].decide(_senses(battle, tank, events[number], radars[number])))
            except Exception as error:  # noqa: BLE001  (a robot may raise anything)
                failures[number] = f"{type(error).__name__} in turn {battle.turn + 1}: {error}"
        events = battle.advance(orders)
        if recorder is not None:
            recorder.add(battle)
        if on_turn is not None:
            on_turn(battle)
    replay = None if recorder is None else recorder.replay(battle.scores)
    return MatchResult([robot.name for robot in robots], battle.scores, battle.turn, failures, replay)


def _senses(battle: Battle, tank: Tank, events: TurnEvents, radar: Random) -> Senses:
    events.sightings = [noisy(sighting, radar) for sighting in events.sightings]
    others = len(battle.alive) - 1
    return Senses(
        battle.turn, battle.width, battle.height, others, tank.x, tank.y, tank.heading, tank.gun, tank.radar,
        tank.speed, tank.energy, tank.heat, events,
    )  # fmt: skip
