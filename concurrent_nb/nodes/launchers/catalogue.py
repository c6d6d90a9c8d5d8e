"""The launchers, by the names that users write in `on=`. Each is imported when it is chosen."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.launcher import ILauncher
from concurrent_nb.nodes.launchers.place import On, parse_on
from concurrent_nb.settings import files as settings

#: short name to the module below this package, and the class in it, which is the name of its section
BUILT_IN: Final = {
    "local": ("local", "Local"),
    "ssh": ("ssh", "Ssh"),
    "command": ("command", "Command"),
    "slurm": ("slurm_launcher", "Slurm"),
    "dask": ("dask_pilot", "Dask"),
    "ray": ("ray_pilot", "Ray"),
}


class ChosenLauncher(NamedTuple):
    """A launcher that `on=` names, before it is created."""

    on: On
    component: type[Component]

    @property
    def section(self) -> str:
        """The section of its items."""
        return self.component.section or self.component.__name__

    def item_names(self) -> list[str]:
        """Return the names of its items, which are options of `concurrent-nb start --on`."""
        return sorted(self.component.class_trait_names(config=True))


def choose_launcher(text: str) -> ChosenLauncher:
    """Return the launcher of `on=text`. Raises ConfigurationError if there is no such launcher."""
    on = parse_on(text)
    if on.launcher in BUILT_IN:
        module, name = BUILT_IN[on.launcher]
        component = getattr(import_module(f"{__package__}.{module}"), name)
        assert issubclass(component, Component)
        return ChosenLauncher(on, component)
    manager = ComponentManager()
    manager.load_entry_points()  # only for names that are not ours, because it searches all installed packages
    plug_ins = {each.short_name or each.__name__: each for each in manager.implementations(ILauncher)}
    if on.launcher in plug_ins:
        return ChosenLauncher(on, plug_ins[on.launcher])
    raise ConfigurationError(
        f"on={text!r}: there is no launcher {on.launcher!r}; there are {', '.join([*BUILT_IN, *sorted(plug_ins)])}"
    )


def make_launcher(chosen: ChosenLauncher, items: Mapping[str, Any]) -> ILauncher:
    """Create the launcher, with the items of the configuration files and `items` on top. Raises ConfigurationError."""
    manager = ComponentManager(settings.load({chosen.section: items}))
    manager.register(chosen.component)
    launcher = manager.choose(ILauncher, chosen.component.__name__, "on")
    launcher.place = chosen.on.place
    return launcher
