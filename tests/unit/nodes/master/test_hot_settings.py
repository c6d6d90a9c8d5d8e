"""Settings of a running master: which may change, and why the others may not."""

import pytest

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.master.hot_settings import FIXED, GROWING, HotSettings
from concurrent_nb.nodes.master.journal_components import JOURNALS
from concurrent_nb.nodes.master.process import MasterSettings
from concurrent_nb.nodes.master.strategy_components import BUILT_IN
from tests.unit.nodes.master.bench import ALICE, Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def settings(bench: Bench) -> HotSettings:
    manager = ComponentManager()
    manager.load([MasterSettings, *BUILT_IN, *JOURNALS])
    return HotSettings(manager.get(MasterSettings), bench.core)


def test_every_setting_is_either_fixed_with_a_reason_or_may_change(settings: HotSettings) -> None:
    told = settings.describe()
    assert {f"MasterNode.{name}" for name in MasterSettings.class_trait_names(config=True)} == told.keys()
    for name, item in told.items():
        assert item["hot"] != (name.removeprefix("MasterNode.") in FIXED), name
        assert item["help"]
        assert item["value"] == item["default"]
    assert told["MasterNode.strategy"]["value"] == "pull_round_robin"


def test_what_changes_takes_effect(settings: HotSettings, bench: Bench) -> None:
    core, scheduler = bench.core, bench.core.scheduler
    assert settings.set("MasterNode.strategy", "PushBest", 0.0) == "push_best"
    assert scheduler._state.strategies.default.name == "push_best"
    assert settings.set("strategy", "locality", 0.0) == "locality"
    assert settings.set("MasterNode.deaths_allowed", 7, 0.0) == scheduler.deaths_allowed == 7
    assert settings.set("MasterNode.results_kept_bytes", 5000, 0.0) == scheduler.results_kept_bytes == 5000
    assert settings.set("MasterNode.clients", 2, 0.0) == core.limits.clients == 2
    assert settings.set("MasterNode.tasks_per_client", 50_000, 0.0) == core.limits.tasks == 50_000
    assert settings.set("MasterNode.bytes_per_client", 1 << 30, 0.0) == core.limits.size_bytes == 1 << 30
    assert settings.set("MasterNode.segments_per_client", 5000, 0.0) == core.limits.segments == 5000
    assert core.limits.announced() == {"tasks": 50_000, "bytes": 1 << 30, "segments": 5000}
    assert settings.describe()["MasterNode.clients"]["value"] == 2


@pytest.mark.parametrize("is_away", [False, True])
def test_results_are_kept_as_long_as_is_set(settings: HotSettings, bench: Bench, is_away: bool) -> None:
    bench.client(ALICE)
    if not is_away:
        settings.set("MasterNode.results_kept_s", 10.0, bench.now)
    bench.core.unreachable(ALICE, bench.now)
    bench.all_sent()
    if is_away:
        settings.set("MasterNode.results_kept_s", 10.0, bench.now)
    while bench.now < 9.5:
        bench.now += 0.5
        bench.all_sent()
    assert ALICE in bench.core.peers
    bench.now += 1.0
    bench.all_sent()
    assert ALICE not in bench.core.peers


def test_the_limits_of_one_master_are_not_those_of_another(settings: HotSettings) -> None:
    settings.set("MasterNode.clients", 2, 0.0)
    assert Bench().core.limits.clients == 1000


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_fixed_setting_is_refused_with_the_reason_and_what_to_do(settings: HotSettings, name: str) -> None:
    before = settings.describe()[f"MasterNode.{name}"]["value"]
    with pytest.raises(ConfigurationError) as refused:
        settings.set(f"MasterNode.{name}", before, 0.0)
    assert FIXED[name] in str(refused.value)
    assert f"start it again with --MasterNode.{name}=" in str(refused.value)


@pytest.mark.parametrize("name", sorted(GROWING))
def test_what_applications_keep_to_can_only_be_raised(settings: HotSettings, bench: Bench, name: str) -> None:
    before = settings.describe()[f"MasterNode.{name}"]["value"]
    with pytest.raises(ConfigurationError, match="can only be raised while the master runs: applications keep to"):
        settings.set(f"MasterNode.{name}", before - 1, 0.0)
    assert settings.describe()[f"MasterNode.{name}"]["value"] == before
    assert settings.set(f"MasterNode.{name}", before + 1, 0.0) == before + 1


@pytest.mark.parametrize(
    ("item", "value", "says"),
    [
        ("MasterNode.clients", 0, "MasterNode.clients cannot be 0: give a whole number of at least 1"),
        ("MasterNode.clients", "many", "cannot be 'many'"),
        ("MasterNode.strategy", "fair", "choose one of PullRoundRobin"),
        ("MasterNode.strategy", 5, "cannot be 5"),
        ("MasterNode.colour", 1, "MasterNode has no item 'colour': its items are addresses,"),
        ("SlaveNode.workers", 2, "start that node again"),
        ("", 1, "has no item ''"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(settings: HotSettings, item: str, value: object, says: str) -> None:
    before = settings.describe()
    with pytest.raises(ConfigurationError) as refused:
        settings.set(item, value, 0.0)
    assert says in str(refused.value)
    assert settings.describe() == before
