"""A tournament: in each round robots of similar rank meet in groups, and each match is a task.

Robots are ranked by their points, and the first round's groups are drawn (the Swiss system of chess). Points are shares
of the score of a match, so that long matches do not count more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from concurrent_nb.samples.arena.match import HEIGHT, MAX_TURNS, WIDTH, MatchResult, fight
from concurrent_nb.samples.arena.robots import Robot
from concurrent_nb.samples.phased_plan import PhasedPlan, PhaseTask


class Standing(NamedTuple):
    """A robot in the final table."""

    number: int
    name: str
    points: float


class TournamentResult(NamedTuple):
    """The table, the best robot first; the match of the best group in the last round; what robots have raised."""

    standings: list[Standing]
    final: MatchResult
    failures: dict[int, str]


class TournamentPlan(PhasedPlan):
    """A tournament in rounds, each of which is a phase; the result is a `TournamentResult`.

    Args:
        size: robots in a match; the last groups may have fewer. Raises ValueError for less than 2.
    """

    def __init__(
        self,
        robots: Sequence[Robot],
        rounds: int = 5,
        size: int = 8,
        seed: int = 0,
        width: float = WIDTH,
        height: float = HEIGHT,
        max_turns: int = MAX_TURNS,
    ) -> None:
        if len(robots) < 2 or size < 2 or rounds < 1:
            raise ValueError(
                f"{len(robots)} robots in {rounds} rounds of matches of {size}: there must be two robots, two in a "
                "match, and one round"
            )
        self.robots, self.rounds, self.size, self.seed = list(robots), rounds, size, seed
        self.area = width, height
        self.max_turns = max_turns
        self.points = [0.0] * len(robots)
        self.failures: dict[int, str] = {}
        self.round = 0
        self.groups: list[list[int]] = []

    def begin(self) -> Sequence[PhaseTask]:
        self.points, self.failures, self.round = [0.0] * len(self.robots), {}, 0
        order = list(range(len(self.robots)))
        Random(f"{self.seed}/draw").shuffle(order)
        return self._round(order)

    def _round(self, order: list[int]) -> Sequence[PhaseTask]:
        self.round += 1
        self.groups = grouped(order, self.size)
        return [
            PhaseTask(f"round {self.round}, match {n}", n, self._match, [self.robots[number] for number in group], n)
            for n, group in enumerate(self.groups)
        ]

    @property
    def _match(self) -> "Match":
        return Match(f"{self.seed}/{self.round}", *self.area, self.max_turns, self.round == self.rounds)

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        for group, match in zip(self.groups, results, strict=True):
            total = sum(match.scores)
            for number, score in zip(group, match.scores, strict=True):
                self.points[number] += score / total if total else 1 / len(group)
            for place, failure in match.failures.items():
                self.failures.setdefault(group[place], failure)
        order = sorted(range(len(self.robots)), key=lambda number: (-self.points[number], number))
        if self.round < self.rounds:
            return self._round(order)
        standings = [Standing(number, self.robots[number].name, self.points[number]) for number in order]
        self.result = TournamentResult(standings, results[0], self.failures)
        return ()


@dataclass(frozen=True)
class Match:
    """What matches of a round have in common; the first match of the last round is recorded."""

    seed: str
    width: float
    height: float
    max_turns: int
    is_last_round: bool

    def __call__(self, robots: list[Robot], number: int) -> MatchResult:
        """Let these robots fight."""
        return fight(
            robots,
            f"{self.seed}/{number}",
            width=self.width,
            height=self.height,
            max_turns=self.max_turns,
            record=self.is_last_round and number == 0,
        )


def grouped(order: Sequence[int], size: int) -> list[list[int]]:
    """Divide robots into groups of at most `size`, as even as can be.

    >>> grouped([0, 1, 2, 3, 4], 4)
    [[0, 1], [2, 3, 4]]
    """
    groups = -(-len(order) // size)
    return [list(order[len(order) * n // groups : len(order) * (n + 1) // groups]) for n in range(groups)]
