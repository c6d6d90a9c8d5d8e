"""`concurrent-nb run islands`."""

import time
from typing import TYPE_CHECKING, ClassVar, Final

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.config import ChoiceItem, IntItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.sample import Sample, Show

if TYPE_CHECKING:
    from concurrent_nb.samples.genetic.islands import IslandsResult


#: seconds between two progress lines
SHOW_S: Final = 0.1


class IslandsSample(Sample):
    """A genetic algorithm whose populations evolve apart, on islands, and exchange their best individuals.

    It needs DEAP (`pip install "concurrent-nb[samples]"`). The result depends on the seed, not on how many workers run.
    """

    #: as a world whose steps are driven from here, or by a task system in the cluster
    ways: ClassVar[tuple[str, ...]] = ("world", "system")
    packages: ClassVar[tuple[str, ...]] = ("deap",)

    problem = ChoiceItem("rastrigin", ("rastrigin", "sphere", "griewank", "ackley"), help="Function to minimise.")
    dimensions = IntItem(20, min=1, help="Numbers in a genome.")
    islands = IntItem(8, min=1, help="Number of islands.")
    size = IntItem(40, min=2, help="Individuals of an island.")
    epochs = IntItem(20, min=1, help="Number of epochs; individuals migrate between them.")
    generations = IntItem(20, min=1, help="Generations of an epoch.")
    migrants = IntItem(2, min=0, help="Individuals that each island sends to the next one.")
    seed = IntItem(0, min=0, help="Seed of all random numbers.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        if self.migrants >= self.size:
            raise ConfigurationError(f"{self.migrants} migrants of {self.size} individuals: choose fewer than all")

    def answer(self, app: ApplicationNode, way: str, show: Show = lambda line: None) -> "IslandsResult":
        """Run in one of the `ways`; show the best value while it runs."""
        self.check_way(way)
        # Here: it needs DEAP, on which the package does not depend.
        from concurrent_nb.samples.genetic import islands

        problem = islands.Problem.named(self.problem, self.dimensions)
        numbers = (self.islands, self.size, self.epochs, self.generations, self.migrants, self.seed)
        with islands.island_world(app, problem, *numbers) as world:
            if way == "system":
                world.run(self.epochs, in_cluster=True)
                return islands.islands_result(world)
            shown_s = 0.0
            for step in world.steps(self.epochs):
                if time.monotonic() - shown_s >= SHOW_S:
                    shown_s = time.monotonic()
                    best = world.shared["best"][step.number - 1].min()
                    show(f"epoch {step.number} of {self.epochs}, best {best:.6g}")
            return islands.islands_result(world)

    def describe(self, answer: "IslandsResult", elapsed_s: float) -> str:
        first, last = min(answer.history[0]), answer.best.value
        size = f"{self.islands} islands of {self.size}, {self.epochs} epochs of {self.generations} generations"
        found = f"best of {self.problem}: {first:.6g} after the first epoch, {last:.6g} in the end"
        return f"{found}\n{size} ({elapsed_s:.2f} s)"
