"""Interfaces, components, managers and extension points."""

import inspect
from pathlib import Path

import pytest
from traitlets.config import Config

from concurrent_nb.components.config import IntItem
from concurrent_nb.components.core import Component, ComponentManager, ExtensionPoint, Interface, implements
from concurrent_nb.errors import ConfigurationError


class IGreeter(Interface):
    def greet(self, name: str, loud: bool = False) -> str:
        raise NotImplementedError


@implements(IGreeter)
class Polite(Component):
    """Says dear."""

    short_name = "kind"
    times = IntItem(1, min=1, help="How often to say it.")

    def greet(self, name: str, loud: bool = False) -> str:
        return "dear " * self.times + name


@implements(IGreeter)
class Curt(Component):
    def greet(self, name: str, loud: bool = False) -> str:
        return name


class VeryPolite(Polite):
    short_name = ""


class Door(Component):
    greeters = ExtensionPoint(IGreeter)


@pytest.fixture
def manager() -> ComponentManager:
    return ComponentManager()


# ------------------------------------------------------------------------------------------------ extension points


def test_an_extension_point_lists_every_implementation_in_the_order_of_registration(manager: ComponentManager) -> None:
    manager.load([Curt, Door, Polite])
    assert [type(greeter).__name__ for greeter in manager.get(Door).greeters] == ["Curt", "Polite"]
    assert [greeter.greet("Ada") for greeter in manager.get(Door).greeters] == ["Ada", "dear Ada"]


def test_an_extension_point_is_empty_where_nothing_implements_its_interface(manager: ComponentManager) -> None:
    manager.load([Door])
    assert manager.get(Door).greeters == []


def test_components_registered_later_appear_too(manager: ComponentManager) -> None:
    manager.load([Door])
    door = manager.get(Door)
    manager.register(Curt)
    assert [type(greeter).__name__ for greeter in door.greeters] == ["Curt"]


def test_an_extension_point_read_on_the_class_is_itself() -> None:
    assert Door.greeters.interface is IGreeter


def test_a_subclass_implements_what_its_base_does(manager: ComponentManager) -> None:
    manager.load([VeryPolite])
    assert manager.implementations(IGreeter) == [VeryPolite]


def test_an_implementation_of_an_interface_implements_its_bases(manager: ComponentManager) -> None:
    class IWarmGreeter(IGreeter):
        def smile(self) -> None:
            raise NotImplementedError

    @implements(IWarmGreeter)
    class Warm(Curt):
        def smile(self) -> None:
            pass

    manager.load([Warm])
    assert manager.implementations(IGreeter) == [Warm]
    assert manager.implementations(IWarmGreeter) == [Warm]


# -------------------------------------------------------------------------------------------------------- managers


def test_a_component_is_created_once_per_manager(manager: ComponentManager) -> None:
    other = ComponentManager()
    manager.load([Polite])
    other.load([Polite])
    assert manager.get(Polite) is manager.get(Polite)
    assert manager.get(Polite) is not other.get(Polite)
    assert manager.get(Polite).manager is manager


def test_managers_share_no_components(manager: ComponentManager) -> None:
    manager.load([Polite])
    with pytest.raises(ConfigurationError, match=r"test_core\.Polite is not registered with this manager: register it"):
        ComponentManager().get(Polite)


def test_a_component_is_created_on_first_use(manager: ComponentManager) -> None:
    made = []

    class Lazy(Component):
        def __init__(self, manager: ComponentManager) -> None:
            super().__init__(manager)
            made.append(self)

    manager.load([Lazy])
    assert made == []
    manager.get(Lazy)
    manager.get(Lazy)
    assert len(made) == 1


def test_registering_again_changes_nothing(manager: ComponentManager) -> None:
    assert manager.register(Polite) is Polite
    first = manager.get(Polite)
    manager.load([Polite, Polite])
    assert manager.get(Polite) is first
    assert len(manager.extensions(IGreeter)) == 1


def test_two_classes_of_one_name_are_refused(manager: ComponentManager) -> None:
    def another() -> type[Component]:
        class Polite(Component):
            pass

        return Polite

    manager.register(Polite)
    with pytest.raises(ConfigurationError, match=r"Polite and .*test_core\.Polite are both named 'Polite': rename one"):
        manager.register(another())


def test_a_short_name_may_not_be_the_name_of_another(manager: ComponentManager) -> None:
    class Impostor(Component):
        short_name = "kind"

    manager.register(Polite)
    with pytest.raises(ConfigurationError, match="both named 'kind'"):
        manager.register(Impostor)
    # A refused class is not registered
    with pytest.raises(ConfigurationError, match="not registered"):
        manager.get(Impostor)


