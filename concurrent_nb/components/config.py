"""Config items: the settings of a component, declared beside the code that reads them.

    class Pool(Component):
        workers = IntItem(0, min=0, help="Worker processes; 0 means one per core.")
        patience_s = FloatItem(5.0, min=0.0, help="Seconds to wait for a worker to end.")

They are traitlets, so users set them as Jupyter's own: `c.Pool.workers = 4` in a configuration file, `--Pool.workers=4`
on a command line. An item must have a default, which is checked when the class is defined, and a help text. The name of
a duration or a size ends in its unit. An invalid value raises ItemError when the component is created.
"""

import ipaddress
import math
import os
import re
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from traitlets import Bool, Float, HasTraits, Int, List, TraitError, TraitType, Unicode

from concurrent_nb.components.core import Component, I, section_of
from concurrent_nb.errors import ConfigurationError

G = TypeVar("G")
S = TypeVar("S")
T = TypeVar("T")


class ItemError(ConfigurationError, TraitError):
    """A config item has an invalid value. Also a TraitError, which Jupyter's tools can report."""


class _ConfigItem(TraitType[G, S]):
    """Base of all items: tags the trait as configurable, checks its default, names the item in errors."""

    def class_init(self, cls: type[HasTraits], name: str | None) -> None:
        super().class_init(cls, name)
        self.tag(config=True)
        if not self.help.strip():
            raise ConfigurationError(f"{section_of(cls)}.{name} has no help: describe what it does, and its unit")
        self.validate(HasTraits(), self.default())

    def validate(self, owner: HasTraits, value: Any) -> Any:
        try:
            return self.convert(owner, value)
        except (TraitError, ValueError):
            if not self.name:  # an element of a list: the list's own item reports it
                raise TraitError(value, self.info(), self) from None
            assert self.this_class is not None
            holder = type(owner) if isinstance(owner, self.this_class) else self.this_class
            raise ItemError(f"{section_of(holder)}.{self.name} cannot be {value!r}: give {self.info()}") from None

    def convert(self, owner: HasTraits, value: Any) -> Any:
        """Return the value that readers get. Raises ValueError or TraitError if `value` is invalid."""
        return super().validate(owner, value)  # type: ignore[misc]


class BoolItem(_ConfigItem[bool, bool | int], Bool[bool, bool | int]):
    """True or False."""

    info_text = "True or False"

    def __init__(self, default: bool, *, help: str) -> None:
        super().__init__(default, help=help)


class IntItem(_ConfigItem[int, int], Int[int, int]):
    """A whole number, from `min` to `max` if they are given."""

    def __init__(self, default: int, *, help: str, min: int | None = None, max: int | None = None) -> None:
        super().__init__(default, help=help, min=min, max=max)

    def info(self) -> str:
        return "a whole number" + _bounds(self.min, self.max)

    def convert(self, owner: HasTraits, value: Any) -> int:
        if isinstance(value, bool):  # a bool is an int in Python
            raise ValueError(value)
        return cast(int, super().convert(owner, value))


class FloatItem(_ConfigItem[float, float], Float[float, float]):
    """A number, from `min` to `max` if they are given; never NaN."""

    def __init__(self, default: float, *, help: str, min: float | None = None, max: float | None = None) -> None:
        super().__init__(default, help=help, min=min, max=max)

    def info(self) -> str:
        return "a number" + _bounds(self.min, self.max)

    def convert(self, owner: HasTraits, value: Any) -> float:
        if isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(value)
        return cast(float, super().convert(owner, value))


class TextItem(_ConfigItem[str, str | bytes], Unicode[str, str | bytes]):
    """A text, which may be empty."""

    info_text = "a text"

    def __init__(self, default: str, *, help: str) -> None:
        super().__init__(default, help=help)

    def convert(self, owner: HasTraits, value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):  # a command line takes "30" for a number
            value = str(value)
        return cast(str, super().convert(owner, value))


