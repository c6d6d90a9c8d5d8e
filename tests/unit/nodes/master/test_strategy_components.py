"""The strategies as components: configuration sets up each of them, and defaults are those of the strategy itself."""

from inspect import signature

import pytest
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.nodes.master.strategy_components import BUILT_IN, Locality, PullRoundRobin, makers
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.locality import LocalityStrategy
from concurrent_nb.scheduling.strategies.pull_round_robin import AHEAD_S, DEPTH_PER_SLOT, PullRoundRobinStrategy


def manager_of(**config: dict[str, float]) -> ComponentManager:
    manager = ComponentManager(Config(config))
    manager.load(BUILT_IN)
    return manager


def test_each_strategy_has_a_component_of_its_name() -> None:
    made = {name: make() for name, make in makers(manager_of()).items()}
    assert {name: type(strategy) for name, strategy in made.items()} == dict(BY_NAME)


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda component: component.__name__)
def test_a_component_has_the_defaults_of_its_strategy(component: type[PullRoundRobin]) -> None:
    items = {name: trait.default_value for name, trait in component.class_own_traits(config=True).items()}
    parameters = signature(BY_NAME[component.short_name]).parameters
    assert items == {name: parameters[name].default for name in items}


def test_locality_feeds_slaves_as_far_ahead_as_pull_round_robin_unless_configured_otherwise() -> None:
    pull, locality = PullRoundRobinStrategy(), LocalityStrategy()
    assert locality.unknown_s == pull.unknown_s == AHEAD_S
    configured = manager_of(Locality={"ahead_s": 0.5, "depth_per_slot": 7}).get(Locality).make()
    assert isinstance(configured, LocalityStrategy)
    assert (configured.unknown_s, configured._depth_per_slot) == (0.5, 7)
    assert locality._depth_per_slot == DEPTH_PER_SLOT
