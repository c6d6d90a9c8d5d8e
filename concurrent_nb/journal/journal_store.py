"""What a master needs of its journal. `sqlite_journal` has the store on disk; `memory` is none at all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from concurrent_nb.journal.journal_records import Record
from concurrent_nb.journal.replayed import Replayed
from concurrent_nb.wire.codec import Buffer


class JournalStore(Protocol):
    """A journal that is open: records are appended, and are committed a moment later, in their order."""

    @property
    def appended(self) -> int:
        """Return how many records were appended."""

    @property
    def committed(self) -> int:
        """Return how many of them are on disk, with all before them."""

    @property
    def stalled(self) -> str:
        """Return why nothing can be committed at the moment; "" while it can."""

    def take_replayed(self) -> Replayed:
        """Return what the journal had when it was opened, once."""

    def facts(self) -> Mapping[str, str]:
        """Return what was stored about the master."""

    def store_facts(self, facts: Mapping[str, str]) -> None:
        """Store facts about the master, which replace those of the same names. Raises JournalError."""

    def start(self, committed: Callable[[], None]) -> None:
        """Begin to commit; `committed` is called in another thread after each commit."""

    def append(self, record: Record, buffers: Sequence[Buffer] = ()) -> None:
        """Append a record. It and its buffers must not change any more."""

    def describe(self) -> dict[str, object]:
        """Return the state of the journal, for people."""

    def close(self, *, empty: bool) -> None:
        """Commit what was appended, and close the journal; with `empty`, delete all records."""