class ChoiceItem(_ConfigItem[str, str]):
    """One of some words."""

    def __init__(self, default: str, choices: Sequence[str], *, help: str) -> None:
        self.choices = tuple(choices)
        super().__init__(default, help=help)

    def info(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def convert(self, owner: HasTraits, value: Any) -> str:
        if value not in self.choices:
            raise ValueError(value)
        return cast(str, value)


class ListItem(_ConfigItem[list[T], Sequence[T]], List[T]):
    """A list of strings, or of values that the item or trait `of` accepts."""

    def __init__(self, default: Sequence[T], *, help: str, of: TraitType[T, Any] | None = None) -> None:
        self._of = Unicode() if of is None else of
        super().__init__(cast(TraitType[T, Any], self._of), list(default), help=help)

    def info(self) -> str:
        return f"a list, each element {self._of.info()}"


class PathItem(_ConfigItem[Path, Path | str]):
    """A path. `~` and environment variables in it are replaced; it is not opened and need not exist."""

    info_text = "a path, in which every ~user and every $VARIABLE exists"

    def __init__(self, default: Path | str, *, help: str) -> None:
        super().__init__(default, help=help)

    def convert(self, owner: HasTraits, value: Any) -> Path:
        if not isinstance(value, str | Path) or not str(value):
            raise ValueError(value)
        path = os.path.expandvars(os.path.expanduser(value))
        # Both leave unknown names unchanged; a folder named "$HMOE" is a typing error.
        if path.startswith("~") or "$" in path or "\0" in path:
            raise ValueError(path)
        return Path(path)


@dataclass(frozen=True)
class Host:
    """An address of a node. `str` returns the form that `HostItem` reads."""

    #: a name or an address, IPv6 without brackets
    name: str
    #: None if only a name was given; 0 for any free port
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


class HostItem(_ConfigItem[Host, Host | str]):
    """A host: "name", "name:port", "[v6]" or "[v6]:port". Readers get a Host."""

    info_text = 'a host as "name", "name:port" or "[IPv6 address]:port", with a port from 0 to 65535'

    _FORM = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?")

    def __init__(self, default: Host | str, *, help: str) -> None:
        super().__init__(default, help=help)

    def convert(self, owner: HasTraits, value: Any) -> Host:
        if not isinstance(value, str | Host) or (match := self._FORM.fullmatch(str(value))) is None:
            raise ValueError(value)
        if match["v6"]:
            ipaddress.IPv6Address(match["v6"])  # raises ValueError
        port = None if match["port"] is None else int(match["port"])
        if port is not None and port > 65535:
            raise ValueError(value)
        return Host(match["v6"] or match["name"], port)


class ExtensionPointItem(_ConfigItem[I, str]):
    """One component that implements `interface`, chosen by the name of its class or its short name.

    Reading it returns the component of the owner's manager. The name is looked up at each reading, so a component may
    be registered after the choice was made. An invalid choice raises ConfigurationError there and lists the choices.
    """

    info_text = "the name of a component"

    def __init__(self, interface: type[I], default: str, *, help: str) -> None:
        self.interface = interface
        super().__init__(default, help=help)

    def convert(self, owner: HasTraits, value: Any) -> str:
        return _component_name(value)

    def get(self, obj: HasTraits, cls: type[Any] | None = None) -> I | None:
        name = super().get(obj, cls)
        # While traitlets loads the configuration it reads items only to write them back, so it gets the name.
        if obj._cross_validation_lock:
            return name
        assert isinstance(obj, Component)
        return obj.manager.choose(self.interface, cast(str, name), f"{section_of(type(obj))}.{self.name}")


class ExtensionPointListItem(_ConfigItem[list[I], Sequence[str] | str]):
    """Several components that implement `interface`, in the order of the configuration.

    Reading it returns the components of the owner's manager; it raises as ExtensionPointItem does. A string is split at
    its commas, for command lines.
    """

    info_text = "a list of names of components, each once"

    def __init__(self, interface: type[I], default: Sequence[str], *, help: str) -> None:
        self.interface = interface
        super().__init__(tuple(default), help=help)

    def convert(self, owner: HasTraits, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",")] if value.strip() else []
        if not isinstance(value, list | tuple):
            raise ValueError(value)
        names = tuple(_component_name(each) for each in value)
        if len(set(names)) < len(names):
            raise ValueError(value)
        return names

    def get(self, obj: HasTraits, cls: type[Any] | None = None) -> list[I] | None:
        names = cast(tuple[str, ...], super().get(obj, cls))
        if obj._cross_validation_lock:  # loading, as in ExtensionPointItem
            return cast(list[I], list(names))
        assert isinstance(obj, Component)
        option = f"{section_of(type(obj))}.{self.name}"
        return [obj.manager.choose(self.interface, name, option) for name in names]


def read_value(text: str) -> Any:
    """Read the value of a configuration item as users type it: a Python literal, or otherwise text."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _component_name(value: Any) -> str:
    if not isinstance(value, str) or not value.replace("-", "_").isidentifier():
        raise ValueError(value)
    return value


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else ""
