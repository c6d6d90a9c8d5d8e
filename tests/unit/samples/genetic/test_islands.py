"""The island model: migration, random numbers that depend on the seed only, and progress."""

import math
import random
from typing import Any

import pytest
from deap import benchmarks
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.genetic import islands
from concurrent_nb.samples.genetic.genetic_sample import IslandsSample
from concurrent_nb.samples.genetic.islands import IslandsPlan, Member, Population, Problem
from concurrent_nb.samples.phased_plan import PhasedPlan, run_plan

RASTRIGIN = Problem.named("rastrigin", 4)
SMALL: dict[str, Any] = {"islands": 3, "size": 12, "epochs": 4, "generations": 5}


def members(*values: float) -> Population:
    return [Member(value, (value,)) for value in values]


def test_the_best_move_to_the_next_island_and_replace_the_worst() -> None:
    before = [members(1, 5, 9), members(2, 4, 6), members(3, 7, 8)]
    assert islands.migrated(before, 1) == [members(1, 3, 5), members(1, 2, 4), members(2, 3, 7)]
    assert islands.migrated(before, 2) == [members(1, 3, 7), members(1, 2, 5), members(2, 3, 4)]
    assert islands.migrated(before, 0) == before
    assert islands.migrated([members(1, 5)], 1) == [members(1, 1)]


@pytest.mark.parametrize("name", islands.PROBLEMS)
def test_problems_have_the_minimum_that_is_known(name: str) -> None:
    problem = Problem.named(name, 3)
    assert problem.evaluate([0.0, 0.0, 0.0])[0] == pytest.approx(0, abs=1e-12)
    assert problem.low < 0 < problem.high
    assert RASTRIGIN.evaluate is benchmarks.rastrigin


def test_the_first_population_is_in_the_box_and_sorted() -> None:
    first = islands.first_population(RASTRIGIN, 30, 5, 1)
    assert first == sorted(first) == islands.first_population(RASTRIGIN, 30, 5, 1)
    assert all(-5.12 <= gene <= 5.12 for member in first for gene in member.genome)
    assert all(member.value == RASTRIGIN.evaluate(member.genome)[0] for member in first)
    others = [islands.first_population(RASTRIGIN, 30, seed, island) for seed, island in ((5, 2), (6, 1))]
    assert first not in others and others[0] != others[1]


def test_evolution_never_loses_the_best_and_stays_in_the_box() -> None:
    sphere = Problem.named("sphere", 3)
    population, best = None, math.inf
    for epoch in range(1, 11):
        population = islands.evolved(sphere, population, 20, 4, 1, 0, epoch)
        assert len(population) == 20
        assert population == sorted(population)
        assert population[0].value <= best
        best = population[0].value
        assert all(-5.12 <= gene <= 5.12 for member in population for gene in member.genome)
        assert all(member.value == sphere.evaluate(member.genome)[0] for member in population)
    assert best < 0.01 * islands.first_population(sphere, 20, 1, 0)[0].value


def test_random_numbers_of_others_are_left_as_they_are() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    one = islands.evolved(RASTRIGIN, None, 12, 2, 1, 0, 1)
    assert random.random() == expected
    assert islands.evolved(RASTRIGIN, None, 12, 2, 1, 0, 1) == one
    assert islands.evolved(RASTRIGIN, None, 12, 2, 1, 1, 1) != one
    assert islands.evolved(RASTRIGIN, one, 12, 2, 1, 0, 2) != islands.evolved(RASTRIGIN, one, 12, 2, 1, 0, 3)


def test_a_plan_is_reproducible_by_its_seed() -> None:
    one, same, other = (run_plan(None, IslandsPlan(RASTRIGIN, **SMALL, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one.best != other.best
    assert [len(epoch) for epoch in one.history] == [3, 3, 3, 3]
    assert one.best.value == min(one.history[-1]) <= min(one.history[0])


def test_without_migration_islands_are_on_their_own() -> None:
    alone = run_plan(None, IslandsPlan(RASTRIGIN, **{**SMALL, "islands": 1}, migrants=0))
    three = run_plan(None, IslandsPlan(RASTRIGIN, **SMALL, migrants=0))
    assert three.populations[0] == alone.populations[0]
    assert run_plan(None, IslandsPlan(RASTRIGIN, **SMALL, migrants=2)).populations[0] != alone.populations[0]


def test_the_history_can_be_watched() -> None:
    seen: list[int] = []

    def show(plan: PhasedPlan) -> None:
        assert isinstance(plan, IslandsPlan)
        seen.append(len(plan.history))

    run_plan(None, IslandsPlan(RASTRIGIN, **SMALL), show)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"islands": 0}, "0 islands"), ({"size": 1}, "two individuals"), ({"migrants": 12, "size": 12}, "choose 0 to 11")],
)
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IslandsPlan(RASTRIGIN, **numbers)


def test_the_sample_runs_its_plan() -> None:
    items = Config({"IslandsSample": Config({**SMALL, "dimensions": 4, "seed": 1})})
    manager = ComponentManager(items)
    sample: Any = manager.get(manager.register(IslandsSample))
    answer = run_plan(None, sample.plan())
    assert answer == run_plan(None, IslandsPlan(RASTRIGIN, **SMALL, seed=1))
    assert sample.count == 12
    assert sample.describe(answer, 1.0).endswith("3 islands of 12, 4 epochs of 5 generations (1.00 s)")


def test_more_migrants_than_individuals_are_refused() -> None:
    manager = ComponentManager(Config({"IslandsSample": Config({"size": 3, "migrants": 3})}))
    with pytest.raises(ConfigurationError, match="3 migrants of 3 individuals"):
        manager.get(manager.register(IslandsSample))
