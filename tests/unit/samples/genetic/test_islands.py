"""The island model: migration, random numbers that depend on the seed only, and progress."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from deap import benchmarks
from traitlets.config import Config

from concurrent_nb import ApplicationNode, connect
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError, WorldError
from concurrent_nb.samples.genetic import islands
from concurrent_nb.samples.genetic.genetic_sample import IslandsSample
from concurrent_nb.samples.genetic.islands import (
    IslandsResult,
    Member,
    Population,
    Problem,
    island_world,
    islands_result,
)

RASTRIGIN = Problem.named("rastrigin", 4)
SMALL: dict[str, Any] = {"islands": 3, "size": 12, "epochs": 4, "generations": 5}


def members(*values: float) -> Population:
    return [Member(value, (value,)) for value in values]


@pytest.fixture(scope="module")
def app() -> Iterator[ApplicationNode]:
    with connect("inline", workers=2) as app:
        yield app


def found(app: ApplicationNode, **numbers: Any) -> IslandsResult:
    """Run a small world of islands."""
    numbers = {**SMALL, **numbers}
    with island_world(app, RASTRIGIN, **numbers) as world:
        world.run(numbers["epochs"], show=False)
        return islands_result(world)


def drawn(seed: bytes, size: int = 30) -> Population:
    with islands.random_numbers_of(seed):
        return islands.first_population(RASTRIGIN, size)


def test_migrants_replace_the_worst() -> None:
    assert islands.joined(members(1, 5, 9), members(3)) == members(1, 3, 5)
    assert islands.joined(members(1, 5, 9), members(3, 7)) == members(1, 3, 7)
    assert islands.joined(members(1, 5), members()) == members(1, 5)


@pytest.mark.parametrize("name", islands.PROBLEMS)
def test_problems_have_the_minimum_that_is_known(name: str) -> None:
    problem = Problem.named(name, 3)
    assert problem.evaluate([0.0, 0.0, 0.0])[0] == pytest.approx(0, abs=1e-12)
    assert problem.low < 0 < problem.high
    assert RASTRIGIN.evaluate is benchmarks.rastrigin


def test_the_first_population_is_in_the_box_and_sorted() -> None:
    first = drawn(b"1")
    assert first == sorted(first) == drawn(b"1") != drawn(b"2")
    assert all(-5.12 <= gene <= 5.12 for member in first for gene in member.genome)
    assert all(member.value == RASTRIGIN.evaluate(member.genome)[0] for member in first)


def test_evolution_never_loses_the_best_and_stays_in_the_box() -> None:
    sphere = Problem.named("sphere", 3)
    with islands.random_numbers_of(b"1"):
        population = islands.first_population(sphere, 20)
        first = best = population[0].value
        for _ in range(10):
            population = islands.evolved(sphere, population, 4)
            assert len(population) == 20
            assert population == sorted(population)
            assert population[0].value <= best
            best = population[0].value
            assert all(-5.12 <= gene <= 5.12 for member in population for gene in member.genome)
            assert all(member.value == sphere.evaluate(member.genome)[0] for member in population)
    assert best < 0.01 * first


def test_random_numbers_of_others_are_left_as_they_are(app: ApplicationNode) -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    found(app)
    drawn(b"1")
    assert random.random() == expected


def test_a_world_of_islands_is_reproducible_by_its_seed(app: ApplicationNode) -> None:
    one, same, other = (found(app, seed=seed, **options) for seed, options in ((1, {}), (1, {"groups": 3}), (2, {})))
    assert one == same
    assert one.best != other.best
    assert [len(epoch) for epoch in one.history] == [3, 3, 3, 3]
    assert one.best.value == min(one.history[-1]) <= min(one.history[0])
    assert [population[0].value for population in one.populations] == one.history[-1]


def test_without_migration_islands_are_on_their_own(app: ApplicationNode) -> None:
    alone = found(app, islands=1, migrants=0)
    assert found(app, migrants=0).populations[0] == alone.populations[0]
    assert found(app, migrants=2).populations[0] != alone.populations[0]
    assert found(app, islands=1, migrants=2).history[0] == alone.history[0]


def test_the_best_values_can_be_watched_and_a_part_is_a_result(app: ApplicationNode) -> None:
    with island_world(app, RASTRIGIN, **SMALL) as world:
        with pytest.raises(ValueError, match="no epoch was made"):
            islands_result(world)
        for step in world.steps(2):
            best = world.shared["best"]
            assert np.isfinite(best[: step.number]).all()
            assert np.isnan(best[step.number :]).all()
        assert len(islands_result(world).history) == 2
        world.run(2)
        with pytest.raises(WorldError, match="there is room for 4 epochs: make the world with more"):
            world.run(1)
        assert len(islands_result(world).history) == 4


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"islands": 0}, "0 islands"), ({"size": 1}, "two individuals"), ({"migrants": 12, "size": 12}, "choose 0 to 11")],
)
def test_numbers_that_make_no_sense_are_refused(app: ApplicationNode, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        island_world(app, RASTRIGIN, **numbers)


@pytest.mark.parametrize("way", ["world", "system"])
def test_the_sample_makes_its_world(app: ApplicationNode, way: str) -> None:
    items = Config({"IslandsSample": Config({**SMALL, "dimensions": 4, "seed": 1})})
    manager = ComponentManager(items)
    sample: Any = manager.get(manager.register(IslandsSample))
    lines: list[str] = []
    answer = sample.answer(app, way, lines.append)
    assert answer == found(app, seed=1)
    assert sample.describe(answer, 1.0).endswith("3 islands of 12, 4 epochs of 5 generations (1.00 s)")
    if way == "world":
        assert lines[0].startswith("epoch 1 of 4, best ")


def test_more_migrants_than_individuals_are_refused() -> None:
    manager = ComponentManager(Config({"IslandsSample": Config({"size": 3, "migrants": 3})}))
    with pytest.raises(ConfigurationError, match="3 migrants of 3 individuals"):
        manager.get(manager.register(IslandsSample))
