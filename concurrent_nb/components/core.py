"""Interfaces, components that implement them, and extension points that list the components.

    class IGreeter(Interface):              a contract
        def greet(self, name: str) -> str: ...

    @implements(IGreeter)                   an implementation: built in, or of a plug-in
    class Polite(Component):
        def greet(self, name: str) -> str: ...

    class Door(Component):                  a user: lists every greeter of its manager
        greeters = ExtensionPoint(IGreeter)

    manager = ComponentManager(config)
    manager.load([Polite, Door])
    manager.get(Door).greeters              [the manager's one Polite]

A component is a singleton of its manager, created on first use and configured from the manager's configuration. There
is no process-wide state: two managers share no component. One thread at a time may use a manager; a component may be
shared between threads if it allows it.
"""

import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, cast, overload

from traitlets.config import Config, Configurable

from concurrent_nb.errors import ConfigurationError

#: The entry points under which installed packages offer components.
ENTRY_POINTS: Final = "concurrent_nb.components"


class Interface:
    """Base of every interface. The public methods of a subclass, inherited ones too, are its contract."""


I = TypeVar("I", bound=Interface)  # noqa: E741  (as in IGreeter)


class Component(Configurable):
    """Base of every component. Users set its items (`config.py`) in the section named like its class, or as `section`.

    Only its manager creates it. Raises ConfigurationError if the section has an unknown item.
    """

    #: the name of the section in configurations and error messages, if it is not the class's name; not inherited
    section: ClassVar[str] = ""
    #: another name, besides the class's own, by which configuration may choose this component
    short_name: ClassVar[str] = ""
    #: the interfaces that this class declares, without those of its bases; written by `implements`
    __interfaces__: ClassVar[tuple[type[Interface], ...]] = ()

    def __init__(self, manager: "ComponentManager") -> None:
        self.manager = manager
        known = self.class_trait_names(config=True)
        section = section_of(type(self))
        # traitlets only warns of unknown items, but a setting that is not applied must be an error.
        for name, value in manager.config.get(section, {}).items():
            if name not in known and not isinstance(value, Config):
                choices = ", ".join(sorted(known)) or "none"
                raise ConfigurationError(f"{section} has no item {name!r}: its items are {choices}")
        super().__init__(config=manager.config)

    @classmethod
    def section_names(cls) -> list[str]:
        """Return the sections whose items apply, for traitlets: those of the bases first."""
        return [section_of(base) for base in reversed(cls.__mro__) if issubclass(base, Configurable)]


def section_of(component: type) -> str:
    """Return the name of a component's section: its own `section`, else the name of its class."""
    return vars(component).get("section") or component.__name__


C = TypeVar("C", bound=Component)


def implements(*interfaces: type[Interface]) -> Callable[[type[C]], type[C]]:
    """Declare that the decorated component, with its subclasses, implements `interfaces`.

    Raises ConfigurationError, when the class is defined, if a method is missing or has other parameters.
    """
    for interface in interfaces:
        if not issubclass(interface, Interface):
            raise ConfigurationError(f"{interface.__name__} is not an Interface: write @implements(IName, ...)")

    def declare(component: type[C]) -> type[C]:
        for interface in interfaces:
            _check(component, interface)
        component.__interfaces__ = (*vars(component).get("__interfaces__", ()), *interfaces)
        return component

    return declare


class ExtensionPoint(Generic[I]):
    """An attribute of a component: its manager's components that implement `interface`, in order of registration."""

    def __init__(self, interface: type[I]) -> None:
        self.interface = interface

    @overload
    def __get__(self, owner: None, owner_type: type[Component]) -> Self: ...
    @overload
    def __get__(self, owner: Component, owner_type: type[Component]) -> list[I]: ...
    def __get__(self, owner: Component | None, owner_type: type[Component]) -> Self | list[I]:
        return self if owner is None else owner.manager.extensions(self.interface)


