"""A match as a world: each robot is a member, which decides in a worker, and the rules are applied when a step ends.

All robots read the arena as it was when the turn began, and write their commands. The rule of the shared datum "arena"
merges these, in the order of the robots: it is the turn. So a match is the same as with `match.fight`, on any number of
workers; it pays when robots think for longer than a message takes, about a millisecond.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from concurrent_nb.api import ApplicationNode
from concurrent_nb.samples.arena.battle_rules import Battle, Commands, TurnEvents
from concurrent_nb.samples.arena.match import (
    HEIGHT,
    MAX_TURNS,
    TIMEOUT_S,
    WIDTH,
    MatchResult,
    Mind,
    check_robots,
    start_places,
)
from concurrent_nb.samples.arena.replay import ReplayRecorder
from concurrent_nb.samples.arena.robots import Robot
from concurrent_nb.worlds.shared_values import shared_value


class ArenaState(NamedTuple):
    """The arena between two turns."""

    battle: Battle
    events: dict[int, TurnEvents]
    failures: dict[int, str]
    skips: dict[int, int]


class Decision(NamedTuple):
    """What a robot writes: its commands, or what it has raised."""

    number: int
    commands: Commands | None
    failure: str = ""
    skips: int = 0


class Fighter:
    """A robot as a member of a world."""

    def __init__(self, number: int, robot: Robot, seed: int | str, timeout_s: float) -> None:
        self.number = number
        self.mind = Mind(number, robot, seed, timeout_s)

    def step(self, ctx: Any) -> None:
        """Decide what to do in this turn, or leave."""
        state: ArenaState = ctx.read("arena")
        tank = state.battle.tanks[self.number]
        if not tank.is_alive:
            ctx.leave()
            return
        commands = self.mind.decide(state.battle, tank, state.events[self.number])
        ctx.write("arena", Decision(self.number, commands, self.mind.failure, self.mind.skips))


def play_turn(state: ArenaState, decisions: Sequence[Decision]) -> ArenaState:
    """Return the arena after the turn for which robots have decided: the rule by which what they write is merged."""
    battle = deepcopy(state.battle)
    commands = {each.number: each.commands for each in decisions if each.commands is not None}
    failures = {each.number: each.failure for each in decisions if each.failure}
    skips = {each.number: each.skips for each in decisions if each.skips}
    return ArenaState(battle, battle.advance(commands), {**state.failures, **failures}, {**state.skips, **skips})


def fight_in_world(
    app: ApplicationNode,
    robots: Sequence[Robot],
    seed: int | str = 0,
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    max_turns: int = MAX_TURNS,
    timeout_s: float = TIMEOUT_S,
    on_turn: Callable[[Battle], object] | None = None,
) -> MatchResult:
    """Let robots fight, each in the workers of a cluster; return what `fight` returns, and raise what it raises.

    Args:
        on_turn: called here after each turn, to show the battle while it runs.
    """
    check_robots(robots)
    battle = Battle(width, height, start_places(len(robots), width, height, seed))
    start = ArenaState(battle, {tank.number: TurnEvents() for tank in battle.tanks}, {}, {})
    names = [robot.name for robot in robots]
    recorder = ReplayRecorder(width, height, names)
    recorder.add(battle)
    fighters = [Fighter(number, robot, seed, timeout_s) for number, robot in enumerate(robots)]
    state = start
    with app.world(fighters, shared={"arena": shared_value(start, merge=play_turn)}) as world:
        for _ in world.steps():
            state = world.shared["arena"]
            recorder.add(state.battle)
            if on_turn is not None:
                on_turn(state.battle)
            if state.battle.is_over or state.battle.turn >= max_turns:
                break
    battle = state.battle
    replay = recorder.replay(battle.scores)
    return MatchResult(names, battle.scores, battle.turn, state.failures, replay, state.skips)
