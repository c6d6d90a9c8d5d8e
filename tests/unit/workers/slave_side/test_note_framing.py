"""Notes are checked by their framing alone."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.shipping.runtime import notes
from concurrent_nb.workers.slave_side.note_framing import NOTE_BYTES_MAX, NoteFraming


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
    framing, data, at, turn = NoteFraming(), stream() * 2, 0, 0
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
        framing = NoteFraming()
        assert framing.admits(before + nonsense)
        assert framing.is_broken
        assert not framing.admits(stream())


def test_both_ends_have_the_same_limit_for_a_note() -> None:
    assert NOTE_BYTES_MAX == notes.LIMIT_BYTES
