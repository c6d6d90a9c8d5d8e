"""Whose output it is: exactly, however the pipe is read."""

import os
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from concurrent_nb.workers.protocol.output_markers import marker
from concurrent_nb.workers.protocol.status_page import StatusPage, make_page_file
from concurrent_nb.workers.slave_side.output_capture import OutputCapture, OutputSplitter

NONCE = b"0123456789abcdef"


def collect(pieces: list[tuple[int, bytes]]) -> dict[int, bytes]:
    text: dict[int, bytes] = {}
    for ticket, data in pieces:
        text[ticket] = text.get(ticket, b"") + data
    return text


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.just(NONCE[:9]), st.just(NONCE[:3] + NONCE[:15])), max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.booleans(),
)
def test_bytes_before_a_marker_belong_to_its_task(texts: list[bytes], cuts: list[int], live: bool) -> None:
    # given: what tasks 1, 2, ... have written, each with its marker
    tape = OutputSplitter(NONCE)
    data = b"".join(text + marker(NONCE, ticket) for ticket, text in enumerate(texts, 1))
    ends = [sum(len(text) + 24 for text in texts[: n + 1]) for n in range(len(texts))]
    # when: it is read in pieces, with or without knowing who runs
    pieces, at, turn = [], 0, 0
    while at < len(data):
        count = min(cuts[turn % len(cuts)], len(data) - at)
        running = 1 + sum(end <= at + count for end in ends)
        pieces += tape.feed(data[at : at + count], running if live and running <= len(texts) else None)
        at, turn = at + count, turn + 1
    # then: every byte comes to its task, and nothing is left
    assert collect(pieces) == {ticket: text for ticket, text in enumerate(texts, 1) if text}
    assert tape.rest() == b""
    assert tape.marked == set(range(1, len(texts) + 1))


def test_bytes_are_handed_on_at_once_when_it_is_known_who_runs() -> None:
    tape = OutputSplitter(NONCE)
    assert tape.feed(b"hello", running=5) == [(5, b"hello")]
    assert tape.feed(b"", running=5) == []


def test_bytes_are_kept_until_it_is_known_whose_they_are() -> None:
    tape = OutputSplitter(NONCE)
    assert tape.feed(b"hello", running=None) == []
    assert tape.feed(b" world", running=None) == []
    assert tape.feed(marker(NONCE, 3) + b"next", running=4) == [(3, b"hello world"), (4, b"next")]


def test_what_may_be_the_beginning_of_a_marker_is_kept() -> None:
    tape = OutputSplitter(NONCE)
    assert tape.feed(b"x" + NONCE[:5], running=1) == [(1, b"x")]
    assert tape.feed(b"y", running=1) == [(1, NONCE[:5] + b"y")]


def test_what_is_kept_does_not_grow_without_end() -> None:
    tape = OutputSplitter(NONCE, kept_bytes=1000)
    for _ in range(100):
        assert tape.feed(b"z" * 500, running=None) == []
    ((ticket, data),) = tape.feed(marker(NONCE, 9), running=None)
    assert ticket == 9
    assert 1000 < len(data) < 2000


# ------------------------------------------------------------------------------------------------- with real pipes


class Pipes:
    """A worker's end and a slave's end in one process."""

    def __init__(self, limit_bytes: int) -> None:
        fd = make_page_file()
        self.worker, self.slave = StatusPage(fd), StatusPage(fd)
        os.close(fd)
        self.out, self.out_writing = os.pipe()
        self.err, self.err_writing = os.pipe()
        for end in (self.out, self.err):
            os.set_blocking(end, False)
        self.capture = OutputCapture(self.slave, (self.out, self.err), limit_bytes)

    def write(self, text: bytes, stream: int = 1) -> None:
        os.write(self.out_writing if stream == 1 else self.err_writing, text)

    def mark(self, ticket: int, stream: int = 1) -> None:
        self.write(marker(self.worker.nonce, ticket), stream)

    def close(self) -> None:
        for fd in (self.out, self.out_writing, self.err, self.err_writing):
            os.close(fd)
        self.worker.close()
        self.slave.close()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    both = Pipes(limit_bytes=100)
    yield both
    both.close()


def test_what_a_running_task_writes_is_live(pipes: Pipes) -> None:
    pipes.worker.begin(7, 1.0)
    pipes.write(b"half a line")
    assert pipes.capture.read(1) == [(7, 1, b"half a line")]
    assert pipes.capture.read(1) is None


def test_what_is_written_while_nothing_runs_belongs_to_nobody(pipes: Pipes) -> None:
    pipes.write(b"from a thread", 2)
    assert pipes.capture.read(2) == [(0, 2, b"from a thread")]


def test_the_worker_sees_that_the_slave_has_read(pipes: Pipes) -> None:
    before = pipes.worker.reads()
    pipes.capture.read(1)
    out, err = pipes.worker.reads()
    assert (out, err) == (before[0] + 2, before[1])


def test_an_outcome_waits_for_the_end_of_the_output(pipes: Pipes) -> None:
    pipes.worker.begin(8, 1.0)
    pipes.write(b"one")
    pipes.mark(7)
    pipes.write(b"two")
    pipes.mark(7, 2)
    assert pipes.capture.read_until_marked(7, 3) == [(7, 1, b"one"), (8, 1, b"two")]
    assert pipes.capture.read_until_marked(7, 3) == []


def test_output_over_the_limit_is_cut_with_one_notice(pipes: Pipes) -> None:
    pipes.worker.begin(3, 1.0)
    for stream in (1, 2, 1):
        pipes.write(b"x" * 60, stream)
    pieces = [piece for stream in (1, 2, 1) for piece in pipes.capture.read(stream) or ()]
    text = b"".join(data for _, _, data in pieces)
    assert text.count(b"x") == 100
    assert text.count(b"[output cut at 100 bytes]") == 1
    # the next task has a limit of its own
    pipes.mark(3)
    pipes.mark(3, 2)
    pipes.capture.read_until_marked(3, 3)
    pipes.worker.begin(4, 1.0)
    pipes.write(b"y" * 60)
    assert pipes.capture.read(1) == [(4, 1, b"y" * 60)]


def test_the_last_words_of_a_dead_worker_are_its_tasks(pipes: Pipes) -> None:
    pipes.worker.begin(5, 1.0)
    pipes.write(b"done")
    pipes.mark(4)
    pipes.write(b"Segmentation")
    pipes.write(b"fault" + pipes.worker.nonce[:4], 2)
    assert pipes.capture.finish(5) == [
        (4, 1, b"done"),
        (5, 1, b"Segmentation"),
        (5, 2, b"fault"),
        (5, 2, pipes.worker.nonce[:4]),
    ]
