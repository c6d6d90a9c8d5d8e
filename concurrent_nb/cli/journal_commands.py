"""`concurrent-nb journal check | dump | compact`: the journal of a master that does not run."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from concurrent_nb.cli.cluster_commands import AddCommand, Items
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.journal.journal_codec import BufferFile, JournalRow
from concurrent_nb.journal.journal_records import OutcomesKept, TasksKept
from concurrent_nb.nodes.common.sections import check_sections

if TYPE_CHECKING:
    from concurrent_nb.journal.sqlite_journal import SqliteJournalStore


def add_journal_command(command: AddCommand) -> None:
    """Add the command to the command line."""
    journal = command(
        "journal",
        _journal,
        "Check, show or compact the journal of a master that does not run. `check` changes nothing in it, and fails if"
        " a record is torn or was changed; a master that is started drops such a record and all that follow, and keeps"
        " a copy.",
    )
    journal.add_argument("action", choices=("check", "dump", "compact"), help="dump prints a line of JSON per record")
    journal.add_argument(
        "name",
        nargs="?",
        default="default",
        help="name of the cluster, or the folder of the journal (default: %(default)s)",
    )


def _journal(options: argparse.Namespace, items: Items) -> int:
    folder = _folder_of(options.name, items)
    with _opened(folder) as store:
        if options.action == "dump":
            for row in store.rows():
                print(json.dumps(describe_row(row)))
            return 0
        if options.action == "compact":
            before = _size_of(folder)
            store.compact()
            print(f"{folder} had {before:,} bytes, and has {_size_of(folder):,}")
            return 0
        kinds = Counter(type(row.record).__name__ for row in store.rows())
        replayed = store.take_replayed()
        tasks = sum(len(run.tasks) for job in replayed.jobs.values() for run, _ in job.runs)
        ended = sum(len(run.items) for job in replayed.jobs.values() for run, _ in job.outcomes)
        print(
            f"the journal in {folder} is whole: {sum(kinds.values())} records of {len(replayed.jobs)} open jobs with"
            f" {tasks} tasks, of which {ended} have ended; {_size_of(folder):,} bytes"
        )
        for kind, count in sorted(kinds.items()):
            print(f"  {count:6} {kind}")
    return 0


def _folder_of(name: str, items: Items) -> Path:
    """Return the folder of a journal that exists. Raises ConfigurationError."""
    from concurrent_nb.components.core import ComponentManager  # here, with the next two: other commands need none
    from concurrent_nb.nodes.master.journal_components import SqliteJournal  # here, as above
    from concurrent_nb.settings import files as settings  # here, as above

    check_sections(items)
    if "/" in name:
        folder = Path(name)
    else:
        manager = ComponentManager(settings.load(items))
        manager.load([SqliteJournal])
        folder = manager.get(SqliteJournal).folder_of(name)
    if not (folder / "journal.sqlite").exists():
        raise ConfigurationError(
            f"there is no journal in {folder}: give the name of its cluster, or its folder (SqliteJournal.folder)"
        )
    return folder


@contextmanager
def _opened(folder: Path) -> "Iterator[SqliteJournalStore]":
    from concurrent_nb.journal.sqlite_journal import SqliteJournalStore  # here: other commands need no database

    store = SqliteJournalStore(folder, repairs=False)
    try:
        yield store
    finally:
        store.close(empty=False)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe_row(row: JournalRow) -> dict[str, Any]:
    """Return a record as text for people: ids in hexadecimal, and the sizes of payloads in bytes."""
    record = row.record
    described: dict[str, Any] = {"number": row.number, "record": type(record).__name__}
    for field in record.__struct_fields__:
        value = getattr(record, field)
        if field in ("tasks", "items") and isinstance(record, TasksKept | OutcomesKept):
            described["indexes"] = [each.index for each in value]
            described["bytes"] = sum(len(each.body) for each in value)
        elif field == "body":
            described["bytes"] = len(value)
        elif field in ("job", "digest", "function"):
            described[field] = value.hex()
        elif field == "inputs":
            described[field] = [[index, [[job.hex(), of] for job, of in needed]] for index, needed in value]
        elif isinstance(value, bytes):
            described[field] = value.decode(errors="replace")
        else:
            described[field] = msgspec.to_builtins(value)
    if row.buffers:
        sizes = [each.size if isinstance(each, BufferFile) else memoryview(each).nbytes for each in row.buffers]
        described["buffers"] = sizes
    return described
