"""The strategies as components, so that configuration chooses one and sets it up.

`c.MasterNode.strategy = "PushBest"`. A plug-in's strategy implements IStrategy in the same way.
"""

from concurrent_nb.components.config import FloatItem, IntItem
from concurrent_nb.components.core import Component, Interface, implements
from concurrent_nb.scheduling.strategies.base import Strategy
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobin as PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBest as PushBestStrategy


class IStrategy(Interface):
    """Makes the strategy of one scheduler."""

    def make(self) -> Strategy:
        """Return a new strategy, set up as configured."""
        raise TypeError(f"{type(self).__name__} does not say how to make a strategy")


@implements(IStrategy)
class PullRoundRobin(Component):
    """Slaves in turn take what keeps them busy for a moment. Good where tasks or slaves differ; the default."""

    ahead_s = FloatItem(0.02, min=0.0001, help="Seconds of expected work that a slave may have ahead for each worker.")
    depth_per_slot = IntItem(2, min=1, help="Tasks in flight per worker while their run time is unknown.")

    def make(self) -> Strategy:
        """Return a new pull_round_robin strategy."""
        return PullRoundRobinStrategy(ahead_s=self.ahead_s, depth_per_slot=self.depth_per_slot)


@implements(IStrategy)
class PushBest(Component):
    """The slave with the best rating (load and speed) gets tasks as soon as they come. Good for equal tasks."""

    def make(self) -> Strategy:
        """Return a new push_best strategy."""
        return PushBestStrategy()