def test_components_that_need_each_other_to_be_created_are_refused(manager: ComponentManager) -> None:
    class Hen(Component):
        def __init__(self, manager: ComponentManager) -> None:
            super().__init__(manager)
            manager.get(Egg)

    class Egg(Component):
        def __init__(self, manager: ComponentManager) -> None:
            super().__init__(manager)
            manager.get(Hen)

    manager.load([Hen, Egg])
    with pytest.raises(ConfigurationError, match="Hen -> Egg -> Hen"):
        manager.get(Hen)


def test_a_component_whose_creation_failed_may_be_requested_again(manager: ComponentManager) -> None:
    broken = [True]

    class Flaky(Component):
        def __init__(self, manager: ComponentManager) -> None:
            super().__init__(manager)
            if broken:
                raise OSError("not now")

    manager.load([Flaky])
    with pytest.raises(OSError, match="not now"):
        manager.get(Flaky)
    broken.clear()
    assert isinstance(manager.get(Flaky), Flaky)


# --------------------------------------------------------------------------------------------------- configuration


def test_a_component_gets_the_section_named_like_its_class() -> None:
    manager = ComponentManager(Config({"Polite": {"times": 2}}))
    manager.load([Polite])
    assert manager.get(Polite).greet("Ada") == "dear dear Ada"


def test_a_section_of_a_base_class_applies_and_the_own_one_wins() -> None:
    manager = ComponentManager(Config({"Polite": {"times": 2}}))
    manager.load([VeryPolite])
    assert manager.get(VeryPolite).times == 2
    manager = ComponentManager(Config({"Polite": {"times": 2}, "VeryPolite": {"times": 3}}))
    manager.load([VeryPolite])
    assert manager.get(VeryPolite).times == 3


def test_an_item_that_the_component_does_not_have_is_refused() -> None:
    manager = ComponentManager(Config({"Polite": {"tiems": 2}}))
    manager.load([Polite])
    with pytest.raises(ConfigurationError, match="Polite has no item 'tiems': its items are times"):
        manager.get(Polite)


class PoliteSettings(Polite):
    section = "Courtesy"


def test_a_component_may_name_its_section() -> None:
    manager = ComponentManager(Config({"Courtesy": {"times": 2}, "PoliteSettings": {"times": 3}}))
    manager.load([PoliteSettings])
    assert manager.get(PoliteSettings).times == 2
    for items, message in [
        ({"tiems": 2}, "Courtesy has no item 'tiems'"),
        ({"times": "twice"}, r"Courtesy\.times cannot be 'twice'"),
    ]:
        manager = ComponentManager(Config({"Courtesy": items}))
        manager.load([PoliteSettings])
        with pytest.raises(ConfigurationError, match=message):
            manager.get(PoliteSettings)


def test_a_section_belongs_to_the_class_that_names_it_and_to_one_class_only() -> None:
    class Heir(PoliteSettings):
        short_name = "heir"

    manager = ComponentManager(Config({"Courtesy": {"times": 2}, "Heir": {"times": 3}}))
    manager.load([Heir, PoliteSettings])
    assert (manager.get(Heir).times, manager.get(PoliteSettings).times) == (3, 2)

    class Rival(Component):
        section = "Courtesy"

    with pytest.raises(ConfigurationError, match="are both named 'Courtesy': rename one"):
        manager.register(Rival)


# ------------------------------------------------------------------------------------------------------- contracts


def test_the_decorated_class_keeps_its_docstring_and_name() -> None:
    assert Polite.__doc__ == "Says dear."
    assert Polite.__name__ == "Polite"


def test_a_missing_method_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"Mute implements IGreeter, but has no 'greet' of its own: define it"):

        @implements(IGreeter)
        class Mute(Component):
            pass


def test_inheriting_the_interface_does_not_replace_the_method() -> None:
    with pytest.raises(ConfigurationError, match="no 'greet' of its own"):

        @implements(IGreeter)
        class Mute(Component, IGreeter):
            pass


def test_a_method_that_the_interface_inherits_is_required_too() -> None:
    class ILoud(IGreeter):
        pass

    with pytest.raises(ConfigurationError, match="implements ILoud, but has no 'greet'"):

        @implements(ILoud)
        class Mute(Component):
            pass


def test_private_names_are_no_part_of_the_contract() -> None:
    class IShy(Interface):
        def _secret(self) -> None:
            raise NotImplementedError

    @implements(IShy)
    class Open(Component):
        pass


