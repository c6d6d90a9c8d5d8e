"""Robots whose decisions are behaviour trees, of the library py_trees; and one to fight against.

    class Mine(TreeRobot):
        def tree(self):
            return first_of(all_of(self.sees, self.shoot), self.search)

        def sees(self):
            return self.senses.nearest is not None

        def shoot(self):
            return aimed(self.senses, self.senses.nearest, power=2, speed=4)

        def search(self):
            return Commands(turn_radar=45)

A leaf is a method of the robot. If it returns False, the leaf has failed. Commands are a success, and those of the last
leaf in a turn count. A `py_trees.common.Status` is the leaf's status, and anything else is a success. All nodes of
py_trees can be used beside leaves. What a tree keeps from turn to turn (where a sequence with memory is, how often a
decorator has repeated) is pickled with its robot, so a match as a world may move it.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from py_trees.behaviour import Behaviour
from py_trees.common import Status
from py_trees.composites import Composite, Selector, Sequence
from py_trees.display import unicode_tree

from concurrent_nb.samples.arena.battle_rules import Commands, Sighting, relative
from concurrent_nb.samples.arena.robots import Robot, Senses, aimed

#: a node of a tree: one of py_trees, or a method of the robot
Node = Behaviour | Callable[[], object]


class MethodLeaf(Behaviour):
    """A leaf that calls a method of a robot."""

    def __init__(self, method: Callable[[], object]) -> None:
        super().__init__(getattr(method, "__name__", "leaf").replace("_", " "))
        self.method = method
        self.commands: Commands | None = None  #: of this turn

    def update(self) -> Status:
        """Call it; return what its result stands for."""
        found = self.method()
        self.commands = found if isinstance(found, Commands) else None
        if isinstance(found, Status):
            return found
        return Status.FAILURE if found is False else Status.SUCCESS


def first_of(*nodes: Node, name: str = "first of") -> Behaviour:
    """Return a node that tries its children in turn, until one does not fail: the most urgent first."""
    return Selector(name, memory=False, children=[as_node(node) for node in nodes])


def all_of(*nodes: Node, name: str = "all of") -> Behaviour:
    """Return a node that does its children in turn, until one fails: conditions first."""
    return Sequence(name, memory=False, children=[as_node(node) for node in nodes])


def as_node(node: Node) -> Behaviour:
    """Return a node of py_trees. Raises TypeError for what is neither a node nor can be called."""
    if isinstance(node, Behaviour):
        return node
    if not callable(node):
        raise TypeError(f"{node!r} is no node of a behaviour tree: give a method, without (), or a node of py_trees")
    return MethodLeaf(node)


class TreeRobot(Robot):
    """A robot whose `tree` decides."""

    senses: Senses  #: of this turn
    _root: Behaviour | None = None
    _progress: list[dict[str, Any]] | None = None  # of the nodes of a tree that is not built yet

    def tree(self) -> Node:
        """Return the tree. It is called once in each process in which the robot decides."""
        raise NotImplementedError(f"{self.name} has no behaviour: give it a method tree")

    def decide(self, senses: Senses) -> Commands:
        """Return the commands of the last leaf that has given some, or those that brake."""
        self.senses = senses
        commands = Commands()
        for node in self._built().tick():
            if isinstance(node, MethodLeaf) and node.commands is not None:
                commands = node.commands
        return commands

    def text(self) -> str:
        """Return the tree as text, once it has decided with what each node was in the last turn."""
        root = self._built()
        return unicode_tree(root, show_status=root.status != Status.INVALID)

    def _built(self) -> Behaviour:
        if self._root is None:
            self._root = as_node(self.tree())
            for node, progress in zip(self._root.iterate(), self._progress or (), strict=False):
                _restore(node, progress)
            self._progress = None
        return self._root

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if (root := state.pop("_root", None)) is not None:
            state["_progress"] = [_saved(node) for node in root.iterate()]
        return state


#: the entry of a composite's present child in what is saved of it
_CHILD: Final = "current_child"


def _saved(node: Behaviour) -> dict[str, Any]:
    """Return what a node keeps from turn to turn: its plain values, and which of its children is the present one."""
    found = {name: value for name, value in vars(node).items() if isinstance(value, int | float | str | Enum)}
    if isinstance(node, Composite) and node.current_child is not None:
        found[_CHILD] = node.children.index(node.current_child)
    return found


def _restore(node: Behaviour, progress: dict[str, Any]) -> None:
    """Give a node what another one of the same tree has kept."""
    for name, value in progress.items():
        setattr(node, name, node.children[value] if name == _CHILD else value)


class Hunter(TreeRobot):
    """Keeps up with the tank that it sees, circles around it when near, and backs away when it is weak."""

    def __init__(self) -> None:
        self.side = 1.0

    def tree(self) -> Node:
        """Return its behaviour."""
        attack = first_of(
            all_of(self.is_weak, self.back_away, name="survive"),
            all_of(self.is_near, self.circle, name="fight"),
            self.follow,
            name="attack",
        )
        return first_of(
            all_of(self.turn_around, self.sees, attack, name="hunt"),
            self.search,
            name="hunter",
        )

    @property
    def target(self) -> Sighting:
        """The nearest tank that it sees."""
        return self.senses.events.sightings[0]

    def turn_around(self) -> None:
        """Change sides after a wall, a hit, and at times."""
        events = self.senses.events
        if events.hit_wall or events.rammed or events.hit_by or self.random.random() < 0.02:
            self.side = -self.side

    def sees(self) -> bool:
        """Return whether there is a target."""
        return self.senses.nearest is not None

    def is_weak(self) -> bool:
        """Return whether the target has much more energy."""
        return self.senses.energy < 0.5 * self.target.energy

    def is_near(self) -> bool:
        """Return whether heavy bullets are likely to hit."""
        return self.target.distance < 300

    def back_away(self) -> Commands:
        """Drive away backwards, and shoot lightly."""
        turn = relative(self.target.bearing + 30 * self.side - self.senses.heading)
        return aimed(self.senses, self.target, 0.5, speed=-8.0, turn=turn)

    def circle(self) -> Commands:
        """Drive across the line of fire, and shoot what can be afforded."""
        power = min(3.0, 450 / max(self.target.distance, 1.0), self.senses.energy / 6)
        turn = relative(self.target.bearing + 90 - self.senses.heading)
        return aimed(self.senses, self.target, max(0.1, power), speed=8.0 * self.side, turn=turn)

    def follow(self) -> Commands:
        """Come nearer, not straight ahead."""
        turn = relative(self.target.bearing + 40 * self.side - self.senses.heading)
        return aimed(self.senses, self.target, 1.0, speed=8.0, turn=turn)

    def search(self) -> Commands:
        """Look around."""
        return Commands(speed=4.0, turn=3.0 * self.side, turn_radar=45.0)
