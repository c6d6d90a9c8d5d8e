"""The built-in strategies, by the names that jobs use (`wire.messages.STRATEGIES`)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from concurrent_nb.scheduling.strategies.locality import LocalityStrategy
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy
from concurrent_nb.scheduling.strategies.stealing import StealingStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy

BY_NAME: Final[Mapping[str, type[Strategy]]] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (PullRoundRobinStrategy, PushBestStrategy, StealingStrategy, LocalityStrategy)
    }
)