def test_an_attribute_that_the_interface_has_is_required() -> None:
    class INamed(Interface):
        @property
        def title(self) -> str:
            raise NotImplementedError

    @implements(INamed)
    class Titled(Component):
        title = "Dr"

    with pytest.raises(ConfigurationError, match="no 'title' of its own"):

        @implements(INamed)
        class Untitled(Component):
            pass


def test_an_attribute_in_place_of_a_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="its 'greet' is not a method"):

        @implements(IGreeter)
        class Mute(Component):
            greet = "hello"


def same(self: object, name: str, loud: bool = False) -> None: ...
def more_with_defaults(self: object, name: str, loud: bool = False, *, often: int = 1) -> None: ...
def anything(self: object, *args: object, **kwargs: object) -> None: ...
def name_and_anything(self: object, name: str, *args: object, **kwargs: object) -> None: ...
def without_self(name: str, loud: bool = False) -> None: ...


@pytest.mark.parametrize(
    "method", [same, more_with_defaults, anything, name_and_anything, staticmethod(without_self), classmethod(same)]
)
def test_a_method_that_takes_every_promised_call_is_accepted(method: object) -> None:
    implements(IGreeter)(type("Able", (Component,), {"greet": method}))


def too_few(self: object, name: str) -> None: ...
def too_many(self: object, name: str, loud: bool, often: int) -> None: ...
def no_default(self: object, name: str, loud: bool) -> None: ...
def other_name(self: object, who: str, loud: bool = False) -> None: ...
def other_order(self: object, loud: bool, name: str = "") -> None: ...
def only_by_position(self: object, name: str, loud: bool = False, /) -> None: ...
def only_by_name(self: object, *, name: str, loud: bool = False) -> None: ...


@pytest.mark.parametrize(
    "method", [too_few, too_many, no_default, other_name, other_order, only_by_position, only_by_name]
)
def test_a_method_that_fails_a_promised_call_is_refused(method: object) -> None:
    with pytest.raises(ConfigurationError, match=r"accept greet\(name: str, loud: bool = False\) -> str"):
        implements(IGreeter)(type("Unable", (Component,), {"greet": method}))


def test_promised_splats_must_be_accepted() -> None:
    class ICollector(Interface):
        def collect(self, first: object, /, *rest: object, **named: object) -> None:
            raise NotImplementedError

    def whole(self: object, one: object, /, *others: object, **named: object) -> None: ...
    def no_rest(self: object, one: object, /, **named: object) -> None: ...
    def no_named(self: object, one: object, /, *others: object) -> None: ...

    implements(ICollector)(type("Whole", (Component,), {"collect": whole}))
    for part in no_rest, no_named:
        with pytest.raises(ConfigurationError, match="has other parameters"):
            implements(ICollector)(type("Part", (Component,), {"collect": part}))


def test_async_and_plain_methods_do_not_stand_for_each_other() -> None:
    async def greet(self: object, name: str, loud: bool = False) -> str:
        return name

    with pytest.raises(ConfigurationError, match="async"):
        implements(IGreeter)(type("Awaited", (Component,), {"greet": greet}))


def test_only_interfaces_can_be_implemented() -> None:
    with pytest.raises(ConfigurationError, match="str is not an Interface"):
        implements(str)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- entry points


def install(folder: Path, offers: str) -> None:
    """Put a package into `folder` that offers `offers` as an installed plug-in would."""
    about = folder / "garden_gate-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: garden-gate\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[concurrent_nb.components]\ngate = {offers}\n")


def test_plug_ins_are_found_only_when_asked_for(
    manager: ComponentManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an installed package that offers a component
    install(tmp_path, f"{__name__}:Polite")
    monkeypatch.syspath_prepend(str(tmp_path))
    # Then it is not registered before the manager loads entry points
    assert manager.implementations(IGreeter) == []
    manager.load_entry_points()
    assert manager.implementations(IGreeter) == [Polite]


@pytest.mark.parametrize(
    ("offers", "fault"),
    [
        ("no_such_module:Thing", "plug-in gate of garden-gate cannot be imported .*no_such_module.*: repair or"),
        (
            f"{__name__}:IGreeter",
            "plug-in gate of garden-gate is .*IGreeter.*, not a Component: repair or uninstall it",
        ),
    ],
)
def test_a_bad_plug_in_is_named(
    manager: ComponentManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offers: str, fault: str
) -> None:
    install(tmp_path, offers)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=fault):
        manager.load_entry_points()


def test_everything_public_has_annotations() -> None:
    for thing in Interface, Component, ComponentManager, ExtensionPoint, implements:
        assert inspect.getdoc(thing)
    for name, method in vars(ComponentManager).items():
        assert name.startswith("_") or inspect.getdoc(method), name
