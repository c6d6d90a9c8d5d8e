"""A slave that cannot handle a message registers again, and gives up with a reason; invalid notes."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from concurrent_nb.errors import ClusterError
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.nodes.slave import process as slave_module
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.nodes.slave.process import FAILED_SESSIONS_MAX, Slave, make_slave
from concurrent_nb.wire.codec import Buffer
from tests.clusters import BRISK, eventually, shared_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(workers=1, config=BRISK) as cluster:
        yield cluster


class Thread(threading.Thread):
    """A slave in a thread of this process."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="slave")
        path = cluster.connection_file
        assert isinstance(path, Path)
        self.slave: Slave = make_slave({"SlaveNode": {"workers": 1}}, lambda: path, "second")
        self.error: BaseException | None = None
        self.joined = 0

    def run(self) -> None:
        """Be a slave."""
        try:
            self.slave.run(self._ready)
        except ClusterError as error:
            self.error = error

    def _ready(self, name: str) -> None:
        self.joined += 1


def fail(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let this many envelopes raise an unexpected error."""
    left, received = [None] * times, SlaveCore.received

    def raise_or_receive(core: SlaveCore, frames: Sequence[Buffer], now: float) -> None:
        if left:
            left.pop()
            raise KeyError("this was not expected")
        received(core, frames, now)

    monkeypatch.setattr(SlaveCore, "received", raise_or_receive)
    monkeypatch.setattr(slave_module, "RETRY_S", 0.02)


def test_a_slave_that_meets_an_error_registers_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, 2)
    thread = Thread(cluster)
    with caplog.at_level(logging.ERROR):
        thread.start()
        try:
            eventually(lambda: thread.joined == 3, "the slave has joined for the third time")
            app = cluster.application()
            assert list(app.map(pow, range(200), [2] * 200)) == [n * n for n in range(200)]
            time.sleep(0.3)
            assert thread.joined == 3
        finally:
            thread.slave.stop()
            thread.join()
    assert thread.error is None
    lines = [line for line in caplog.records if "this was not expected" in line.message]
    assert len(lines) == 2
    assert all(line.exc_info for line in lines)


def test_a_slave_gives_up_when_each_session_ends_with_an_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, 1000)
    thread = Thread(cluster)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert thread.joined == FAILED_SESSIONS_MAX + 1
    assert " gives up: 7 sessions in a row have ended with an error" in str(thread.error)
    assert "KeyError" in str(thread.error)
    assert cluster.application().submit(pow, 2, 3).result(20) == 8


def flood() -> int:
    """Send notes that are none, by the way of those that are some."""
    from concurrent_nb.shipping.runtime import notes

    send = notes.sink()._send
    assert send is not None
    for _ in range(300):
        send(b"\xff" * 1000)
    return 5


def test_notes_that_are_none_are_reported_once_for_each_task(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    app = cluster.application()
    with caplog.at_level(logging.WARNING):
        assert [future.result(20) for future in [app.submit(flood) for _ in range(3)]] == [5] * 3
        eventually(lambda: len([line for line in caplog.records if "a note" in line.message]) >= 3, "warnings")
    assert len([line for line in caplog.records if "a note of a task" in line.message]) == 3
