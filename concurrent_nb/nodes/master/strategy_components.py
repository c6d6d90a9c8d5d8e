"""The strategies as components: configuration chooses the cluster's strategy and sets the options of all.

`c.MasterNode.strategy = "PushBest"`, or "push_best". A plug-in's strategy implements IStrategy in the same way.
"""

from typing import Final, cast

from concurrent_nb.components.config import FloatItem, IntItem
from concurrent_nb.components.core import Component, ComponentManager, Interface, implements
from concurrent_nb.scheduling.active_strategies import Makers
from concurrent_nb.scheduling.strategies.locality import LocalityStrategy as LocalityStrategy
from concurrent_nb.scheduling.strategies.pull_round_robin import AHEAD_S, DEPTH_PER_SLOT
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy as PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy as PushBestStrategy
from concurrent_nb.scheduling.strategies.stealing import StealingStrategy as StealingStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy


class IStrategy(Interface):
    """Creates the strategy of a scheduler."""

    def make(self) -> Strategy:
        """Return a new strategy with the configured options."""
        raise TypeError(f"{type(self).__name__} has no method make, which returns a strategy")


@implements(IStrategy)
class PullRoundRobin(Component):
    """Slaves in turn get tasks that keep them busy for a moment. Good if tasks or slaves differ; the default."""

    short_name = "pull_round_robin"
    ahead_s = FloatItem(
        AHEAD_S, min=0.0001, help="Seconds of expected work that a slave may have ahead for each worker."
    )
    depth_per_slot = IntItem(
        DEPTH_PER_SLOT, min=1, help="Tasks in flight for each worker while their run time is unknown."
    )

    def make(self) -> Strategy:
        """Return a new pull_round_robin strategy."""
        return PullRoundRobinStrategy(ahead_s=self.ahead_s, depth_per_slot=self.depth_per_slot)


@implements(IStrategy)
class PushBest(Component):
    """The slave with the best rating (load and speed) gets tasks as soon as they come. Good for equal tasks."""

    short_name = "push_best"

    def make(self) -> Strategy:
        """Return a new push_best strategy."""
        return PushBestStrategy()


@implements(IStrategy)
class Stealing(Component):
    """All tasks are assigned immediately; an idle slave takes from the fullest. Good if nothing is known of them."""

    short_name = "stealing"
    worth_s = FloatItem(0.002, min=0.0, help="No tasks are taken from a slave with less work than this, in seconds.")

    def make(self) -> Strategy:
        """Return a new stealing strategy."""
        return StealingStrategy(worth_s=self.worth_s)


@implements(IStrategy)
class Locality(Component):
    """Tasks go to slaves that have their large objects, and wait there for a while. Good for shared inputs."""

    short_name = "locality"
    patience_s = FloatItem(3.0, min=0.001, help="Seconds that a task waits at most for a slave that has its objects.")
    bytes_per_s = FloatItem(200e6, min=1.0, help="Assumed transfer rate of objects, in bytes per second.")
    ahead_s = FloatItem(
        AHEAD_S, min=0.0001, help="Seconds of expected work that a slave may have ahead for each worker."
    )
    depth_per_slot = IntItem(
        DEPTH_PER_SLOT, min=1, help="Tasks in flight for each worker while their run time is unknown."
    )

    def make(self) -> Strategy:
        """Return a new locality strategy."""
        return LocalityStrategy(
            patience_s=self.patience_s,
            bytes_per_s=self.bytes_per_s,
            ahead_s=self.ahead_s,
            depth_per_slot=self.depth_per_slot,
        )


BUILT_IN: Final[tuple[type[Component], ...]] = (PullRoundRobin, PushBest, Stealing, Locality)


def makers(manager: ComponentManager) -> Makers:
    """Return a factory, with the configured options, of each strategy that a job may name."""
    return {component.short_name: cast(IStrategy, manager.get(component)).make for component in BUILT_IN}
