"""Config items: valid values, the values that readers get, the errors that users get."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError
from traitlets.config import Application, Config

from concurrent_nb.components.config import (
    BoolItem,
    ExtensionPointItem,
    ExtensionPointListItem,
    FloatItem,
    Host,
    HostItem,
    IntItem,
    ItemError,
    ListItem,
    PathItem,
)
from concurrent_nb.components.core import Component, ComponentManager, Interface, implements
from concurrent_nb.errors import ConfigurationError


class IStrategy(Interface):
    def pick(self) -> str:
        raise NotImplementedError


@implements(IStrategy)
class PushBest(Component):
    short_name = "push"

    def pick(self) -> str:
        return "best"


@implements(IStrategy)
class PullRoundRobin(Component):
    def pick(self) -> str:
        return "next"


class Unrelated(Component):
    """Implements nothing."""


class Master(Component):
    secure = BoolItem(True, help="Whether strangers are kept out.")
    workers = IntItem(2, min=1, max=8, help="Worker processes.")
    patience_s = FloatItem(5.0, min=0.0, help="Seconds to wait.")
    names = ListItem(["a", "b"], help="Names.")
    ports = ListItem([8080], of=IntItem(0, min=0, max=65535, help="A port."), help="Ports.")
    folder = PathItem("~/nodes", help="Where nodes keep things.")
    bind = HostItem("127.0.0.1:8080", help="Where to listen.")
    strategy = ExtensionPointItem(IStrategy, "PushBest", help="Who gets the next task.")
    hooks = ExtensionPointListItem(IStrategy, [], help="Called in this order.")


def master(**items: Any) -> Master:
    manager = ComponentManager(Config({"Master": items}))
    manager.load([PushBest, PullRoundRobin, Unrelated, Master])
    return manager.get(Master)


# -------------------------------------------------------------------------------------------------------- all items


def test_an_item_that_is_not_configured_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    one = master()
    assert (one.secure, one.workers, one.patience_s, one.names, one.ports) == (True, 2, 5.0, ["a", "b"], [8080])
    assert one.folder == Path("/home/ada/nodes")
    assert one.bind == Host("127.0.0.1", 8080)
    assert one.strategy.pick() == "best"
    assert one.hooks == []


def test_every_item_can_be_configured_and_has_a_help_text() -> None:
    items = Master.class_traits(config=True)
    assert sorted(items) == sorted(
        ["secure", "workers", "patience_s", "names", "ports", "folder", "bind", "strategy", "hooks"]
    )
    assert all(item.help for item in items.values())


@pytest.mark.parametrize(
    ("item", "value", "gives"),
    [
        ("secure", False, False),
        ("workers", 8, 8),
        ("patience_s", 2, 2.0),
        ("names", ("c",), ["c"]),
        ("names", [], []),
        ("ports", [0, 1], [0, 1]),
        ("folder", Path("/srv"), Path("/srv")),
        ("bind", Host("east", 1), Host("east", 1)),
        ("bind", "east", Host("east")),
        ("bind", "east:0", Host("east", 0)),
        ("bind", "[::1]:65535", Host("::1", 65535)),
        ("bind", "[fe80::1]", Host("fe80::1")),
    ],
)
def test_a_valid_value_is_read_back(item: str, value: object, gives: object) -> None:
    assert getattr(master(**{item: value}), item) == gives


@pytest.mark.parametrize(
    ("item", "value", "remedy"),
    [
        ("secure", "yes", "give True or False"),
        ("workers", 0, "give a whole number from 1 to 8"),
        ("workers", 9, "give a whole number from 1 to 8"),
        ("workers", 1.5, "give a whole number from 1 to 8"),
        ("workers", True, "give a whole number from 1 to 8"),
        ("workers", None, "give a whole number from 1 to 8"),
        ("patience_s", -0.1, "give a number of at least 0.0"),
        ("patience_s", float("nan"), "give a number of at least 0.0"),
        ("patience_s", "long", "give a number of at least 0.0"),
        ("names", 3, "give a list"),
        ("names", [3], "give a list"),
        ("ports", [1, 70000], "give a list, each element a whole number from 0 to 65535"),
        ("folder", "", "give a path"),
        ("folder", 3, "give a path"),
        ("folder", "$NO_SUCH_VARIABLE/x", r"every \$VARIABLE exists"),
        ("folder", "~no-such-user/x", "every ~user"),
        ("bind", "", "give a host"),
        ("bind", "east:", "give a host"),
        ("bind", "east:65536", "a port from 0 to 65535"),
        ("bind", ":80", "give a host"),
        ("bind", "::1", r"\[IPv6 address\]:port"),
        ("bind", "[east]:80", "give a host"),
        ("bind", "http://east:80", "give a host"),
        ("bind", "east:80 ", "give a host"),
        ("bind", 80, "give a host"),
        ("strategy", "", "give the name of a component"),
        ("strategy", PushBest, "give the name of a component"),
        ("hooks", 3, "give a list of names"),
        ("hooks", ["push", "push"], "each once"),
        ("hooks", ["push", 3], "give a list of names"),
    ],
)
def test_an_invalid_value_is_refused_with_the_item_the_value_and_the_remedy(
    item: str, value: object, remedy: str
) -> None:
    with pytest.raises(ItemError, match=rf"^Master\.{item} cannot be .*: .*{remedy}"):
        master(**{item: value})


def test_an_invalid_value_is_a_configuration_error_and_a_trait_error() -> None:
    assert issubclass(ItemError, ConfigurationError)
    assert issubclass(ItemError, TraitError)


def test_a_value_set_later_is_checked_too() -> None:
    one = master()
    one.workers = 3
    with pytest.raises(ItemError, match=r"Master\.workers cannot be 99"):
        one.workers = 99
    assert one.workers == 3


def test_a_subclass_is_named_by_its_own_name() -> None:
    class Chief(Master):
        pass

    manager = ComponentManager(Config({"Chief": {"workers": 99}}))
    manager.load([Chief])
    with pytest.raises(ItemError, match=r"^Chief\.workers cannot be 99"):
        manager.get(Chief)


def test_an_invalid_default_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(ItemError, match=r"Hasty\.workers cannot be 0: give a whole number of at least 1"):

        class Hasty(Component):
            workers = IntItem(0, min=1, help="Worker processes.")


def test_an_item_without_help_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"Silent\.workers has no help"):

        class Silent(Component):
            workers = IntItem(0, help=" ")


def test_one_component_does_not_change_the_list_of_another() -> None:
    one, other = master(), master()
    one.names.append("c")
    assert other.names == ["a", "b"]


def test_items_are_set_from_a_command_line_as_jupyters_are() -> None:
    class Console(Application):
        classes = [Master]  # noqa: RUF012

    console = Console()
    console.parse_command_line(
        [
            "--Master.secure=False",
            "--Master.workers=4",
            "--Master.patience_s=0.5",
            "--Master.bind=[::1]:9",
            "--Master.folder=/srv",
            "--Master.strategy=PullRoundRobin",
            "--Master.hooks=push, PullRoundRobin",
        ]
    )
    one = master(**console.config.Master)
    assert (one.secure, one.workers, one.patience_s) == (False, 4, 0.5)
    assert (one.bind, one.folder) == (Host("::1", 9), Path("/srv"))
    assert one.strategy.pick() == "next"
    assert [hook.pick() for hook in one.hooks] == ["best", "next"]


# ------------------------------------------------------------------------------------------------------------ paths


def test_a_path_has_its_home_and_variables_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("PROJECT", "dna")
    assert master(folder="~/$PROJECT/${PROJECT}-1").folder == Path("/home/ada/dna/dna-1")


# ------------------------------------------------------------------------------------------------------------ hosts

names = st.one_of(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]*", fullmatch=True), st.ip_addresses().map(str))


@given(st.builds(Host, names, st.none() | st.integers(0, 65535)))
def test_a_host_written_down_is_read_back(host: Host) -> None:
    one = master()
    one.bind = str(host)
    assert one.bind == host


@given(st.text())
def test_a_host_is_read_or_refused_and_nothing_else(text: str) -> None:
    one = master()
    try:
        one.bind = text
    except ItemError:
        return
    assert one.bind.name
    assert one.bind.port is None or 0 <= one.bind.port <= 65535


# ------------------------------------------------------------------------------------------- chosen components


@pytest.mark.parametrize(("choice", "picks"), [("PushBest", "best"), ("push", "best"), ("PullRoundRobin", "next")])
def test_a_component_is_chosen_by_its_name_or_short_name(choice: str, picks: str) -> None:
    one = master(strategy=choice)
    assert one.strategy.pick() == picks


def test_the_chosen_component_is_the_one_of_the_owners_manager() -> None:
    one = master(strategy="push", hooks=["push", "PullRoundRobin"])
    assert one.strategy is one.manager.choose(IStrategy, "PushBest", "a test")
    assert one.hooks == [one.strategy, one.manager.choose(IStrategy, "PullRoundRobin", "a test")]


def test_a_bad_choice_names_the_option_the_interface_what_was_given_and_the_choices() -> None:
    one = master(strategy="PushBset")
    with pytest.raises(ConfigurationError) as caught:
        one.strategy  # noqa: B018
    assert str(caught.value) == (
        "Master.strategy = 'PushBset' should be an IStrategy, but no component has that name: "
        "choose one of PushBest (push), PullRoundRobin"
    )


def test_a_choice_that_does_not_implement_the_interface_is_refused() -> None:
    one = master(hooks=["push", "Unrelated"])
    with pytest.raises(
        ConfigurationError, match=r"Master\.hooks = 'Unrelated' .*: choose one of PushBest \(push\)"
    ) as e:
        one.hooks  # noqa: B018
    assert "that component does not implement it" in str(e.value)


def test_where_nothing_can_be_chosen_the_remedy_is_to_register() -> None:
    manager = ComponentManager()
    manager.load([Master])
    with pytest.raises(ConfigurationError, match="nothing implements it yet, so register a component first"):
        manager.get(Master).strategy  # noqa: B018


def test_a_component_may_be_registered_after_it_was_chosen() -> None:
    manager = ComponentManager(Config({"Master": {"strategy": "push"}}))
    manager.load([Master])
    one = manager.get(Master)
    manager.load([PushBest])
    assert one.strategy.pick() == "best"


def test_a_choice_can_be_changed() -> None:
    one = master()
    one.strategy = "PullRoundRobin"
    assert one.strategy.pick() == "next"


def test_a_configuration_file_may_add_to_a_list_of_components() -> None:
    config = Config()
    config.Master.hooks.append("push")
    assert [hook.pick() for hook in master(**config.Master).hooks] == ["best"]
