"""Buffers laid down once: recognised, taken back, looked at by others. Real shared memory, no processes."""

import gc
import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from concurrent_nb.object_store.segment_reader import MAPPED_BYTES, SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle, create, is_available, open_segment, probe
from concurrent_nb.object_store.store import RECOGNISED_BYTES, Lease, ObjectStore
from concurrent_nb.wire.messages import Slice

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")

LARGE = RECOGNISED_BYTES // 8


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def shelf() -> Iterator[SegmentReader]:
    shelf = SegmentReader()
    yield shelf
    shelf.close()


def placed(store: ObjectStore, array: Any) -> Slice:
    slice_ = store.place(memoryview(array).cast("B"))
    assert slice_ is not None
    return slice_


def handle_of(store: ObjectStore, slice_: Slice) -> SegmentHandle:
    handle = store.handle(slice_.segment)
    assert handle is not None
    return handle


def test_what_is_placed_is_a_snapshot(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    slice_ = placed(store, array)
    array[:] = 0
    assert np.frombuffer(store.read(slice_))[-1] == LARGE - 1


def test_the_same_array_is_placed_once(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    first = placed(store, array)
    assert placed(store, array) == first
    store.let_go([first], clean=True)
    assert placed(store, array) == first
    store.let_go([first, first], clean=True)
    assert placed(store, array) == first  # free, but still there


def test_an_array_that_has_changed_is_placed_anew(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    first = placed(store, array)
    array[5] = -1
    second = placed(store, array)
    assert second.serial != first.serial and (second.segment, second.offset) != (first.segment, first.offset)
    assert np.frombuffer(store.read(first))[5] == 5
    assert np.frombuffer(store.read(second))[5] == -1


def test_memory_of_the_store_itself_is_recognised_however_small(store: ObjectStore) -> None:
    slice_ = placed(store, np.arange(10_000.0))
    assert store.place(store.view(slice_)) == slice_


def test_a_place_is_used_again_only_when_everybody_has_let_go_cleanly(store: ObjectStore) -> None:
    first = placed(store, np.zeros(10_000))
    store.let_go([first], clean=True)
    second = placed(store, np.ones(10_000))
    assert (second.segment, second.offset) == (first.segment, first.offset) and second.serial > first.serial
    store.let_go([second], clean=False)
    third = placed(store, np.ones(10_000))
    assert third.segment != second.segment
    assert store.tidy() == [second.segment]
    assert store.handle(second.segment) is None


def test_a_lease_that_nobody_ended_lets_go_uncleanly(store: ObjectStore) -> None:
    slice_ = placed(store, np.zeros(10_000))
    lease = Lease(store, [slice_])
    del lease
    assert store.tidy() == [slice_.segment]


def test_free_memory_is_given_back_when_asked(store: ObjectStore) -> None:
    slices = [placed(store, np.full(LARGE, float(n))) for n in range(3)]
    store.let_go(slices, clean=True)
    assert store.tidy() == []
    assert set(store.tidy(0)) == {slice_.segment for slice_ in slices}


def test_letting_go_twice_or_of_what_is_not_there_is_harmless(store: ObjectStore) -> None:
    slice_ = placed(store, np.zeros(10_000))
    store.let_go([slice_, slice_, Slice(b"x" * 16, 0, 1, 1)], clean=True)
    other = placed(store, np.ones(10_000))
    store.let_go([slice_], clean=True)  # late: the place is another's by now
    assert np.frombuffer(store.read(other))[0] == 1
    assert store.tidy(0) == []


@pytest.mark.parametrize("size", [1, 65536, MAPPED_BYTES, MAPPED_BYTES + 1])
def test_readers_see_what_was_placed(store: ObjectStore, shelf: SegmentReader, size: int) -> None:
    data = os.urandom(size)
    slice_ = store.place(memoryview(data))
    assert slice_ is not None
    shelf.add(handle_of(store, slice_))
    looks: list[weakref.ref[Any]] = []
    look = shelf.look(slice_, looks.append)
    assert look == data
    look[0] ^= 255  # a change is one's own
    assert shelf.look(slice_, looks.append) == store.view(slice_) == data
    gc.collect()
    assert [reference() is None for reference in looks] == [False, True][: len(looks)]
    del look
    assert all(reference() is None for reference in looks) and len(looks) == 2 * (size >= MAPPED_BYTES)


@pytest.mark.parametrize("size", [65536, MAPPED_BYTES])
def test_a_result_belongs_to_who_takes_it(store: ObjectStore, shelf: SegmentReader, size: int) -> None:
    slice_ = store.place(memoryview(bytes(size)))
    assert slice_ is not None
    shelf.add(handle_of(store, slice_))
    done: list[Slice] = []
    mine = np.frombuffer(shelf.take(slice_, done.append), dtype="u1")
    mine[0] = 255
    assert store.read(slice_)[0] == 0
    assert bool(done) == (size < MAPPED_BYTES)  # a copy needs the original no more
    del mine
    gc.collect()
    assert done == [slice_]


def test_a_reader_keeps_what_its_owner_has_closed(shelf: SegmentReader) -> None:
    store = ObjectStore()
    slice_ = placed(store, np.arange(float(LARGE)))
    shelf.add(handle_of(store, slice_))
    store.close()
    assert np.frombuffer(shelf.read(slice_))[-1] == LARGE - 1


def test_what_is_no_segment_is_not_opened(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    slice_ = placed(store, np.zeros(10_000))
    handle = handle_of(store, slice_)
    with open("/dev/null") as null:
        for wrong in (
            SegmentHandle(handle.segment, handle.pid, null.fileno(), handle.size),
            SegmentHandle(b"0" * 16, handle.pid, handle.fd, handle.size),
            SegmentHandle(handle.segment, handle.pid, handle.fd, handle.size + 1),
            SegmentHandle(handle.segment, 2**30, handle.fd, handle.size),
        ):
            with pytest.raises(CannotOpen, match="segment"):
                open_segment(wrong)


def test_a_segment_that_can_shrink_is_not_opened() -> None:
    segment = b"s" * 16
    fd = os.memfd_create(f"concurrent_nb-{segment.hex()}", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, 4096)
        with pytest.raises(CannotOpen, match="sealed"):
            open_segment(SegmentHandle(segment, os.getpid(), fd, 4096))
    finally:
        os.close(fd)


def test_an_owner_cannot_take_memory_away_from_its_readers() -> None:
    handle = create(4096)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(handle.fd, 0)
    finally:
        os.close(handle.fd)


def test_slices_of_unknown_segments_and_beyond_their_end_are_refused(store: ObjectStore, shelf: SegmentReader) -> None:
    slice_ = placed(store, np.zeros(10_000))
    with pytest.raises(CannotOpen, match="not known"):
        shelf.read(slice_)
    shelf.add(handle_of(store, slice_))
    with pytest.raises(CannotOpen, match="ends behind"):
        shelf.read(Slice(slice_.segment, slice_.offset, 2**40, 1))


def test_a_probe_is_there_only_while_it_is_shown() -> None:
    with probe() as handle:
        assert handle is not None
        os.close(open_segment(handle))
    with pytest.raises(CannotOpen):
        open_segment(handle)


def test_a_closed_store_takes_nothing() -> None:
    store = ObjectStore()
    store.close()
    assert store.place(memoryview(bytes(100_000))) is None