class ComponentManager:
    """Registers component classes, creates each of them once, and configures them.

    Args:
        config: as Jupyter's, `config.MasterNode.strategy = "PushBest"`.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config
        self._classes: dict[str, type[Component]] = {}  # by class name, section and short name
        self._instances: dict[type[Component], Component] = {}
        self._being_made: list[type[Component]] = []

    def register(self, component: type[C]) -> type[C]:
        """Register a component class and return it. Registering it again has no effect.

        Raises ConfigurationError if another class has its name, section or short name: configuration could not
        distinguish them.
        """
        names = {component.__name__, section_of(component), component.short_name} - {""}
        for name in names:
            if (other := self._classes.get(name, component)) is not component:
                raise ConfigurationError(f"{_place(component)} and {_place(other)} are both named {name!r}: rename one")
        for name in names:
            self._classes[name] = component
        return component

    def sections(self) -> set[str]:
        """Return the sections of the registered classes."""
        return {section_of(component) for component in self._classes.values()}

    def load(self, components: Iterable[type[Component]]) -> None:
        """Register several classes; extension points list them in this order."""
        for component in components:
            self.register(component)

    def load_entry_points(self) -> None:
        """Register the components that installed packages offer under the entry points `concurrent_nb.components`.

        Runs those packages' code. Raises ConfigurationError if one cannot be imported or is not a component.
        """
        from importlib.metadata import entry_points  # here: it reads files, which only this method may do

        for entry in entry_points(group=ENTRY_POINTS):
            plug_in = f"plug-in {entry.name} of {entry.dist.name if entry.dist else 'an unknown package'}"
            try:
                component = entry.load()
            except Exception as error:
                raise ConfigurationError(f"{plug_in} cannot be imported ({error!r}): repair or uninstall it") from error
            if not (isinstance(component, type) and issubclass(component, Component)):
                raise ConfigurationError(f"{plug_in} is {component!r}, not a Component: repair or uninstall it")
            self.register(component)

    def get(self, component: type[C]) -> C:
        """Return this manager's instance of a registered class; the first call creates it.

        Raises ConfigurationError if the class is not registered, if its configuration is invalid, or if its creation
        needs the component itself.
        """
        if component in self._instances:
            return cast(C, self._instances[component])
        if component not in self._classes.values():
            raise ConfigurationError(f"{_place(component)} is not registered with this manager: register it first")
        if component in self._being_made:
            circle = " -> ".join(each.__name__ for each in (*self._being_made, component))
            raise ConfigurationError(f"components need each other to be created ({circle}): read one of them later")
        self._being_made.append(component)
        try:
            made = component(self)
        finally:
            self._being_made.pop()
        self._instances[component] = made
        return made

    def implementations(self, interface: type[Interface]) -> list[type[Component]]:
        """Return the registered classes that implement `interface`, in order of registration."""
        classes = dict.fromkeys(self._classes.values())
        return [component for component in classes if _implements(component, interface)]

    def extensions(self, interface: type[I]) -> list[I]:
        """Return the components that implement `interface`, in order of registration; creates them if needed."""
        return [cast(I, self.get(component)) for component in self.implementations(interface)]

    def choose(self, interface: type[I], name: str, option: str) -> I:
        """Return the component named `name` (its class's name or its short name) that implements `interface`.

        Raises ConfigurationError if no such component exists; it names `option`, "Section.item", and lists the choices.
        """
        component = self._classes.get(name)
        if component is not None and _implements(component, interface):
            return cast(I, self.get(component))
        fault = "no component has that name" if component is None else "that component does not implement it"
        choices = ", ".join(
            f"{each.__name__} ({each.short_name})" if each.short_name else each.__name__
            for each in self.implementations(interface)
        )
        remedy = f"choose one of {choices}" if choices else "nothing implements it yet, so register a component first"
        raise ConfigurationError(f"{option} = {name!r} should be an {interface.__name__}, but {fault}: {remedy}")


def _place(component: type) -> str:
    return f"{component.__module__}.{component.__qualname__}"


def _implements(component: type[Component], interface: type[Interface]) -> bool:
    declared = (each for base in component.__mro__ for each in vars(base).get("__interfaces__", ()))
    return any(issubclass(each, interface) for each in declared)


# ------------------------------------------------------------------------------------------- checking contracts


def _check(component: type, interface: type[Interface]) -> None:
    for name, promised in _contract(interface).items():
        given = inspect.getattr_static(component, name, promised)
        problem = f"{component.__qualname__} implements {interface.__name__}, but"
        if given is promised:
            raise ConfigurationError(f"{problem} has no {name!r} of its own: define it")
        if isinstance(promised, FunctionType):
            expected = _signature(interface, name)
            if not callable(getattr(component, name)):
                raise ConfigurationError(f"{problem} its {name!r} is not a method: define {name}{expected}")
            if not _accepts(_signature(component, name), expected):
                raise ConfigurationError(f"{problem} its {name!r} has other parameters: accept {name}{expected}")
            if inspect.iscoroutinefunction(promised) != inspect.iscoroutinefunction(getattr(component, name)):
                raise ConfigurationError(f"{problem} only one of them declares {name!r} with async: make them agree")


def _contract(interface: type[Interface]) -> dict[str, Any]:
    bases = [base for base in reversed(interface.__mro__) if issubclass(base, Interface)]
    return {name: value for base in bases for name, value in vars(base).items() if not name.startswith("_")}


def _signature(owner: type, name: str) -> inspect.Signature:
    """Return the signature of a method as its callers see it, without self."""
    signature = inspect.signature(getattr(owner, name))
    if isinstance(inspect.getattr_static(owner, name), FunctionType):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def _accepts(given: inspect.Signature, promised: inspect.Signature) -> bool:
    """Return whether every call that `promised` allows binds to `given`, each argument to the parameter of its name.

    Tries all arguments by position, all by name, and the required ones only.
    """
    parameters = list(promised.parameters.values())
    anonymous = {each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL)}
    by_position = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    splat = [each for each in parameters if each.kind is each.VAR_POSITIONAL]
    by_name = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    only_by_position = [each for each in by_position if each.name in anonymous]
    either_way = [each for each in by_position if each.name not in anonymous]

    def binds(positional: list[inspect.Parameter], named: list[inspect.Parameter]) -> bool:
        try:
            bound = given.bind(*(each.name for each in positional), **{each.name: each.name for each in named})
        except TypeError:
            return False
        # Each argument is the name of the parameter that it is meant for; a tuple or dict is *args or **kwargs.
        return all(not isinstance(got, str) or got == name or got in anonymous for name, got in bound.arguments.items())

    def required(some: list[inspect.Parameter]) -> list[inspect.Parameter]:
        return [each for each in some if each.default is each.empty and each.kind is not each.VAR_KEYWORD]

    return (
        binds(by_position + splat, by_name)
        and binds(only_by_position, either_way + by_name)
        and binds(required(by_position), required(by_name))
    )
