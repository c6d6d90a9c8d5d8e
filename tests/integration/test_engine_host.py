"""A host of an engine in this process: what it keeps of functions and contents."""

from collections.abc import Iterator

import pytest

from concurrent_nb.engines.engine_host import EngineHost
from concurrent_nb.engines.group_messages import EngineSession, Group, SharedObject
from concurrent_nb.nodes.common.shared_memory_link import object_id
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer

SESSION = EngineSession(b"t" * 16, "elsewhere", [], "", 1.0)
FUNCTION = b"f" * 32


@pytest.fixture
def host() -> Iterator[EngineHost]:
    host = EngineHost(SESSION)
    yield host
    host.close()


def place(serial: int) -> m.Slice:
    """Return a slice at one place, whose memory the application has used so often."""
    return m.Slice(b"s" * 16, 0, 8, serial)


def name_of(slice_: m.Slice) -> bytes:
    return object_id(slice_.segment, slice_.offset, slice_.serial)


def content(slice_: m.Slice, data: bytes) -> tuple[SharedObject, list[Buffer]]:
    return SharedObject(name_of(slice_), slice=slice_), [data]


def function(slice_: m.Slice) -> tuple[SharedObject, list[Buffer]]:
    return SharedObject(FUNCTION, m.Function(FUNCTION, b"body", (slice_,))), []


def group(*needed: bytes) -> Group:
    return Group(1, SESSION, 0, [], list(needed))


def test_a_function_whose_memory_is_used_otherwise_by_now_is_wanted_again(host: EngineHost) -> None:
    first, second = place(1), place(2)
    assert not host.missing(group(name_of(first), FUNCTION), [content(first, b"11111111"), function(first)])
    assert not host.missing(group(name_of(first), FUNCTION), [])
    assert not host.missing(group(name_of(second)), [content(second, b"22222222")])
    assert host.missing(group(FUNCTION), []) == [FUNCTION]
    assert not host.missing(group(name_of(second), FUNCTION), [function(second)])
