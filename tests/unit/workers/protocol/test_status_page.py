"""The status page, seen from both ends."""

import os
from collections.abc import Iterator

import pytest

from concurrent_nb.workers.protocol.status_page import UNSENT_BYTES_MAX, StatusPage, make_page_file


@pytest.fixture
def ends() -> Iterator[tuple[StatusPage, StatusPage]]:
    fd = make_page_file()
    worker, slave = StatusPage(fd), StatusPage(fd)
    os.close(fd)
    yield worker, slave
    worker.close()
    slave.close()


def test_a_fresh_page_shows_nothing(ends: tuple[StatusPage, StatusPage]) -> None:
    _, slave = ends
    assert slave.running_task() == (0, 0.0)
    assert slave.unsent() == (0, b"")
    assert (slave.to_stop, slave.result_in_transit, slave.reads()) == (0, 0, (0, 0))


def test_the_slave_sees_what_runs_since_when(ends: tuple[StatusPage, StatusPage]) -> None:
    worker, slave = ends
    worker.begin(12, 3.25)
    assert slave.running_task() == (12, 3.25)
    worker.sending(12)
    worker.end()
    assert slave.running_task() == (0, 0.0)
    assert slave.result_in_transit == 12


def test_the_worker_sees_what_is_to_stop(ends: tuple[StatusPage, StatusPage]) -> None:
    worker, slave = ends
    slave.stop(12)
    assert worker.to_stop == 12


def test_results_that_are_not_sent_can_be_read(ends: tuple[StatusPage, StatusPage]) -> None:
    worker, slave = ends
    end = worker.keep_unsent(1, 0, b"one")
    end = worker.keep_unsent(2, end, b"three")
    assert slave.unsent() == (2, b"onethree")
    worker.keep_unsent(3, end, b"x" * (UNSENT_BYTES_MAX - end))
    assert len(slave.unsent()[1]) == UNSENT_BYTES_MAX
    worker.forget_unsent()
    assert slave.unsent() == (0, b"")


def test_both_have_the_same_secret_and_every_page_another(ends: tuple[StatusPage, StatusPage]) -> None:
    worker, slave = ends
    assert worker.nonce == slave.nonce
    fd = make_page_file()
    other = StatusPage(fd)
    os.close(fd)
    assert other.nonce != worker.nonce
    other.close()
