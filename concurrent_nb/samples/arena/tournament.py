"""A tournament: in each round robots of similar rank meet in groups, and each match is a task.

    plan = TournamentPlan(robots, rounds=3)
    run_plan(app, plan, lambda plan: picture.update(plan))    # shows the table after each match, in a notebook
    app.push_tasksystem(PhasedSystem(plan)).result()          # the rounds are made in the cluster

Robots are ranked by their points, and the first round's groups are drawn (the Swiss system of chess). Points are shares
of the score of a match, so that long matches do not count more.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NamedTuple

from concurrent_nb.samples.arena.match import HEIGHT, MAX_TURNS, TIMEOUT_S, WIDTH, MatchResult, fight
from concurrent_nb.samples.arena.replay import colour
from concurrent_nb.samples.arena.robots import Robot
from concurrent_nb.samples.phased_plan import PhasedPlan, PhaseTask

#: robots in the table that is shown
SHOWN: Final = 16


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

    In a notebook it is shown as a table of the robots, as it stands after the matches that have ended.

    Args:
        size: robots in a match; the last groups may have fewer. Raises ValueError for less than 2.
        timeout_s: seconds in which a robot must decide.
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
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if len(robots) < 2 or size < 2 or rounds < 1:
            raise ValueError(
                f"{len(robots)} robots in {rounds} rounds of matches of {size}: there must be two robots, two in a "
                "match, and one round"
            )
        self.robots, self.rounds, self.size, self.seed = list(robots), rounds, size, seed
        self.area = width, height
        self.limits = max_turns, timeout_s
        self.points = [0.0] * len(robots)
        self.failures: dict[int, str] = {}
        self.round = 0
        self.ended = 0  #: matches of the present round that have ended
        self.groups: list[list[int]] = []

    def begin(self) -> Sequence[PhaseTask]:
        self.points, self.failures, self.round = [0.0] * len(self.robots), {}, 0
        order = list(range(len(self.robots)))
        Random(f"{self.seed}/draw").shuffle(order)
        return self._round(order)

    def _round(self, order: list[int]) -> Sequence[PhaseTask]:
        self.round, self.ended = self.round + 1, 0
        self.groups = grouped(order, self.size)
        return [
            PhaseTask(f"round {self.round}, match {n}", n, self._match, [self.robots[number] for number in group], n)
            for n, group in enumerate(self.groups)
        ]

    @property
    def _match(self) -> "Match":
        return Match(f"{self.seed}/{self.round}", *self.area, *self.limits, self.round == self.rounds)

    def received(self, number: int, result: MatchResult) -> None:
        """Add the points of a match."""
        self.ended += 1
        group, total = self.groups[number], sum(result.scores)
        for robot, score in zip(group, result.scores, strict=True):
            self.points[robot] += score / total if total else 1 / len(group)
        for place, failure in result.failures.items():
            self.failures.setdefault(group[place], failure)

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        standings = self.standings
        if self.round < self.rounds:
            return self._round([each.number for each in standings])
        self.result = TournamentResult(standings, results[0], self.failures)
        return ()

    @property
    def standings(self) -> list[Standing]:
        """The table after the matches that have ended, the best robot first."""
        order = sorted(range(len(self.robots)), key=lambda number: (-self.points[number], number))
        return [Standing(number, self.robots[number].name, self.points[number]) for number in order]

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        if not self.round:
            return f"{len(self.robots)} robots, {self.rounds} rounds"
        return f"round {self.round} of {self.rounds}, {self.ended} of {len(self.groups)} matches have ended"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        best = self.standings[:SHOWN]
        text = "\n".join([self.progress, *(f"{each.name} {each.number}: {each.points:.3f}" for each in best)])
        return {"text/html": standings_table(self.progress, best), "text/plain": text}


@dataclass(frozen=True)
class Match:
    """What matches of a round have in common; the first match of the last round is recorded."""

    seed: str
    width: float
    height: float
    max_turns: int
    timeout_s: float
    is_last_round: bool

    def __call__(self, robots: list[Robot], number: int) -> MatchResult:
        """Let these robots fight."""
        return fight(
            robots,
            f"{self.seed}/{number}",
            width=self.width,
            height=self.height,
            max_turns=self.max_turns,
            timeout_s=self.timeout_s,
            record=self.is_last_round and number == 0,
        )


def grouped(order: Sequence[int], size: int) -> list[list[int]]:
    """Divide robots into groups of at most `size`, as even as can be.

    >>> grouped([0, 1, 2, 3, 4], 4)
    [[0, 1], [2, 3, 4]]
    """
    groups = -(-len(order) // size)
    return [list(order[len(order) * n // groups : len(order) * (n + 1) // groups]) for n in range(groups)]


def standings_table(title: str, standings: Sequence[Standing]) -> str:
    """Return a table with bars, as HTML; its text has the colour of the page's text."""
    most = max((each.points for each in standings), default=0.0) or 1.0
    cells = [
        f'<span style="text-align:right">{place}.</span><span>{html.escape(each.name[:18])} {each.number}</span>'
        f'<span style="width:{100 * each.points / most:.1f}%;background:{colour(each.number)};border-radius:2px">'
        f'</span><span style="text-align:right">{each.points:.2f}</span>'
        for place, each in enumerate(standings, 1)
    ]
    grid = "display:grid;grid-template-columns:1.8em max-content minmax(3em,1fr) 3em;gap:4px 8px;max-width:540px"
    return f'<div style="{grid}"><b style="grid-column:1/-1">{html.escape(title)}</b>{"".join(cells)}</div>'
