"""The journal on disk: what is committed is there again, whatever is cut off or changed; the rest is refused."""

import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from concurrent_nb.errors import JournalDamaged, JournalError, JournalFull, JournalInUse, VersionMismatch
from concurrent_nb.journal import journal_folder, sqlite_journal
from concurrent_nb.journal.journal_records import (
    FunctionKept,
    JobForgotten,
    JobKept,
    OutcomesKept,
    Record,
    SlaveKept,
    TasksAcknowledged,
    TasksKept,
)
from concurrent_nb.journal.replayed import Replayed
from concurrent_nb.journal.sqlite_journal import FILE_BYTES, SqliteJournalStore
from concurrent_nb.wire.codec import Buffer
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame
from tests.work import PATIENCE_S

JOB, DIGEST = b"j" * 16, b"d" * 32


class Commits:
    """Waits for the commits of a journal."""

    def __init__(self, store: SqliteJournalStore) -> None:
        self.store = store
        self._changed = threading.Condition()
        store.start(self._note)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, holds: Callable[[], bool] = lambda: False) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: holds() or self.store.committed == self.store.appended, timeout=PATIENCE_S
            )


def task_of(index: int) -> tuple[Record, Sequence[Buffer]]:
    return TasksKept(JOB, DIGEST, [TaskFrame(index, 0, b"%d" % index, (3,))]), [b"abc"]


def write(folder: Path, count: int = 3) -> None:
    """Make a journal with so many tasks, of which every other one has ended."""
    store = SqliteJournalStore(folder)
    store.store_facts({"epoch": "1", "secret": "s"})
    commits = Commits(store)
    store.append(FunctionKept(DIGEST, b"pickle", (), "f"))
    store.append(JobKept(JOB, "key"))
    for index in range(count):
        store.append(*task_of(index))
        if index % 2:
            store.append(OutcomesKept(JOB, "east", [OutcomeFrame(index, 1, 0, 0.0, 1, b"%d" % index)]))
    commits.wait()
    assert store.stalled == ""
    store.close(empty=False)


def reopened(folder: Path) -> tuple[Replayed, int]:
    store = SqliteJournalStore(folder)
    try:
        assert store.facts() == {"epoch": "1", "secret": "s"}
        return store.take_replayed(), store.cut
    finally:
        store.close(empty=False)


