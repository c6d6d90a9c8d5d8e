"""What a host keeps of the objects that groups need, and what it asks for."""

from collections.abc import Iterator

import pytest

from concurrent_nb.engines import host_table
from concurrent_nb.engines.engine_host import EngineHost
from concurrent_nb.engines.group_messages import EngineSession, Group, SharedObject
from concurrent_nb.engines.host_table import HostTable
from concurrent_nb.tasks.shared_objects import object_id
from concurrent_nb.wire.messages import Function, Slice
from concurrent_nb.workers.slave_side.pool import Pool
from tests import leaks

SLICE = Slice(b"s" * 16, 0, 100_000, 1)
NAME = object_id(SLICE.segment, SLICE.offset, SLICE.serial)
DIGEST = b"f" * 32
SESSION = EngineSession(b"t" * 16, "another machine", [], "", 1.0)


@pytest.fixture
def host() -> Iterator[EngineHost]:
    host = EngineHost(SESSION)
    yield host
    host.close()


def test_a_function_that_comes_before_what_it_refers_to_is_asked_for_again(host: EngineHost) -> None:
    group = Group(1, SESSION, 0, [], [NAME, DIGEST])
    function = SharedObject(DIGEST, Function(DIGEST, b"body", (SLICE,)))
    assert host.missing(group, [(function, [])]) == [NAME, DIGEST]
    content = SharedObject(NAME, slice=SLICE)
    assert host.missing(group, [(function, []), (content, [bytes(SLICE.size)])]) == []
    assert host.missing(group, []) == []


def test_a_function_is_forgotten_when_the_place_of_what_it_refers_to_gets_another_content(host: EngineHost) -> None:
    function = SharedObject(DIGEST, Function(DIGEST, b"body", (SLICE,)))
    content = SharedObject(NAME, slice=SLICE)
    group = Group(1, SESSION, 0, [], [NAME, DIGEST])
    assert host.missing(group, [(content, [bytes(SLICE.size)]), (function, [])]) == []
    later = Slice(SLICE.segment, SLICE.offset, SLICE.size, SLICE.serial + 1)
    name = object_id(later.segment, later.offset, later.serial)
    again = Group(2, SESSION, 0, [], [name, DIGEST])
    assert host.missing(again, [(SharedObject(name, slice=later), [bytes(later.size)])]) == [DIGEST]
    moved = SharedObject(DIGEST, Function(DIGEST, b"body", (later,)))
    assert host.missing(again, [(moved, [])]) == []


def test_a_host_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again and again in a worker of the engine that lives for weeks."""

    def start(pool: Pool, now: float) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Pool, "start", start)
    before = leaks.descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="Too many open files") as raised:
            EngineHost(SESSION)
        held = {name for name in leaks.descriptors() if name not in before}
        assert held == set(), raised  # which has a traceback with the host: it was closed, and not only collected


def test_sessions_that_have_ended_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_table, "ENDED_MAX", 10)
    table = HostTable()
    for number in range(100):
        table.end_session(number.to_bytes(16, "big"))
    assert list(table._ended) == [number.to_bytes(16, "big") for number in range(90, 100)]
