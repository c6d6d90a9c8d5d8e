"""A journal for tests that ends with nothing: its rows are in a list, encoded as on disk, and survive a core."""

from collections.abc import Callable, Mapping, Sequence

from concurrent_nb.journal.journal_codec import BufferFile, decode_row, encode_row
from concurrent_nb.journal.journal_records import Record, only
from concurrent_nb.journal.replayed import Replayed, replay
from concurrent_nb.journal.retention import Retention
from concurrent_nb.wire.codec import Buffer


class JournalInMemory:
    """Keeps rows. What is appended is committed at once, or by `commit` if it is `slow`.

    Args:
        rows: of a former journal.
        slow: nothing is committed by itself.
    """

    def __init__(self, rows: Mapping[int, bytes] | None = None, *, slow: bool = False) -> None:
        self.rows = dict(rows or {})
        self.appended = self.committed = 0
        self.stalled = ""
        self.slow = slow
        self._queue: list[tuple[Record, Sequence[Buffer]]] = []
        self._facts: dict[str, str] = {}
        self._retention = Retention()
        read = [decode_row(number, body) for number, body in self.rows.items()]
        self._number = max(self.rows, default=0)
        for row in read:
            assert self._retention.add(row.number, row.record) is not None
        self._replayed = replay(
            (row.record, [it for it in row.buffers if not isinstance(it, BufferFile)]) for row in read
        )

    @property
    def kinds(self) -> list[str]:
        """The types of the records that are committed."""
        return [type(decode_row(number, body).record).__name__ for number, body in self.rows.items()]

    def take_replayed(self) -> Replayed:
        """Return what the rows say."""
        return self._replayed

    def facts(self) -> Mapping[str, str]:
        """Return what was stored."""
        return dict(self._facts)

    def store_facts(self, facts: Mapping[str, str]) -> None:
        """Store facts."""
        self._facts.update(facts)

    def start(self, committed: Callable[[], None]) -> None:
        """Do nothing."""

    def append(self, record: Record, buffers: Sequence[Buffer] = ()) -> None:
        """Append a record."""
        self.appended += 1
        self._queue.append((record, buffers))
        if not self.slow:
            self.commit()

    def commit(self) -> None:
        """Commit what has gathered."""
        queue, self._queue = self._queue, []
        for record, buffers in queue:
            if (fresh := self._retention.add(self._number + 1, record)) is not None:
                self._number += 1
                needed, own = only(record, buffers, fresh)
                self.rows[self._number] = encode_row(self._number, needed, [bytes(it) for it in own])
            for number in self._retention.take_over():
                del self.rows[number]
        self.committed += len(queue)

    def describe(self) -> dict[str, object]:
        """Return nothing."""
        return {}

    def close(self, *, empty: bool) -> None:
        """Do nothing."""