def state_of(replayed: Replayed) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Give the arguments and results of tasks, by index."""
    if JOB not in replayed.jobs:
        return {}, {}
    job = replayed.jobs[JOB]
    assert all(own == (b"abc",) for _, buffers in job.runs for own in buffers)
    return (
        {task.index: task.body for run, _ in job.runs for task in run.tasks},
        {item.index: item.body for run, _ in job.outcomes for item in run.items},
    )


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    write(folder)
    replayed, cut = reopened(folder)
    assert (cut, replayed.functions[DIGEST][0].name) == (0, "f")
    assert state_of(replayed) == ({0: b"0", 1: b"1", 2: b"2"}, {1: b"1"})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir() if path.is_file()} == {0}

    store = SqliteJournalStore(folder)
    commits = Commits(store)
    store.append(TasksAcknowledged(JOB, [1]))
    store.append(SlaveKept(b"k", "east"))
    commits.wait()
    store.close(empty=False)
    replayed, _ = reopened(folder)
    assert state_of(replayed) == ({0: b"0", 2: b"2"}, {})
    assert replayed.slaves == {b"k": "east"}

    SqliteJournalStore(folder).close(empty=True)
    store = SqliteJournalStore(folder)
    assert (store.facts(), list(store.rows()), store.take_replayed().jobs) == ({}, [], {})
    store.close(empty=False)


def test_large_buffers_are_files_which_go_with_their_last_task(tmp_path: Path) -> None:
    store = SqliteJournalStore(tmp_path)
    store.store_facts({"epoch": "1", "secret": "s"})
    large = bytes(range(256)) * (FILE_BYTES // 256 + 1)
    commits = Commits(store)
    store.append(JobKept(JOB, "key"))
    for index in range(2):
        task = TaskFrame(index, 0, b"", (len(large), 2))
        store.append(TasksKept(JOB, DIGEST, [task]), [memoryview(large), b"xy"])
    commits.wait()
    files = list((tmp_path / "buffers").iterdir())
    assert len(files) == 1  # the same content
    store.append(TasksAcknowledged(JOB, [0]))
    commits.wait()
    store.close(empty=False)
    (run,) = reopened(tmp_path)[0].jobs[JOB].runs
    assert run[1] == [(large, b"xy")]

    # A file that was changed is noticed, and one that belongs to nothing is deleted.
    files[0].write_bytes(b"!" + large[1:])
    (tmp_path / "buffers" / ("0" * 64)).write_bytes(b"left over")
    replayed, cut = reopened(tmp_path)
    assert (replayed.jobs[JOB].runs, cut) == ([], 1)
    assert list((tmp_path / "buffers").iterdir()) == []


def test_one_master_has_it(tmp_path: Path) -> None:
    store = SqliteJournalStore(tmp_path)
    with pytest.raises(JournalInUse, match=f"in use by process {os.getpid()}"):
        SqliteJournalStore(tmp_path)
    store.close(empty=False)
    SqliteJournalStore(tmp_path).close(empty=False)
    code = (
        "import sys, pathlib; from concurrent_nb.journal.sqlite_journal import SqliteJournalStore\n"
        "store = SqliteJournalStore(pathlib.Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalInUse, match=f"in use by process {other.pid}"):
            SqliteJournalStore(tmp_path)
        other.kill()
    SqliteJournalStore(tmp_path).close(empty=False)


def test_another_version_and_another_database_are_refused(tmp_path: Path) -> None:
    for name, pragma, error in (
        ("newer", "user_version=99", VersionMismatch),
        ("other", "application_id=5", JournalDamaged),
    ):
        write(tmp_path / name)
        database = sqlite3.connect(tmp_path / name / "journal.sqlite")
        database.execute(f"PRAGMA {pragma}")
        database.close()
        with pytest.raises(error, match=r"version 99|is no journal"):
            SqliteJournalStore(tmp_path / name)
    (tmp_path / "newer" / "journal.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalDamaged, match="cannot be read"):
        SqliteJournalStore(tmp_path / "newer")


def test_every_prefix_is_recovered_and_every_torn_row_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write(tmp_path / "whole", 6)
    database = sqlite3.connect(tmp_path / "whole" / "journal.sqlite")
    rows = database.execute("SELECT number, body FROM record ORDER BY number").fetchall()
    database.close()
    assert len(rows) == 11
    for count in range(len(rows) + 1):
        states = []
        for damage in ("gone", "torn", "changed"):
            folder = tmp_path / f"{count}-{damage}"
            shutil.copytree(tmp_path / "whole", folder)
            database = sqlite3.connect(folder / "journal.sqlite")
            if damage == "gone" or count == len(rows):
                database.execute("DELETE FROM record WHERE number > ?", (count,))
            else:
                number, body = rows[count]
                changed = body[:-1] if damage == "torn" else body[:-2] + bytes([body[-2] ^ 4]) + body[-1:]
                database.execute("UPDATE record SET body = ? WHERE number = ?", (changed, number))
            database.commit()
            database.close()
            caplog.clear()
            replayed, cut = reopened(folder)
            states.append(state_of(replayed))
            is_damaged = damage != "gone" and count < len(rows)
            assert cut == (len(rows) - count if is_damaged else 0)
            assert ("IS DAMAGED" in caplog.text) == is_damaged
            assert bool(list(folder.glob("damaged-*/journal.sqlite"))) == is_damaged
            assert reopened(folder)[1] == 0  # it is whole again
            shutil.rmtree(folder)
        assert states[0] == states[1] == states[2]
        arguments, results = states[0]
        assert all(body == b"%d" % index for index, body in (*arguments.items(), *results.items()))
        assert len(arguments) + len(results) == max(0, count - 2)


def test_bit_flips_in_the_file_are_recovered_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    write(tmp_path / "whole", 40)
    path = tmp_path / "whole" / "journal.sqlite"
    whole = path.read_bytes()
    assert not path.with_name("journal.sqlite-wal").exists()
    rng = random.Random(1)
    refused = damaged = 0
    for round_ in range(40):
        folder = tmp_path / str(round_)
        shutil.copytree(tmp_path / "whole", folder)
        changed = bytearray(whole)
        bit = rng.randrange(8 * len(whole))
        changed[bit // 8] ^= 1 << bit % 8
        (folder / path.name).write_bytes(changed if round_ % 2 else whole[: rng.randrange(len(whole))])
        try:
            store = SqliteJournalStore(folder)
        except (JournalError, VersionMismatch):
            refused += 1
            continue
        replayed = store.take_replayed()
        damaged += store.cut > 0
        try:
            assert store.facts() == {"epoch": "1", "secret": "s"}
        except JournalDamaged:
            refused += 1
        store.close(empty=False)
        arguments, results = state_of(replayed)
        assert all(body == b"%d" % index for index, body in (*arguments.items(), *results.items()))
        shutil.rmtree(folder)
    assert refused and damaged


def test_a_full_disk_stops_it_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_journal, "RETRY_S", 0.01)
    store = SqliteJournalStore(tmp_path)
    store.store_facts({"epoch": "1", "secret": "s"})
    store._database.execute("PRAGMA max_page_count=12")
    commits = Commits(store)
    store.append(JobKept(JOB, "key"))
    for index in range(40):
        store.append(TasksKept(JOB, DIGEST, [TaskFrame(index, 0, bytes(2000))]))
    while not store.stalled:
        threading.Event().wait(0.001)
    assert store.committed < store.appended
    assert "is full" in str(store.stalled)
    assert isinstance(sqlite_journal._typed(OSError(28, "No space left on device"), tmp_path), JournalFull)
    store._database.execute("PRAGMA max_page_count=100000")
    commits.wait()
    assert "The disk" in caplog.text.replace("the disk", "The disk") and "can be written again" in caplog.text
    store.close(empty=False)
    assert len(reopened(tmp_path)[0].jobs[JOB].runs) == 40


def test_folders_without_a_write_ahead_log_get_a_rollback_journal(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"23 22 0:50 / {tmp_path}/home rw,nosuid shared:1 - nfs4 server:/home rw\n"
        f"24 23 0:51 / {tmp_path}/home/fast rw - tmpfs tmpfs rw\n"
    )
    for place in ("home", "home/fast", "local"):
        (tmp_path / place).mkdir()
    assert journal_folder.file_system_of(tmp_path / "home", mounts) == "nfs4"
    assert journal_folder.file_system_of(tmp_path / "home" / "fast", mounts) == "tmpfs"
    assert journal_folder.why_no_log(tmp_path / "home", mounts) == f"{tmp_path}/home is on nfs4"
    assert journal_folder.why_no_log(tmp_path / "local", mounts) == ""
    assert list((tmp_path / "local").iterdir()) == []
    assert journal_folder.file_system_of(tmp_path, tmp_path / "nothing") == ""


def test_with_a_rollback_journal_it_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_folder, "why_no_log", lambda folder: f"{folder} is on nfs4")
    write(tmp_path)
    replayed, _ = reopened(tmp_path)
    assert state_of(replayed)[0].keys() == {0, 1, 2}
    store = SqliteJournalStore(tmp_path)
    assert store.describe()["mode"] == "rollback journal"
    commits = Commits(store)
    store.append(JobForgotten(JOB))
    commits.wait()
    store.close(empty=False)
    assert reopened(tmp_path)[0].jobs == {}
