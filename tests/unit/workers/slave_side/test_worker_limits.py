"""What one worker may make its slave do."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.shipping.runtime import notes
from concurrent_nb.workers.protocol.fork_records import ENDED, RECORD, STARTED
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher
from concurrent_nb.workers.slave_side.worker_limits import NOTE_BYTES_MAX, Framing, LogLimit


def test_lines_over_a_limit_are_counted_and_told_later() -> None:
    limit = LogLimit(3, within_s=10.0)
    assert [limit.admits(0.1 * n) for n in range(6)] == [True] * 3 + [False] * 3
    assert limit.admits(10.1)
    assert limit.take_left_out() == 3
    assert limit.take_left_out() == 0


def stream() -> bytes:
    """Give the bytes of real notes."""
    sent: list[bytes] = []
    sink = notes.NoteSink(lambda: 0.0)
    sink.open(sent.append)
    sink.put_report(notes.ProgressReport(0.5, "half"))
    sink.put(notes.Display({"text/plain": "x" * 300}))
    sink.put_progress(notes.SetupRan(b"s", "w", True, "", b"body", [b"buffer"], 0.5))
    sink.put_progress(notes.ItemEnded(1, 2, b"z" * 70_000))
    sink.close()
    return b"".join(sent)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5))
def test_notes_are_notes_however_they_are_cut(cuts: list[int]) -> None:
    framing, data, at, turn = Framing(), stream() * 2, 0, 0
    while at < len(data):
        piece = data[at : at + cuts[turn % len(cuts)]]
        assert framing.admits(piece)
        at, turn = at + len(piece), turn + 1
    assert not framing.is_broken


@pytest.mark.parametrize(
    "nonsense",
    [
        bytes(5),
        struct.pack("<I", NOTE_BYTES_MAX + 1) + b"\x81",
        struct.pack("<I", 5) + b"\xc1",
        b"\xff" * 5,
        b"text that is no note",
    ],
)
def test_what_is_no_note_is_passed_on_once(nonsense: bytes) -> None:
    for before in (b"", stream()):
        framing = Framing()
        assert framing.admits(before + nonsense)
        assert framing.is_broken
        assert not framing.admits(stream())


def test_both_ends_have_the_same_limit_for_a_note() -> None:
    assert NOTE_BYTES_MAX == notes.LIMIT_BYTES


@pytest.mark.parametrize(
    "record",
    [
        RECORD.pack(0, 1, 100, 0, 0),
        RECORD.pack(255, 1, 100, 0, 0),
        RECORD.pack(STARTED, 2, 100, 0, 0),
        RECORD.pack(STARTED, 1, -1, 0, 0),
        RECORD.pack(ENDED, 2, 100, 0, 0),
        RECORD.pack(ENDED, 1, 100, 0x7F, 0),
        RECORD.pack(ENDED, 1, 100, -1, 0),
    ],
    ids=["kind 0", "kind 255", "another's start", "no process", "another's end", "stopped", "no status"],
)
def test_what_a_template_cannot_say_is_no_event(record: bytes) -> None:
    launcher = ForkServerLauncher({}, ["true"])
    try:
        launcher._workers[1] = 0
        assert launcher._event(record) is None
        chance = random.Random(1)
        for _ in range(1000):
            launcher._event(chance.randbytes(RECORD.size))
        assert launcher._event(RECORD.pack(STARTED, 1, 100, 0, 0)) is not None
        assert launcher._event(RECORD.pack(ENDED, 1, 100, 0, 0)) is not None
    finally:
        launcher.close(0.1)
