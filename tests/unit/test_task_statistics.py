"""`concurrent_nb.stats`: where values go, and how few notes they take."""

import pickle
import threading
from collections.abc import Iterator

import pytest

import concurrent_nb
from concurrent_nb import task_statistics
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.notes import NoteReader, TaskStatistics
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry

stats = concurrent_nb.stats


@pytest.fixture
def sent() -> Iterator[list[bytes]]:
    """A task runs; what it sends."""
    pieces: list[bytes] = []
    notes.SINK.open(pieces.append)
    yield pieces
    notes.SINK.close()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    stats.read(reset=True)
    yield
    stats.read(reset=True)


def merged(pieces: list[bytes]) -> StatisticRegistry:
    registry = StatisticRegistry()
    for note in NoteReader().feed(b"".join(pieces)):
        assert isinstance(note, TaskStatistics)
        registry.merge(note.values)
    return registry


def test_outside_of_a_task_values_stay_here() -> None:
    stats.add("rows", 2)
    with stats.timed("block"):
        pass
    assert {name: one.count for name, one in stats.read().items()} == {"block": 1, "rows": 1}
    assert stats.read(reset=True)["rows"].total == 2
    assert stats.read() == {}


def test_many_values_of_a_task_are_one_note_at_its_end(sent: list[bytes]) -> None:
    for number in range(1000):
        stats.add("rows", number % 7)
    notes.SINK.close()
    assert 1 <= len(sent) <= 3  # one more for each 0.3 s that this took
    rows = merged(sent).read()["rows"]
    assert (rows.count, rows.minimum, rows.maximum, rows.total) == (1000, 0, 6, sum(n % 7 for n in range(1000)))
    assert stats.read() == {}


def test_a_task_that_goes_on_sends_when_it_is_due(sent: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(task_statistics, "_monotonic", lambda: now[0])
    for _ in range(5):
        stats.add("rows", 1)
    assert sent == []
    now[0] += task_statistics.NOTE_S
    stats.add("rows", 1)
    assert len(sent) == 1
    stats.add("rows", 1)
    assert len(sent) == 1
    notes.SINK.close()
    assert (len(sent), merged(sent).read()["rows"].count) == (2, 7)


def test_a_task_that_measures_nothing_sends_nothing(sent: list[bytes]) -> None:
    notes.SINK.close()
    assert sent == []


def test_the_next_task_begins_anew(sent: list[bytes]) -> None:
    stats.add("rows", 1)
    notes.SINK.close()
    more: list[bytes] = []
    notes.SINK.open(more.append)
    stats.add("columns", 1)
    notes.SINK.close()
    assert (list(merged(sent).read()), list(merged(more).read())) == (["rows"], ["columns"])


def test_threads_of_a_task_measure_for_it(sent: list[bytes]) -> None:
    def add() -> None:
        for _ in range(500):
            stats.add("rows", 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes.SINK.close()
    assert merged(sent).read()["rows"].count == 2000


def test_nonsense_is_refused_in_a_task_as_elsewhere(sent: list[bytes]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        stats.add("rows", float("nan"))
    with pytest.raises(TypeError, match="is a string, not int"):
        stats.add(3, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 200 characters"):
        stats.timed("")
    notes.SINK.close()
    assert sent == []


def test_it_is_the_same_object_in_every_process() -> None:
    assert pickle.loads(pickle.dumps(stats)) is stats
