import os
import threading
from queue import SimpleQueue

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common import owner_wishes as w
from concurrent_nb.nodes.common.wish_reader import WishReader

PATIENCE_S = 30.0


@pytest.mark.parametrize("wish", [w.Scale(1, 4), w.RestartSlave(2, "a\nb\x1b<script>", "höst", 17)])
def test_a_wish_is_one_line(wish: w.Wish) -> None:
    line = w.line_of(wish)
    assert line.count(b"\n") == 1
    assert w.read_wish(line) == wish


def test_an_answer_is_one_line() -> None:
    answer = w.WishAnswer(3, 2, "no\nroom")
    assert w.line_of(answer).count(b"\n") == 1
    assert w.read_answer(w.line_of(answer)) == answer


@pytest.mark.parametrize("line", [b"", b"hello", b"{}", b'{"type":"stop"}', b'{"type":"scale","number":1}', b"\xff"])
def test_what_is_no_wish_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        w.read_wish(line)
    with pytest.raises(ProtocolError):
        w.read_answer(line)


def test_a_line_that_is_too_long_is_left_out_and_not_held() -> None:
    buffer = w.LineBuffer()
    assert buffer.feed(b"one\n" + b"x" * w.LINE_BYTES_MAX) == [b"one"]
    for _ in range(100):
        assert buffer.feed(b"x" * w.LINE_BYTES_MAX) == []
        assert len(buffer._left) <= w.LINE_BYTES_MAX
    assert buffer.feed(b"x\ntwo\nth") == [b"two"]
    assert buffer.feed(b"ree\n") == [b"three"]


def test_an_owner_reads_the_path_and_then_wishes() -> None:
    ours, masters = os.pipe()
    reader = WishReader(ours)
    fulfilled: SimpleQueue[w.Wish] = SimpleQueue()
    os.write(masters, b"/a/path\n" + w.line_of(w.Scale(1, 3)) + b"no wish\n")
    assert reader.first_line(PATIENCE_S) == "/a/path"
    reader.serve(fulfilled.put, "owner")
    assert fulfilled.get(timeout=PATIENCE_S) == w.Scale(1, 3)
    os.write(masters, w.line_of(w.RestartSlave(2, "east", "here", 4)))
    assert fulfilled.get(timeout=PATIENCE_S) == w.RestartSlave(2, "east", "here", 4)
    reader.close()  # although the master has the pipe open
    os.close(masters)
    assert "owner" not in [thread.name for thread in threading.enumerate()]


def test_an_owner_notices_that_the_master_has_ended_before_its_first_line() -> None:
    ours, masters = os.pipe()
    reader = WishReader(ours)
    assert (reader.first_line(0.0), reader.has_ended) == ("", False)
    os.close(masters)
    assert (reader.first_line(PATIENCE_S), reader.has_ended) == ("", True)
    reader.close()
