"""A match as a world: the same as in one process, for any number of workers, also with a robot that fails."""

import pytest

from concurrent_nb.samples.arena.battle_rules import Battle, Commands
from concurrent_nb.samples.arena.match import fight
from concurrent_nb.samples.arena.robots import Dodger, Rammer, Robot, Senses, Sniper, Spinner
from concurrent_nb.samples.arena.world_match import fight_in_world
from tests.clusters import shared_cluster


class Fails(Robot):
    def decide(self, senses: Senses) -> Commands:
        if senses.turn == 7:
            raise LookupError("no idea")
        return Commands(speed=8)


def test_a_match_is_the_same_as_a_world() -> None:
    robots = [Spinner(), Sniper(), Fails(), Rammer(), Dodger()]
    here = fight(robots, seed=3, max_turns=60)
    turns: list[int] = []

    def watch(battle: Battle) -> None:
        turns.append(battle.turn)

    with shared_cluster(workers=2) as cluster:
        app = cluster.application()
        assert fight_in_world(app, robots, seed=3, max_turns=60, on_turn=watch) == here
        until_the_end = [Rammer(), Rammer(), Rammer()]
        assert fight_in_world(app, until_the_end, seed=1) == fight(until_the_end, seed=1)
        with pytest.raises(ValueError, match="1 robots: a match needs two"):
            fight_in_world(app, [Spinner()])
    assert here.failures == {2: "LookupError in turn 8: no idea"}
    assert turns == list(range(1, 61))
