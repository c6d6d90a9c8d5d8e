"""An island model: populations evolve apart, and their best individuals migrate along a ring.

After each epoch every island sends copies of its best individuals to the next one, where they replace the worst (D.
Whitley, S. Rana & R. Heckendorn, The island model genetic algorithm, J. Comput. Inf. Technol. 7, 33, 1999). Within an
island, parents are chosen by tournaments, crossed by simulated binary crossover (K. Deb & R. Agrawal, Complex Systems
9, 115, 1995), and changed by polynomial mutation; the best individual always survives.

All random numbers depend on the seed, the island and the epoch only: the result is the same on any number of workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from deap import algorithms, base, benchmarks, tools

from concurrent_nb.samples.phased_plan import PhasedPlan, PhaseTask

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
def random_numbers_of(*numbers: int) -> Iterator[None]:
    """Let the module `random`, which DEAP draws from, begin with a state that depends on the numbers only."""
    state = random.getstate()
    random.seed(int.from_bytes(np.random.SeedSequence(numbers).generate_state(8).tobytes(), "little"))
    try:
        yield
    finally:
        random.setstate(state)


def first_population(problem: Problem, size: int, seed: int, island: int) -> Population:
    """Return individuals that are drawn evenly from the box."""
    with random_numbers_of(seed, island, 0):
        genomes = [
            tuple(random.uniform(problem.low, problem.high) for _ in range(problem.dimensions)) for _ in range(size)
        ]
    return sorted(Member(float(problem.evaluate(genome)[0]), genome) for genome in genomes)


def evolved(
    problem: Problem, population: Population | None, size: int, generations: int, seed: int, island: int, epoch: int
) -> Population:
    """Return the population of an island after some generations; None stands for that before the first epoch, 1."""
    if population is None:
        population = first_population(problem, size, seed, island)
    toolbox = _toolbox(problem)
    individuals = [_with_value(_Individual(member.genome), member.value) for member in population]
    with random_numbers_of(seed, island, epoch):
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


def migrated(populations: Sequence[Population], migrants: int) -> list[Population]:
    """Return the populations after migration: the best of each replace the worst of the next one, along a ring.

    >>> migrated([[Member(1.0, ()), Member(9.0, ())], [Member(5.0, ()), Member(7.0, ())]], 1)[1]
    [Member(value=1.0, genome=()), Member(value=5.0, genome=())]
    """
    if not migrants:
        return list(populations)
    return [
        sorted([*population[: len(population) - migrants], *populations[number - 1][:migrants]])
        for number, population in enumerate(populations)
    ]


class IslandsResult(NamedTuple):
    """What an island model has found."""

    best: Member
    history: list[list[float]]  #: for each epoch the best value of each island
    populations: list[Population]


class IslandsPlan(PhasedPlan):
    """An island model with a task for each island and epoch; the result is an `IslandsResult`.

    `history` can be read after each epoch. Raises ValueError for numbers that make no sense.
    """

    def __init__(
        self,
        problem: Problem,
        islands: int = 8,
        size: int = 40,
        epochs: int = 10,
        generations: int = 10,
        migrants: int = 2,
        seed: int = 0,
    ) -> None:
        if islands < 1 or size < 2 or epochs < 1 or generations < 1:
            raise ValueError(
                f"{islands} islands of {size} individuals, {epochs} epochs of {generations} generations: there must be "
                "at least one island, two individuals, one epoch and one generation"
            )
        if not 0 <= migrants < size:
            raise ValueError(f"{migrants} migrants of {size} individuals: choose 0 to {size - 1}")
        self.problem, self.islands, self.size, self.epochs = problem, islands, size, epochs
        self.generations, self.migrants, self.seed = generations, migrants, seed
        self.history: list[list[float]] = []

    def begin(self) -> Sequence[PhaseTask]:
        self.history = []
        return self._epoch([None] * self.islands)

    def _epoch(self, populations: Sequence[Population | None]) -> Sequence[PhaseTask]:
        epoch = len(self.history) + 1
        fixed = (self.size, self.generations, self.seed)
        return [
            PhaseTask(f"island {n}, epoch {epoch}", n, evolved, self.problem, population, *fixed, n, epoch)
            for n, population in enumerate(populations)
        ]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        self.history.append([population[0].value for population in results])
        if len(self.history) < self.epochs:
            return self._epoch(migrated(results, self.migrants))
        self.result = IslandsResult(min(population[0] for population in results), self.history, results)
        return ()
