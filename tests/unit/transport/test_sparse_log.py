"""What a peer can cause as often as he likes is logged seldom."""

import logging

import pytest

from concurrent_nb.transport.sparse_log import KINDS_MAX, SparseLog

log = logging.getLogger(__name__)


def test_one_line_of_a_kind_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    sparse = SparseLog(log, every_s=3600.0)
    for number in range(100):
        sparse.warning("a", "number %d", number)
        sparse.warning("b", "other %d", number)
    assert caplog.messages == ["number 0", "other 0"]


def test_the_next_line_tells_how_many_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    sparse = SparseLog(log, every_s=3600.0)
    for _ in range(6):
        sparse.warning("a", "again")
    sparse._kinds["a"] = (0.0, sparse._kinds["a"][1])  # the while is over
    sparse.warning("a", "again")
    assert caplog.messages == ["again", "again (and 5 like this since the last one)"]


def test_kinds_that_a_peer_makes_up_take_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    sparse = SparseLog(log, every_s=3600.0)
    for number in range(10 * KINDS_MAX):
        sparse.warning(str(number), "x")
    assert len(sparse._kinds) == KINDS_MAX + 1
    assert len(caplog.messages) == KINDS_MAX + 1
