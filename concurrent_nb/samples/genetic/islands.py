"""An island model as a world: populations evolve apart, and their best individuals migrate along a ring.

Each island is a member. Its step is an epoch: it takes in the individuals that have arrived, evolves for some
generations, and sends copies of its best individuals to the next island, where they replace the worst (D. Whitley, S.
Rana & R. Heckendorn, The island model genetic algorithm, J. Comput. Inf. Technol. 7, 33, 1999). Within an island,
parents are chosen by tournaments, crossed by simulated binary crossover (K. Deb & R. Agrawal, Complex Systems 9, 115,
1995), and changed by polynomial mutation; the best individual always survives.

    world = island_world(app, Problem.named("rastrigin", 10), islands=8, epochs=20, seed=1)
    world.run(20)
    islands_result(world).best

Random numbers are the world's, so they depend on the seed, the island and the epoch only: the result is the same on any
number of workers. With `world.run(20, slack=3)` no island waits for slow ones, and migrants arrive when they can.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from deap import algorithms, base, benchmarks, tools

from concurrent_nb.worlds.shared_values import shared_array

if TYPE_CHECKING:
    from concurrent_nb.api import ApplicationNode
    from concurrent_nb.worlds.context import StepContext
    from concurrent_nb.worlds.world import World

#: what DEAP's functions for evaluation return: a tuple with the value to be minimised
Evaluate = Callable[[Sequence[float]], tuple[float, ...]]


class Member(NamedTuple):
    """An individual of an island, as it travels."""

    value: float
    genome: tuple[float, ...]


#: the individuals of an island, the best one first
Population = list[Member]


class _Minimum(base.Fitness):  # type: ignore[misc]
    weights = (-1.0,)


class _Individual(list[float]):
    """DEAP's individual: a list with a fitness."""

    def __init__(self, genome: Sequence[float]) -> None:
        super().__init__(genome)
        self.fitness = _Minimum()


@dataclass(frozen=True)
class Problem:
    """A function to minimise in a box.

    >>> Problem.named("sphere", 2).evaluate([3.0, 4.0])
    (25.0,)
    """

    evaluate: Evaluate
    dimensions: int
    low: float
    high: float

    @classmethod
    def named(cls, name: str, dimensions: int) -> "Problem":
        """Return one of DEAP's benchmarks, whose minimum is 0. Raises KeyError for an unknown name."""
        low, high = PROBLEMS[name]
        return cls(getattr(benchmarks, name), dimensions, low, high)


#: usual boxes of functions in `deap.benchmarks`
PROBLEMS = {"rastrigin": (-5.12, 5.12), "sphere": (-5.12, 5.12), "griewank": (-600.0, 600.0), "ackley": (-15.0, 30.0)}


