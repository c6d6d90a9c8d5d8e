"""`concurrent-nb run islands`."""

from typing import TYPE_CHECKING, ClassVar

from concurrent_nb.components.config import ChoiceItem, IntItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.phased_plan import PhasedPlan, PhasedSystem
from concurrent_nb.samples.sample import Sample

if TYPE_CHECKING:
    from concurrent_nb.samples.genetic.islands import IslandsResult


class IslandsSample(Sample):
    """A genetic algorithm whose populations evolve apart, on islands, and exchange their best individuals.

    It needs DEAP (`pip install "concurrent-nb[samples]"`). The result depends on the seed, not on how many workers run.
    """

    ways: ClassVar[tuple[str, ...]] = ("system",)
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

    def plan(self) -> PhasedPlan:
        """Return the plan."""
        # Here: it needs DEAP, on which the package does not depend.
        from concurrent_nb.samples.genetic import islands

        problem = islands.Problem.named(self.problem, self.dimensions)
        return islands.IslandsPlan(
            problem, self.islands, self.size, self.epochs, self.generations, self.migrants, self.seed
        )

    @property
    def count(self) -> int:
        return self.islands * self.epochs

    def system(self) -> PhasedSystem:
        return PhasedSystem(self.plan())

    def describe(self, answer: "IslandsResult", elapsed_s: float) -> str:
        first, last = min(answer.history[0]), answer.best.value
        size = f"{self.islands} islands of {self.size}, {self.epochs} epochs of {self.generations} generations"
        found = f"best of {self.problem}: {first:.6g} after the first epoch, {last:.6g} in the end"
        return f"{found}\n{size} ({elapsed_s:.2f} s)"
