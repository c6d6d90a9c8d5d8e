"""The journal on disk: a SQLite database, and a file for each large buffer.

    compute thread: append --> queue --> writer thread: Retention, encode_row --> one transaction --> committed
                                         checkpoint thread: moves the log into the database, on its own connection

The writer commits what has gathered, at most once in COMMIT_S. All that may take long happens in these threads. If a
commit fails, for a disk that is full, it is tried again every RETRY_S.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

from concurrent_nb.errors import JournalDamaged, JournalError, JournalFull, VersionMismatch
from concurrent_nb.journal import journal_folder
from concurrent_nb.journal.journal_codec import JOURNAL_VERSION, BufferFile, JournalRow, decode_row, encode_row
from concurrent_nb.journal.journal_records import Record, only
from concurrent_nb.journal.replayed import Replayed, replay
from concurrent_nb.journal.retention import Retention
from concurrent_nb.wire.codec import Buffer

log = logging.getLogger(__name__)

#: at most one commit in this time; what comes meanwhile travels with the next one
COMMIT_S: Final = 0.002
#: time between two attempts to commit while that fails
RETRY_S: Final = 0.5
#: buffers above this are files
FILE_BYTES: Final = 64 * 1024
#: the log is moved into the database when so much was written, and by the writer itself when it is so long
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
#: most records in one transaction
BATCH_RECORDS: Final = 4096

_DATABASE: Final = "journal.sqlite"
_ENDS: Final = ("", "-wal", "-shm", "-journal")
_BUFFERS: Final = "buffers"
_APPLICATION: Final = 0x434E4A31  # "CNJ1", so that `file` and we recognise it


class SqliteJournalStore:
    """The journal in a folder, which one process has open.

    Args:
        folder: where it is, or is made.
        commit_s: at most one commit in this time, in seconds.
        repairs: drop the first record that is wrong and all that follow, and keep a copy; else that is JournalDamaged.

    Raises:
        JournalInUse: another process has it.
        JournalFull: there is no room.
        JournalDamaged: it cannot be read at all.
        VersionMismatch: another version of concurrent_nb has written it.
        JournalError: the folder cannot be used.
    """

    def __init__(self, folder: Path, commit_s: float = COMMIT_S, *, repairs: bool = True) -> None:
        journal_folder.make_private_folder(folder)
        self.folder = folder
        self.cut = 0  #: records that were dropped, because they were torn or changed, or follow such a one
        self.copy: Path | None = None  #: where they are
        self._commit_s = commit_s
        self._repairs = repairs
        self._lock = journal_folder.lock(folder)
        try:
            self._why_no_log = journal_folder.why_no_log(folder)
            if self._why_no_log:
                log.warning("the journal has no write-ahead log, and is slower: %s", self._why_no_log)
            self._open()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise _typed(error, folder) from error
        except BaseException:
            os.close(self._lock)
            raise
        self._queue: deque[tuple[Record, Sequence[Buffer]]] = deque()
        self._wanted = threading.Event()
        self._stopping = False
        self._appended = self._committed = 0
        self._stalled = ""
        self._on_commit: Callable[[], None] = lambda: None
        self._written_bytes = 0  # since the last checkpoint
        self._checkpoint_due = threading.Event()
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------------------------------------------ at the start

    def _open(self) -> None:
        path = self.folder / _DATABASE
        is_new = not path.exists()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        (self.folder / _BUFFERS).mkdir(mode=0o700, exist_ok=True)
        self._database = self._connect()
        try:
            self._replay(self._prepare(is_new))
        except BaseException:
            self._database.close()
            raise

    def _replay(self, rows: Sequence[JournalRow]) -> None:
        self._number = max((row.number for row in rows), default=0)
        self._files: Counter[bytes] = Counter()
        self._files_of: dict[int, list[bytes]] = {}
        self._retention = Retention()
        for row in rows:
            self._retention.add(row.number, row.record)
            self._count_files(row.number, row.buffers)
        surplus = self._retention.take_over()
        self._delete(surplus)
        self._sweep_files()
        over = set(surplus)
        left = [row for row in rows if row.number not in over]
        contents: dict[bytes, bytes] = {}  # many tasks may have the same large argument
        self._replayed: Replayed | None = replay((row.record, self._read_files(row, contents)) for row in left)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self.folder / _DATABASE, isolation_level=None, timeout=5.0, check_same_thread=False, cached_statements=16
        )
        if self._why_no_log:
            pragmas = ("locking_mode=EXCLUSIVE", "journal_mode=PERSIST", "synchronous=FULL")
        else:
            pragmas = ("journal_mode=WAL", "wal_autocheckpoint=0", "synchronous=FULL")
        try:
            for pragma in pragmas:
                database.execute(f"PRAGMA {pragma}")
        except BaseException:  # the file is damaged
            database.close()
            raise
        return database

    def _prepare(self, is_new: bool) -> list[JournalRow]:
        """Make the tables, or read the records up to the first one that is wrong; drop the others."""
        database = self._database
        if is_new or not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"PRAGMA application_id={_APPLICATION}")
            database.execute(f"PRAGMA user_version={JOURNAL_VERSION}")
            database.execute("CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT, checksum INTEGER) WITHOUT ROWID")
            database.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
            database.execute("COMMIT")
        if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise JournalDamaged(f"{self.folder / _DATABASE} is no journal: move it away, or name another folder")
        if (version := database.execute("PRAGMA user_version").fetchone()[0]) != JOURNAL_VERSION:
            raise VersionMismatch(
                f"the journal in {self.folder} has version {version}, and this package reads version {JOURNAL_VERSION}:"
                " use the package that has written it, or move the folder away"
            )
        why, rows = self._read_rows()
        if why and not self._repairs:
            raise JournalDamaged(
                f"the journal in {self.folder} is damaged: {why}. {len(rows)} records before that are whole; a master"
                " that is started uses them, drops the rest, and keeps a copy of everything"
            )
        if why:
            self._cut(why, rows)
        return rows

    def _read_rows(self) -> tuple[str, list[JournalRow]]:
        """Return the records up to the first one that is wrong, and what is wrong with that; "" for nothing."""
        rows: list[JournalRow] = []
        try:
            problem = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            problem = str(error)
        try:
            for number, body in self._database.execute("SELECT number, body FROM record ORDER BY number"):
                if not isinstance(body, bytes):
                    raise JournalDamaged(f"record {number} of the journal is no record, but {type(body).__name__}")
                row = decode_row(number, body)
                for each in row.buffers:
                    if isinstance(each, BufferFile):
                        self._check_file(number, each)
                rows.append(row)
        except (JournalDamaged, sqlite3.DatabaseError) as error:
            return str(error), rows
        return "" if problem == "ok" else f"the database is damaged: {problem}", rows

    def _cut(self, why: str, rows: Sequence[JournalRow]) -> None:
        """Keep a copy of everything, and only these records in the database."""
        with contextlib.suppress(sqlite3.DatabaseError):
            self.cut = self._database.execute("SELECT count(*) FROM record").fetchone()[0] - len(rows)
        self.copy = self.folder / time.strftime("damaged-%Y%m%d-%H%M%S")
        self.copy.mkdir(mode=0o700, exist_ok=True)
        for end in _ENDS:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(self.folder / (_DATABASE + end), self.copy)
        log.error(
            "THE JOURNAL IN %s IS DAMAGED: %s. The %d records before that are used, the rest is dropped: tasks and"
            " results in it are lost, unless their applications send them again. A copy of everything is in %s",
            self.folder,
            why,
            len(rows),
            self.copy,
        )
        facts = self.facts()  # without them it cannot be used
        self._database.close()
        for end in _ENDS:
            (self.folder / (_DATABASE + end)).unlink(missing_ok=True)
        os.close(os.open(self.folder / _DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = self._connect()
        self._prepare(is_new=True)
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO fact VALUES (?, ?, ?)", _checked(facts))
        database.executemany(
            "INSERT INTO record VALUES (?, ?)",
            ((row.number, encode_row(row.number, row.record, row.buffers)) for row in rows),
        )
        database.execute("COMMIT")

    def take_replayed(self) -> Replayed:
        """Return what the journal had when it was opened, once."""
        replayed, self._replayed = self._replayed, None
        return replayed or Replayed()

    def rows(self) -> Iterator[JournalRow]:
        """Yield all records. To be called before `start`."""
        for number, body in self._database.execute("SELECT number, body FROM record ORDER BY number"):
            yield decode_row(number, body)

    def compact(self) -> None:
        """Give the room of deleted records back to the file system. To be called before `start`."""
        self._database.execute("VACUUM")
        if not self._why_no_log:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def facts(self) -> Mapping[str, str]:
        """Return what was stored about the master. Raises JournalDamaged if it was changed."""
        rows = self._database.execute("SELECT name, value, checksum FROM fact").fetchall()
        facts: dict[str, str] = {name: value for name, value, _ in rows}
        if set(rows) != set(_checked(facts)):
            raise JournalDamaged(
                f"keys or tokens in the journal in {self.folder} were changed: move the folder away, and start the"
                " master without it"
            )
        return facts

    def store_facts(self, facts: Mapping[str, str]) -> None:
        """Store facts, which replace those of the same names. To be called before `start`. Raises JournalError."""
        try:
            self._database.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", _checked(facts))
        except sqlite3.Error as error:
            raise _typed(error, self.folder) from error

    # -------------------------------------------------------------------------------------------------- large buffers

    def _path_of(self, digest: bytes) -> Path:
        return self.folder / _BUFFERS / digest.hex()

    def _check_file(self, number: int, file: BufferFile) -> None:
        if hashlib.sha256(self._read_file(number, file)).digest() != file.digest:
            raise JournalDamaged(f"a large buffer of record {number} of the journal was changed")

    def _read_file(self, number: int, file: BufferFile) -> bytes:
        try:
            data = self._path_of(file.digest).read_bytes()
        except OSError as error:
            raise JournalDamaged(f"a large buffer of record {number} of the journal cannot be read: {error}") from None
        if len(data) != file.size:
            raise JournalDamaged(f"a large buffer of record {number} of the journal is torn")
        return data

    def _read_files(self, row: JournalRow, contents: dict[bytes, bytes]) -> list[Buffer]:
        read: list[Buffer] = []
        for each in row.buffers:
            if isinstance(each, BufferFile):
                if each.digest not in contents:
                    contents[each.digest] = self._read_file(row.number, each)
                read.append(contents[each.digest])
            else:
                read.append(each)
        return read

    def _write_files(self, buffers: Sequence[Buffer]) -> Sequence[Buffer | BufferFile]:
        """Write large buffers into files of their own, and return what stands in the row instead."""
        if all(memoryview(it).nbytes <= FILE_BYTES for it in buffers):
            return buffers
        places: list[Buffer | BufferFile] = []
        for each in buffers:
            size = memoryview(each).nbytes
            if size <= FILE_BYTES:
                places.append(each)
                continue
            digest = hashlib.sha256(each).digest()
            path = self._path_of(digest)
            if not path.exists():  # else another row has the same content
                part = path.with_suffix(".part")
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(each)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
                _sync_folder(path.parent)
            places.append(BufferFile(digest, size))
        return places

    def _count_files(self, number: int, places: Sequence[Buffer | BufferFile]) -> None:
        digests = [it.digest for it in places if isinstance(it, BufferFile)]
        if digests:
            self._files_of[number] = digests
            self._files.update(digests)

    def _uncount_files(self, numbers: Sequence[int]) -> None:
        """Delete the files of rows that were deleted, unless other rows have the same content."""
        if not self._files_of:
            return
        for number in numbers:
            for digest in self._files_of.pop(number, ()):
                self._files[digest] -= 1
                if not self._files[digest]:
                    del self._files[digest]
                    self._path_of(digest).unlink(missing_ok=True)

    def _sweep_files(self) -> None:
        """Delete files of rows that were never committed."""
        for path in (self.folder / _BUFFERS).iterdir():
            if path.name not in {digest.hex() for digest in self._files}:
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- writing

    @property
    def appended(self) -> int:
        """Return how many records were appended."""
        return self._appended

    @property
    def committed(self) -> int:
        """Return how many of them are on disk, with all before them."""
        return self._committed

    @property
    def stalled(self) -> str:
        """Return why nothing can be committed at the moment; "" while it can."""
        return self._stalled

    def start(self, committed: Callable[[], None]) -> None:
        """Begin to commit; `committed` is called in another thread after each commit."""
        self._on_commit = committed
        self._threads = [threading.Thread(target=self._write, name="journal writer", daemon=True)]
        if not self._why_no_log:
            self._threads.append(threading.Thread(target=self._checkpoint, name="journal checkpoint", daemon=True))
        for thread in self._threads:
            thread.start()

    def append(self, record: Record, buffers: Sequence[Buffer] = ()) -> None:
        """Append a record. It and its buffers must not change any more."""
        self._appended += 1
        self._queue.append((record, buffers))
        if not self._wanted.is_set():
            self._wanted.set()

    def describe(self) -> dict[str, object]:
        """Return the state of the journal, for people."""
        mode = "rollback journal" if self._why_no_log else "write-ahead log"
        return {"folder": str(self.folder), "mode": mode, "why": self._why_no_log, "stalled": self._stalled}

    def close(self, *, empty: bool) -> None:
        """Commit what was appended, and close the journal; with `empty`, delete all records and facts."""
        self._stopping = True
        self._wanted.set()
        self._checkpoint_due.set()
        for thread in self._threads:
            thread.join()
        try:
            if empty:
                with contextlib.suppress(sqlite3.Error):  # a disk that is full: they are replayed
                    self._database.execute("DELETE FROM record")
                    self._database.execute("DELETE FROM fact")
                    self._files.clear()
                    self._sweep_files()
            self._database.close()
        finally:
            os.close(self._lock)

    def _write(self) -> None:
        began_s = 0.0
        while True:
            self._wanted.wait()
            is_last = self._stopping
            if not is_last and (wait_s := began_s + self._commit_s - time.monotonic()) > 0:
                time.sleep(wait_s)
            began_s = time.monotonic()
            self._wanted.clear()
            while self._queue:
                if not self._commit_batch():
                    return
            if is_last:
                return

    def _commit_batch(self) -> bool:
        """Commit what has gathered. False if that was not possible before the journal is closed."""
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), BATCH_RECORDS))]
        needed: list[tuple[int, Record, Sequence[Buffer]]] = []
        for record, buffers in batch:
            fresh = self._retention.add(self._number + 1, record)
            if fresh is not None:
                self._number += 1
                needed.append((self._number, *only(record, buffers, fresh)))
        over = self._retention.take_over()
        if over:
            gone = set(over)
            needed = [row for row in needed if row[0] not in gone]
        while True:
            try:
                self._commit(needed, over)
            except (sqlite3.Error, OSError) as error:
                if not self._stalled:
                    log.error("%s. Nothing is accepted until it can be written again", _typed(error, self.folder))
                self._stalled = str(error)
                if self._stopping:
                    return False
                time.sleep(RETRY_S)
                continue
            break
        if self._stalled:
            self._stalled = ""
            log.warning("the journal in %s can be written again", self.folder)
        self._committed += len(batch)
        self._on_commit()
        return True

    def _commit(self, needed: Sequence[tuple[int, Record, Sequence[Buffer]]], over: Sequence[int]) -> None:
        if not needed and not over:
            return
        rows: list[tuple[int, bytes]] = []
        files: list[tuple[int, Sequence[Buffer | BufferFile]]] = []
        for number, record, buffers in needed:
            places = self._write_files(buffers) if buffers else ()
            if places is not buffers:
                files.append((number, places))
            rows.append((number, encode_row(number, record, places)))
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            if rows:
                database.executemany("INSERT INTO record VALUES (?, ?)", rows)
            if over:
                database.executemany("DELETE FROM record WHERE number = ?", ((number,) for number in over))
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        for number, places in files:
            self._count_files(number, places)
        if over:
            self._uncount_files(over)
        self._written_bytes += sum(len(body) for _, body in rows) + 4096
        if self._written_bytes >= CHECKPOINT_BYTES:
            self._written_bytes = 0
            self._checkpoint_due.set()
            if not self._why_no_log and _size_of(self.folder / (_DATABASE + "-wal")) > LOG_BYTES_MAX:
                with contextlib.suppress(sqlite3.OperationalError):  # it is tried again
                    database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _delete(self, numbers: Sequence[int]) -> None:
        if numbers:
            self._database.executemany("DELETE FROM record WHERE number = ?", ((number,) for number in numbers))
            self._uncount_files(numbers)

    def _checkpoint(self) -> None:
        """Move the log into the database: on a second connection, so that no commit waits for it."""
        with contextlib.closing(sqlite3.connect(self.folder / _DATABASE, isolation_level=None, timeout=5.0)) as second:
            while True:
                self._checkpoint_due.wait()
                self._checkpoint_due.clear()
                if self._stopping:
                    return
                with contextlib.suppress(sqlite3.Error):  # the writer notices a disk that fails
                    second.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _typed(error: Exception, folder: Path) -> JournalError:
    """Return the error of a journal that an error of SQLite or of the system means."""
    code = getattr(error, "sqlite_errorcode", None)
    number = getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number == 28:
        return JournalFull(f"the disk of the journal in {folder} is full ({error}): make room on it")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(f"the journal in {folder} is locked by another program ({error}): end that")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return JournalDamaged(
            f"the journal in {folder} cannot be read ({error}): move the folder away, and start the master without it"
        )
    return JournalError(f"the journal in {folder} cannot be written ({error})")


def _checked(facts: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """Return facts as rows, each with a checksum."""
    return [(name, value, crc32(f"{name}={value}".encode())) for name, value in facts.items()]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Have new names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