@contextmanager
def random_numbers_of(seed: bytes) -> Iterator[None]:
    """Seed the module `random`, from which DEAP draws."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def first_population(problem: Problem, size: int) -> Population:
    """Return individuals that are drawn evenly from the box, by the module `random`."""
    genomes = [tuple(random.uniform(problem.low, problem.high) for _ in range(problem.dimensions)) for _ in range(size)]
    return sorted(Member(float(problem.evaluate(genome)[0]), genome) for genome in genomes)


def evolved(problem: Problem, population: Population, generations: int) -> Population:
    """Return a population after some generations; chance is the module `random`."""
    toolbox = _toolbox(problem)
    individuals = [_with_value(_Individual(member.genome), member.value) for member in population]
    for _ in range(generations):
        best = toolbox.clone(tools.selBest(individuals, 1)[0])
        chosen = tools.selTournament(individuals, len(individuals), tournsize=3)
        individuals = algorithms.varAnd(chosen, toolbox, cxpb=0.9, mutpb=0.5)
        for individual in individuals:
            if not individual.fitness.valid:
                _with_value(individual, float(problem.evaluate(individual)[0]))
        individuals[individuals.index(tools.selWorst(individuals, 1)[0])] = best
    return sorted(Member(individual.fitness.values[0], tuple(individual)) for individual in individuals)


def _toolbox(problem: Problem) -> Any:
    toolbox = base.Toolbox()
    low, high = problem.low, problem.high
    toolbox.register("mate", tools.cxSimulatedBinaryBounded, eta=15.0, low=low, up=high)
    toolbox.register("mutate", tools.mutPolynomialBounded, eta=20.0, low=low, up=high, indpb=1 / problem.dimensions)
    return toolbox


def _with_value(individual: _Individual, value: float) -> _Individual:
    individual.fitness.values = (value,)
    return individual


def joined(population: Population, migrants: Population) -> Population:
    """Return a population of the same size, in which migrants have replaced the worst.

    >>> joined([Member(5.0, ()), Member(7.0, ())], [Member(1.0, ())])
    [Member(value=1.0, genome=()), Member(value=5.0, genome=())]
    """
    return sorted([*population[: len(population) - len(migrants)], *migrants])


@dataclass
class Island:
    """A population, as a member of a world."""

    problem: Problem
    size: int
    generations: int
    migrants: int
    goal: int  #: the island to which migrants go
    population: Population | None = None  #: the best one first; None before the first epoch

    def step(self, ctx: "StepContext") -> None:
        """Make an epoch. Raises ValueError if there is no room for its best value."""
        if ctx.step > len(ctx.read("best")):
            raise ValueError(f"there is room for {len(ctx.read('best'))} epochs: make the world with more, epochs=...")
        with random_numbers_of(ctx.rng.bytes(32)):
            population = self.population or first_population(self.problem, self.size)
            for migrants in ctx.inbox:
                population = joined(population, migrants)
            self.population = evolved(self.problem, population, self.generations)
        ctx.write("best", self.population[0].value, at=(ctx.step - 1, ctx.id))
        if self.migrants:
            ctx.send(self.goal, self.population[: self.migrants])


class IslandsResult(NamedTuple):
    """What an island model has found."""

    best: Member
    history: list[list[float]]  #: for each epoch the best value of each island
    populations: list[Population]


def island_world(
    app: "ApplicationNode",
    problem: Problem,
    islands: int = 8,
    size: int = 40,
    epochs: int = 10,
    generations: int = 10,
    migrants: int = 2,
    seed: int = 0,
    **options: Any,
) -> "World":
    """Return a world of islands; `run` makes the epochs, and `islands_result` returns what it has found.

    The shared array "best" has the best value of each island in each epoch, and NaN for epochs that are not made.

    Args:
        epochs: for how many there is room in "best".
        migrants: that each island sends to the next one after each epoch.
        options: of `app.world`.

    Raises ValueError for numbers that make no sense, and what `app.world` raises.
    """
    if islands < 1 or size < 2 or epochs < 1 or generations < 1:
        raise ValueError(
            f"{islands} islands of {size} individuals, {epochs} epochs of {generations} generations: there must be at "
            "least one island, two individuals, one epoch and one generation"
        )
    if not 0 <= migrants < size:
        raise ValueError(f"{migrants} migrants of {size} individuals: choose 0 to {size - 1}")
    members = [Island(problem, size, generations, migrants, (number + 1) % islands) for number in range(islands)]
    best = shared_array(np.full((epochs, islands), np.nan))
    world: World = app.world(members, shared={"best": best}, seed=seed, **options)
    return world


def islands_result(world: "World") -> IslandsResult:
    """Return what a world of islands has found. Raises ValueError if it has made no epoch."""
    populations = [island.population for island in world.members.values()]
    if not world.step or None in populations:
        raise ValueError("no epoch was made: world.run(epochs) makes them")
    history = world.shared["best"][: world.step].tolist()
    return IslandsResult(min(population[0] for population in populations), history, populations)
