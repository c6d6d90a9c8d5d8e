"""Robots whose decisions are behaviour trees: what leaves mean, and that a tree travels with its robot."""

import pickle
import re
from copy import deepcopy
from typing import Any

import pytest
from py_trees.common import Status
from py_trees.composites import Sequence
from py_trees.decorators import Repeat

from concurrent_nb.samples.arena.battle_rules import Battle, Commands, Sighting, TurnEvents
from concurrent_nb.samples.arena.match import Mind, fight
from concurrent_nb.samples.arena.robots import EXAMPLES, Robot, Senses
from concurrent_nb.samples.arena.tree_robots import Hunter, Node, TreeRobot, all_of, as_node, first_of


def decided(robot: Robot, events: TurnEvents | None = None) -> Commands:
    """Ask a robot in the middle of an arena."""
    events = TurnEvents() if events is None else events
    senses = Senses(1, 800.0, 600.0, 1, 400.0, 300.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0, events)
    return robot.decide(senses)


class Patrol(TreeRobot):
    """Drives for three turns, turns for two, and so on; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def tree(self) -> Node:
        drive = Repeat("for three turns", as_node(self.drive), 3)
        turn = Repeat("for two turns", as_node(self.turn), 2)
        return first_of(all_of(self.is_hit, self.flee), Sequence("patrol", memory=True, children=[drive, turn]))

    def is_hit(self) -> bool:
        self.asked += 1
        return bool(self.senses.events.hit_by)

    def flee(self) -> Commands:
        return Commands(speed=-8)

    def drive(self) -> Commands:
        return Commands(speed=8)

    def turn(self) -> Commands:
        return Commands(turn=10)


def test_the_first_branch_that_does_not_fail_decides() -> None:
    robot = Patrol()
    assert decided(robot, TurnEvents(hit_by=[0.0])) == Commands(speed=-8)
    assert decided(robot) == Commands(speed=8)
    assert robot.asked == 2


def commands_of(robot: Robot, turns: int) -> list[float]:
    return [decided(robot).speed for _ in range(turns)]


@pytest.mark.parametrize("copied", [deepcopy, lambda robot: pickle.loads(pickle.dumps(robot))])
@pytest.mark.parametrize("turns", range(6))
def test_a_copy_goes_on_where_its_robot_was(copied: Any, turns: int) -> None:
    robot, expected = Patrol(), commands_of(Patrol(), 12)
    assert commands_of(robot, turns) + commands_of(copied(robot), 12 - turns) == expected
    assert len(set(expected)) == 2


def test_a_status_is_the_leaf_s_own_and_the_last_commands_count() -> None:
    class Both(TreeRobot):
        def tree(self) -> Node:
            return all_of(self.drive, self.think, self.never)

        def drive(self) -> Commands:
            return Commands(speed=1)

        def think(self) -> Status:
            return Status.RUNNING

        def never(self) -> Commands:
            return Commands(speed=2)

    robot = Both()
    assert decided(robot) == Commands(speed=1)
    assert "think [*]" in robot.text()
    assert decided(type("Nothing", (Both,), {"drive": lambda self: None})()) == Commands()


def test_what_is_no_tree_is_refused() -> None:
    class Nothing(TreeRobot):
        pass

    class Called(TreeRobot):
        def tree(self) -> Node:
            return first_of(self.search())  # type: ignore[arg-type]

        def search(self) -> Commands:
            return Commands()

    failures = fight([Nothing(), Called()], max_turns=2).failures
    assert failures[0] == "NotImplementedError in turn 1: Nothing has no behaviour: give it a method tree"
    assert failures[1].startswith("TypeError in turn 1: Commands(speed=0.0")
    assert failures[1].endswith("is no node of a behaviour tree: give a method, without (), or a node of py_trees")


def test_a_match_with_trees_depends_on_its_seed_only() -> None:
    robots = [Hunter(), *(kind() for kind in EXAMPLES)]
    assert fight(robots, 1, max_turns=200) == fight(pickle.loads(pickle.dumps(robots)), 1, max_turns=200)


def test_the_hunter_wins() -> None:
    matches = [fight([kind(), Hunter()], seed, max_turns=1500, record=False) for kind in EXAMPLES for seed in range(4)]
    assert sum(match.scores[1] > match.scores[0] for match in matches) > 8


@pytest.mark.parametrize(
    ("energy", "distance", "branch"), [(100.0, 200.0, "circle"), (100.0, 500.0, "follow"), (20.0, 200.0, "back away")]
)
def test_the_hunter_says_what_it_does(energy: float, distance: float, branch: str) -> None:
    mind = Mind(0, Hunter(), 0)
    battle = Battle(800, 600, [(100, 100, 0), (500, 100, 0)])
    battle.tanks[0].energy = energy
    assert mind.decide(battle, battle.tanks[0], TurnEvents([Sighting(1, 0.0, distance, 0.0, 0.0, 100.0)])) is not None
    assert isinstance(mind.robot, Hunter)
    assert re.search(rf"{branch} \[(✓|o)\]", mind.robot.text())
    assert isinstance(mind.robot.senses, Senses)
