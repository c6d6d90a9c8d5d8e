"""The settings of a running master: which may be changed while it runs, and how. A part of `nodes.master.process`.

A change holds until the master ends; what a later one is to have belongs into its configuration.
"""

from collections.abc import Callable
from typing import Any, Final

from traitlets import TraitError

from concurrent_nb.components.config import ExtensionPointItem
from concurrent_nb.components.core import Component, section_of
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.master.core import MasterCore

_AT_START: Final = "end the master and start it again with --{item}={value}, or set it in concurrent_nb_config.py"
_ADDRESSES: Final = "the master listens there since its start, and its connection file names them"
_INTERVALS: Final = "nodes get it when they register, and must agree with the master on it"

#: items that may not change while the master runs, with the reason
FIXED: Final = {
    "addresses": _ADDRESSES,
    "control_port": _ADDRESSES,
    "interval_s": _INTERVALS,
    "suspect_after_s": _INTERVALS,
    "lost_after_s": _INTERVALS,
    "object_bytes": "nodes get it when they register",
    "journal": "what was accepted before would not be in it",
    "rejoin_s": "it counts only when a master is started again",
    "share_memory": "nodes have agreed on it when they registered",
}
#: items that may only grow, because applications keep to the value that they got when they registered
GROWING: Final = frozenset({"tasks_per_client", "bytes_per_client", "segments_per_client"})


class HotSettings:
    """Reads and changes the settings of a running master. All methods must be called in the core's thread.

    Args:
        settings: the component with the settings.
        core: applies them.
    """

    def __init__(self, settings: Component, core: MasterCore) -> None:
        self._settings = settings
        self._core = core
        self._apply: dict[str, Callable[[Any, float], None]] = {
            "strategy": lambda component, now: core.use_strategy(component.make(), now),
            "deaths_allowed": lambda deaths, now: setattr(core.scheduler, "deaths_allowed", deaths),
            "results_kept_s": lambda kept_s, now: core.keep_results_for(kept_s),
            "results_kept_bytes": lambda size, now: setattr(core.scheduler, "results_kept_bytes", size),
            "unattended_jobs_s": lambda kept_s, now: self._limit_detached("unattended_jobs_s", kept_s, now),
            "detached_results_s": lambda kept_s, now: self._limit_detached("results_s", kept_s, now),
            "detached_results_bytes": lambda size, now: self._limit_detached("results_bytes", size, now),
            "clients": lambda most, now: setattr(core.limits, "clients", most),
            "tasks_per_client": lambda most, now: setattr(core.limits, "tasks", most),
            "bytes_per_client": lambda most, now: setattr(core.limits, "size_bytes", most),
            "segments_per_client": lambda most, now: setattr(core.limits, "segments", most),
        }

    def _limit_detached(self, name: str, value: float, now: float) -> None:
        setattr(self._core.detached.limits, name, value)
        self._core.detached.apply_limits(now)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return each item by name, "MasterNode.clients": value, default, help, and whether it may change (hot)."""
        section = section_of(type(self._settings))
        return {
            f"{section}.{name}": {
                "value": self._value(name),
                "default": self._named(name, trait.default()),
                "help": trait.help,
                "hot": name in self._apply,
                "note": FIXED.get(name, "it can only be raised" if name in GROWING else ""),
            }
            for name, trait in sorted(type(self._settings).class_traits(config=True).items())
        }

    def set(self, item: str, value: Any, now: float) -> Any:
        """Change an item; return the value that it has now.

        Raises ConfigurationError, with the reason and the remedy, for an item that may not change, and for a value
        that it cannot have.
        """
        section = section_of(type(self._settings))
        owner, _, name = item.rpartition(".")
        traits = type(self._settings).class_traits(config=True)
        if owner not in ("", section):
            raise ConfigurationError(
                f"{item[:100]} is no setting of this master, whose items are {section}.NAME: those of other sections"
                " are read when a node starts, so start that node again with the new value"
            )
        if name not in traits:
            raise ConfigurationError(f"{section} has no item {name[:100]!r}: its items are {', '.join(sorted(traits))}")
        if name not in self._apply:
            remedy = _AT_START.format(item=f"{section}.{name}", value=value)
            raise ConfigurationError(f"{section}.{name} cannot change while the master runs: {FIXED[name]}; {remedy}")
        before = self._value(name)
        try:
            setattr(self._settings, name, value)
            applied = getattr(self._settings, name)
        except TraitError as error:
            raise ConfigurationError(str(error)) from None
        except ConfigurationError:  # no component has that name
            setattr(self._settings, name, before)
            raise
        if name in GROWING and applied < before:
            setattr(self._settings, name, before)
            raise ConfigurationError(
                f"{section}.{name} is {before:,} and can only be raised while the master runs: applications keep to the"
                f" value that they got when they registered; {_AT_START.format(item=f'{section}.{name}', value=value)}"
            )
        self._apply[name](applied, now)
        return self._value(name)

    def _value(self, name: str) -> Any:
        """Return the value of an item as it is configured: of a component, its name."""
        return self._named(name, getattr(self._settings, name))

    def _named(self, item: str, value: Any) -> Any:
        trait = type(self._settings).class_traits()[item]
        if not isinstance(trait, ExtensionPointItem):
            return value
        component = self._settings.manager.choose(trait.interface, value, item) if isinstance(value, str) else value
        return component.short_name or type(component).__name__
