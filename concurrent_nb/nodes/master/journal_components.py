"""The journals as components: configuration chooses the one of a master.

`c.MasterNode.journal = "sqlite"`. A plug-in's journal implements IJournal in the same way.
"""

from pathlib import Path
from typing import Final

from concurrent_nb.components.config import TextItem
from concurrent_nb.components.core import Component, Interface, implements
from concurrent_nb.journal.journal_store import JournalStore


class IJournal(Interface):
    """Opens the journal of a master."""

    def open(self, name: str) -> JournalStore | None:
        """Return the journal of the cluster `name`, made if there is none. None: the master has no journal.

        Raises JournalError.
        """
        raise TypeError(f"{type(self).__name__} has no method open, which returns a journal")


@implements(IJournal)
class MemoryJournal(Component):
    """No journal: what a master knows ends with its process. Costs nothing; the default."""

    short_name = "memory"

    def open(self, name: str) -> JournalStore | None:
        """Return None."""
        return None


@implements(IJournal)
class SqliteJournal(Component):
    """A database on the master's disk, with which a master that was killed goes on."""

    short_name = "sqlite"
    folder = TextItem("", help="Folder of the journals, each in a folder below it; empty: in Jupyter's data folder.")

    def open(self, name: str) -> JournalStore | None:
        """Open the journal of a cluster. Raises JournalError, VersionMismatch."""
        from concurrent_nb.journal.sqlite_journal import SqliteJournalStore  # here, because most masters have none

        return SqliteJournalStore(self.folder_of(name))

    def folder_of(self, name: str) -> Path:
        """Return the folder of the journal of a cluster, which need not exist."""
        if self.folder:
            return Path(self.folder).expanduser() / name
        from jupyter_core.paths import jupyter_data_dir  # here, as above

        return Path(jupyter_data_dir()) / "concurrent_nb" / "journals" / name


JOURNALS: Final[tuple[type[Component], ...]] = (MemoryJournal, SqliteJournal)
