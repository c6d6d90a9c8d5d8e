"""The sections of the configuration: which there are, and what is wrong with the name of one that does not exist.

Each node reads only its own sections, so a misspelt one would be ignored without a word. A section that the user typed
for this start (`Cluster(config=)`, --Section.item) must exist. A configuration file may also have sections of samples,
of plug-ins and of other versions: there only a name that is almost one of ours is an error, and others are logged.
"""

import logging
from collections.abc import Iterable
from typing import Final

from concurrent_nb.errors import ConfigurationError

log = logging.getLogger(__name__)

#: sections of a master: its own, those of the built-in strategies, and those of the journals
OF_MASTER: Final = (
    *("MasterNode", "PullRoundRobin", "PushBest", "Stealing", "Locality"),
    *("MemoryJournal", "SqliteJournal"),
)
OF_SLAVE: Final = ("SlaveNode",)
#: those of the launchers, which the owner of a cluster reads
OF_LAUNCHERS: Final = ("Local", "Ssh", "Command", "Slurm", "Dask", "Ray")
OF_ALL: Final = (*OF_MASTER, *OF_SLAVE, *OF_LAUNCHERS)
#: a name this similar to one of ours, from 0 to 1, is a typing error
SIMILAR: Final = 0.8


def check_sections(given: Iterable[str], known: tuple[str, ...] = OF_ALL) -> None:
    """Raise ConfigurationError for a section that the user typed and that does not exist in these nodes."""
    unknown = [name for name in given if name not in known]
    if unknown and not _of_plug_ins(unknown):
        raise ConfigurationError(_fault(unknown[0], known))


def check_sections_of_files(given: Iterable[str]) -> None:
    """Raise ConfigurationError for a section of a file whose name is almost one of ours; log other unknown ones."""
    for name in given:
        if name in OF_ALL:
            continue
        if _nearest(name, SIMILAR):
            raise ConfigurationError(f"configuration file: {_fault(name, OF_ALL)}")
        log.warning("configuration file: the nodes do not use section %r; theirs are %s", name, ", ".join(OF_ALL))


def _fault(name: str, known: tuple[str, ...]) -> str:
    if name in OF_ALL:
        return f"section {name!r} has no effect on this node: its sections are {', '.join(known)}"
    meant = "SlaveNode" if "worker" in name.lower() else _nearest(name, 0.5)  # workers are the slave's
    hint = f"did you mean {meant}? " if meant in known else ""
    return f"there is no section {name!r} in the configuration: {hint}The sections are {', '.join(known)}"


def _nearest(name: str, similarity: float) -> str:
    """Return our section whose name is most similar to this one; "" if none is as similar as that."""
    import difflib  # here, because a correct configuration does not need it

    ours = {section.lower(): section for section in OF_ALL}
    return next((ours[close] for close in difflib.get_close_matches(name.lower(), ours, 1, similarity)), "")


def _of_plug_ins(names: Iterable[str]) -> bool:
    """Return whether these are sections of components of installed packages."""
    # Here: it reads files and imports traitlets, which a correct configuration does not need.
    from concurrent_nb.components.core import ComponentManager

    manager = ComponentManager()
    manager.load_entry_points()
    return manager.sections() >= set(names)
