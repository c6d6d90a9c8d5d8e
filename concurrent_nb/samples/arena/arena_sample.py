"""`concurrent-nb run arena`."""

from pathlib import Path
from typing import ClassVar

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.config import IntItem, TextItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.arena.robots import EXAMPLES
from concurrent_nb.samples.arena.tournament import TournamentPlan, TournamentResult
from concurrent_nb.samples.phased_plan import PhasedPlan, PhasedSystem, run_plan
from concurrent_nb.samples.sample import Sample, Show


class ArenaSample(Sample):
    """A tournament of robots, which fight by the rules of Robocode Tank Royale; each match is a task."""

    #: a round at once, or with rounds that the cluster makes
    ways: ClassVar[tuple[str, ...]] = ("all-at-once", "system")
    packages: ClassVar[tuple[str, ...]] = ("py_trees",)

    robots = IntItem(64, min=2, help="Number of robots, of five kinds.")
    rounds = IntItem(3, min=1, help="Number of rounds.")
    size = IntItem(8, min=2, max=30, help="Robots in a match.")
    turns = IntItem(1000, min=1, help="Most turns of a match.")
    seed = IntItem(0, min=0, help="Seed of places, of groups, and of the robots' random streams.")
    replay = TextItem("", help="HTML file to write, which plays the final match.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        if self.replay and not Path(self.replay).parent.is_dir():
            raise ConfigurationError(f"the replay cannot be written: there is no folder {Path(self.replay).parent}")
        # Here: it needs py_trees, on which the package does not depend.
        from concurrent_nb.samples.arena.tree_robots import Hunter

        kinds = (*EXAMPLES, Hunter)
        fighters = [kinds[number % len(kinds)]() for number in range(self.robots)]
        self.plan = TournamentPlan(fighters, self.rounds, self.size, self.seed, max_turns=self.turns)

    @property
    def count(self) -> int:
        return self.rounds * -(-self.robots // self.size)

    def system(self) -> PhasedSystem:
        return PhasedSystem(self.plan)

    def describe(self, answer: TournamentResult, elapsed_s: float) -> str:
        best = enumerate(answer.standings[:10], 1)
        lines = [f"{place:>3}. {each.name} {each.number}: {each.points:.3f}" for place, each in best]
        size = f"{self.robots} robots, {self.count} matches in {self.rounds} rounds ({elapsed_s:.2f} s)"
        return "\n".join([*lines, size])

    def answer(self, app: ApplicationNode, way: str, show: Show = lambda line: None) -> TournamentResult:
        if way == "all-at-once":
            found: TournamentResult = run_plan(app, self.plan, lambda plan: show(_line(plan)))
        else:
            found = super().answer(app, way, show)
        if self.replay and found.final.replay is not None:
            try:
                Path(self.replay).write_text(found.final.replay.page(), encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(f"the replay cannot be written: {error}") from error
        return found


def _line(plan: PhasedPlan) -> str:
    assert isinstance(plan, TournamentPlan)
    first = plan.standings[0]
    return f"{plan.progress}; first is {first.name} {first.number}"
