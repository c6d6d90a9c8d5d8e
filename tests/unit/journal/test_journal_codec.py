"""A row is read as it was written, or it is refused: torn at any byte, or with any bit changed."""

from zlib import crc32

import msgspec
import pytest

from concurrent_nb.errors import JournalDamaged, VersionMismatch
from concurrent_nb.journal import journal_codec
from concurrent_nb.journal import journal_records as r
from concurrent_nb.journal.journal_codec import BufferFile, decode_row, encode_row
from concurrent_nb.wire.codec import Buffer
from concurrent_nb.wire.messages import Needs, OutcomeFrame, TaskFrame

JOB, DIGEST = b"j" * 16, b"d" * 32
TASKS = r.TasksKept(
    JOB, DIGEST, [TaskFrame(0, 0, b"args"), TaskFrame(1, 0, b"", (3, 4), 1)], 2.5, 1, Needs(2), True, [(1, [(JOB, 0)])]
)
RECORDS: list[tuple[r.Record, list[Buffer | BufferFile]]] = [
    (r.FunctionKept(DIGEST, b"", (5,), "square"), [b"pickl"]),
    (r.JobKept(JOB, "key", "cell 3", True, False, "stealing", "fit.ipynb", "5f9a", False), []),
    (TASKS, [b"abc", BufferFile(b"f" * 32, 4)]),
    (r.OutcomesKept(JOB, "east-1", [OutcomeFrame(0, 2, 0, 0.5, 4711, b"value", (), False, 7, 8, 9)]), []),
    (r.TasksAcknowledged(JOB, [0, 1]), []),
    (r.ResultsReleased(JOB, [1]), []),
    (r.TasksCancelled(JOB, None), []),
    (r.JobEnded(JOB), []),
    (r.JobForgotten(JOB), []),
    (r.SlaveKept(b"key", "east-1"), []),
    (r.SlaveGone(b"key"), []),
]


@pytest.mark.parametrize(("record", "buffers"), RECORDS, ids=lambda it: type(it).__name__)
def test_every_record_is_read_as_it_was_written(record: r.Record, buffers: list[Buffer | BufferFile]) -> None:
    row = decode_row(12, encode_row(12, record, buffers))
    assert (row.number, row.record, list(row.buffers)) == (12, record, buffers)


def test_buffers_go_back_to_their_tasks() -> None:
    assert r.buffers_of_items(TASKS.tasks, [b"abc", b"defg"]) == [(), (b"abc", b"defg")]
    with pytest.raises(ValueError, match="TasksKept has 2 buffers, not 1"):
        encode_row(1, TASKS, [b"abc"])


def test_torn_and_changed_rows_are_refused() -> None:
    data = encode_row(7, TASKS, [b"abc", b"defg"])
    for end in range(len(data)):
        with pytest.raises(JournalDamaged):
            decode_row(7, data[:end])
    with pytest.raises(JournalDamaged):
        decode_row(7, data + b"x")
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JournalDamaged):
            decode_row(7, bytes(changed))
    with pytest.raises(JournalDamaged, match="record 8 of the journal is record 7"):
        decode_row(8, data)


def test_an_intact_row_of_another_version_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_codec, "JOURNAL_VERSION", 2)
    data = encode_row(7, r.JobEnded(JOB))
    monkeypatch.undo()
    with pytest.raises(VersionMismatch, match="version 2, and this package reads version 1"):
        decode_row(7, data)


def test_what_is_no_record_is_refused_in_spite_of_its_checksum() -> None:
    header = msgspec.msgpack.encode([7, [99, JOB], []])
    row = encode_row(7, r.JobEnded(JOB))
    rest = len(header).to_bytes(4, "little") + header
    checksum = crc32(rest, crc32(row[2:3]))
    with pytest.raises(JournalDamaged, match="cannot be read"):
        decode_row(7, row[:3] + checksum.to_bytes(4, "little") + rest)
