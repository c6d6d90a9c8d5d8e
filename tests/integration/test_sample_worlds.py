"""Samples that are worlds: a match, the same as in one process; islands, the same on 1, 2 and 5 workers."""

from collections.abc import Iterator

import pytest

from concurrent_nb import ApplicationNode
from concurrent_nb.samples.arena.battle_rules import Battle, Commands
from concurrent_nb.samples.arena.match import fight
from concurrent_nb.samples.arena.robots import Rammer, Robot, Senses, Sniper, Spinner
from concurrent_nb.samples.arena.tree_robots import Hunter
from concurrent_nb.samples.arena.world_match import fight_in_world
from concurrent_nb.samples.genetic.islands import IslandsResult, Problem, island_world, islands_result
from tests.clusters import shared_cluster


class Fails(Robot):
    def decide(self, senses: Senses) -> Commands:
        if senses.turn == 7:
            raise LookupError("no idea")
        return Commands(speed=8)


@pytest.fixture(scope="module")
def app() -> Iterator[ApplicationNode]:
    with shared_cluster(workers=5) as cluster:
        yield cluster.application()


def test_a_match_is_the_same_as_a_world(app: ApplicationNode) -> None:
    robots = [Spinner(), Sniper(), Fails(), Rammer(), Hunter()]
    here = fight(robots, seed=3, max_turns=60)
    turns: list[int] = []

    def watch(battle: Battle) -> None:
        turns.append(battle.turn)

    assert fight_in_world(app, robots, seed=3, max_turns=60, on_turn=watch) == here
    until_the_end = [Rammer(), Rammer(), Rammer()]
    assert fight_in_world(app, until_the_end, seed=1) == fight(until_the_end, seed=1)
    with pytest.raises(ValueError, match="1 robots: a match needs two"):
        fight_in_world(app, [Spinner()])
    assert here.failures == {2: "LookupError in turn 8: no idea"}
    assert turns == list(range(1, 61))


def test_islands_are_the_same_on_any_workers(app: ApplicationNode) -> None:
    problem = Problem.named("rastrigin", 4)

    def found(workers: int, in_cluster: bool = False) -> IslandsResult:
        numbers = {"islands": 6, "size": 12, "epochs": 6, "generations": 4, "seed": 3}
        with island_world(app, problem, **numbers, workers=workers) as world:
            world.run(6, in_cluster=in_cluster)
            return islands_result(world)

    one = found(1)
    assert found(2) == found(5) == found(2, in_cluster=True) == one
    assert [min(values) for values in one.history] == sorted((min(values) for values in one.history), reverse=True)
