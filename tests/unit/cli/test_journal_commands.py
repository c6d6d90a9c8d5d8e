"""`concurrent-nb journal`: what a journal has, whether it is whole, and how it gets smaller."""

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from concurrent_nb.cli.main import main
from concurrent_nb.journal.journal_records import FunctionKept, JobKept, OutcomesKept, TasksAcknowledged, TasksKept
from concurrent_nb.journal.sqlite_journal import SqliteJournalStore
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame
from tests.work import PATIENCE_S

JOB, DIGEST = b"j" * 16, b"d" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a journal of a job with two tasks, of which one has ended; a third is forgotten."""
    folder = tmp_path / "lab"
    store = SqliteJournalStore(folder)
    written, done = threading.Event(), threading.Event()

    def note() -> None:
        if store.committed >= 5:
            (written if store.committed == 5 else done).set()

    store.start(note)
    store.append(FunctionKept(DIGEST, b"pickle", (), "fit"))
    store.append(JobKept(JOB, "key", "fits"))
    store.append(TasksKept(JOB, DIGEST, [TaskFrame(0, 0, b"four"), TaskFrame(1, 0, b"", (5,))]), [b"large"])
    store.append(TasksKept(JOB, DIGEST, [TaskFrame(2, 0, bytes(40_000))]))
    store.append(OutcomesKept(JOB, "east", [OutcomeFrame(0, 1, 0, 0.0, 1, b"value")]))
    assert written.wait(PATIENCE_S)
    store.append(TasksAcknowledged(JOB, [2]))
    assert done.wait(PATIENCE_S)
    store.close(empty=False)
    return folder


def test_check_and_dump_say_what_it_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (["lab", f"--SqliteJournal.folder={folder.parent}"], [str(folder)]):
        assert main(["journal", "check", *name]) == 0
        assert "is whole: 4 records of 1 open jobs with 2 tasks, of which 1 have ended" in capsys.readouterr().out
    assert main(["journal", "dump", str(folder)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"] for line in lines] == ["FunctionKept", "JobKept", "TasksKept", "OutcomesKept"]
    assert lines[0] == {
        "number": 1,
        "record": "FunctionKept",
        "digest": "64" * 32,
        "bytes": 6,
        "sizes": [],
        "name": "fit",
    }
    assert (lines[1]["job"], lines[1]["owner"], lines[1]["name"]) == ("6a" * 16, "key", "fits")
    assert (lines[2]["indexes"], lines[2]["bytes"], lines[2]["buffers"]) == ([0, 1], 4, [5])


def test_compact_gives_room_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert main(["journal", "compact", str(folder)]) == 0
    assert "bytes, and has" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < before
    assert main(["journal", "check", str(folder)]) == 0


def test_check_reports_damage_and_leaves_it_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = sqlite3.connect(folder / "journal.sqlite")
    database.execute("UPDATE record SET body = substr(body, 1, length(body) - 1) WHERE number = 3")
    database.commit()
    database.close()
    for _ in range(2):
        assert main(["journal", "check", str(folder)]) == 1
        assert "record 3 of the journal is torn or was changed" in capsys.readouterr().err
    assert not list(folder.glob("damaged-*"))


def test_a_journal_that_is_not_there_or_in_use_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "check", f"{folder}/nothing"]) == 1
    assert "there is no journal in" in capsys.readouterr().err
    store = SqliteJournalStore(folder)
    assert main(["journal", "compact", str(folder)]) == 1
    assert "is in use by process" in capsys.readouterr().err
    store.close(empty=False)
