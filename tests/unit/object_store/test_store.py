"""Buffers stored once: recognised, released, read by others. Real shared memory, no processes."""

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
def reader() -> Iterator[SegmentReader]:
    reader = SegmentReader()
    yield reader
    reader.close()


def stored(store: ObjectStore, array: Any) -> Slice:
    slice_ = store.put(memoryview(array).cast("B"))
    assert slice_ is not None
    return slice_


def handle_of(store: ObjectStore, slice_: Slice) -> SegmentHandle:
    handle = store.handle(slice_.segment)
    assert handle is not None
    return handle


def test_a_stored_buffer_is_a_snapshot(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    slice_ = stored(store, array)
    array[:] = 0
    assert np.frombuffer(store.read(slice_))[-1] == LARGE - 1


def test_the_same_array_is_stored_once(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    first = stored(store, array)
    assert stored(store, array) == first
    store.release([first], clean=True)
    assert stored(store, array) == first
    store.release([first, first], clean=True)
    assert stored(store, array) == first  # free, but still there


def test_an_array_that_has_changed_is_stored_anew(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    first = stored(store, array)
    array[5] = -1
    second = stored(store, array)
    assert second.serial != first.serial and (second.segment, second.offset) != (first.segment, first.offset)
    assert np.frombuffer(store.read(first))[5] == 5
    assert np.frombuffer(store.read(second))[5] == -1


def test_an_array_at_the_address_of_another_one_is_recognised_a_little_later(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    stored(store, array)
    array[:] = 0  # as the next array at this address
    before = store.stored_count
    for _ in range(20):
        stored(store, array)
    assert store.stored_count - before == 2, "one is stored without a comparison after the mismatch"
    for number in range(40):
        array[0] = number
        stored(store, array)
    before = store.stored_count
    for _ in range(20):
        stored(store, array)
    assert store.stored_count - before <= 8


def test_memory_of_the_store_itself_is_recognised_however_small(store: ObjectStore) -> None:
    slice_ = stored(store, np.arange(10_000.0))
    assert store.put(store.view(slice_)) == slice_


def test_a_block_is_reused_only_after_clean_releases(store: ObjectStore) -> None:
    first = stored(store, np.zeros(10_000))
    store.release([first], clean=True)
    second = stored(store, np.ones(10_000))
    assert (second.segment, second.offset) == (first.segment, first.offset) and second.serial > first.serial
    store.release([second], clean=False)
    third = stored(store, np.ones(10_000))
    assert third.segment != second.segment
    assert store.tidy() == [second.segment]
    assert store.handle(second.segment) is None


def test_an_unused_buffer_is_stored_anew_if_its_segment_takes_no_more(store: ObjectStore) -> None:
    arrays = [np.full(LARGE, float(number)) for number in range(3)]
    unused, unclean, used = (stored(store, array) for array in arrays)
    assert unused.segment == unclean.segment == used.segment
    store.release([unused], clean=True)
    store.release([unclean], clean=False)
    again = [stored(store, array) for array in arrays]
    assert [slice_.segment == used.segment for slice_ in again] == [False, False, True]
    assert [store.read(slice_) for slice_ in again] == [array.tobytes() for array in arrays]


def test_a_lease_without_an_end_releases_as_unclean(store: ObjectStore) -> None:
    slice_ = stored(store, np.zeros(10_000))
    lease = Lease(store, [slice_])
    del lease
    assert store.tidy() == [slice_.segment]


def test_free_memory_is_returned_by_tidy(store: ObjectStore) -> None:
    slices = [stored(store, np.full(LARGE, float(n))) for n in range(3)]
    store.release(slices, clean=True)
    assert store.tidy() == []
    assert set(store.tidy(0)) == {slice_.segment for slice_ in slices}


def test_releasing_twice_or_an_unknown_slice_has_no_effect(store: ObjectStore) -> None:
    slice_ = stored(store, np.zeros(10_000))
    store.release([slice_, slice_, Slice(b"x" * 16, 0, 1, 1)], clean=True)
    other = stored(store, np.ones(10_000))
    store.release([slice_], clean=True)  # late: the block has another buffer by now
    assert np.frombuffer(store.read(other))[0] == 1
    assert store.tidy(0) == []


@pytest.mark.parametrize("size", [1, 65536, MAPPED_BYTES, MAPPED_BYTES + 1])
def test_readers_see_what_was_stored(store: ObjectStore, reader: SegmentReader, size: int) -> None:
    data = os.urandom(size)
    slice_ = store.put(memoryview(data))
    assert slice_ is not None
    reader.add(handle_of(store, slice_))
    references: list[weakref.ref[Any]] = []
    private = reader.map_watched(slice_, references.append)
    assert private == data
    private[0] ^= 255  # not visible to others
    assert reader.map_watched(slice_, references.append) == store.view(slice_) == data
    gc.collect()
    assert [reference() is None for reference in references] == [False, True][: len(references)]
    del private
    assert all(reference() is None for reference in references) and len(references) == 2 * (size >= MAPPED_BYTES)


@pytest.mark.parametrize("size", [65536, MAPPED_BYTES])
def test_a_result_may_be_changed_and_reports_when_it_is_unused(
    store: ObjectStore, reader: SegmentReader, size: int
) -> None:
    slice_ = store.put(memoryview(bytes(size)))
    assert slice_ is not None
    reader.add(handle_of(store, slice_))
    done: list[Slice] = []
    mine = np.frombuffer(reader.map_until_unused(slice_, done.append), dtype="u1")
    mine[0] = 255
    assert store.read(slice_)[0] == 0
    assert bool(done) == (size < MAPPED_BYTES)  # a copy does not need the original
    del mine
    gc.collect()
    assert done == [slice_]


def test_a_reader_keeps_what_its_owner_has_closed(reader: SegmentReader) -> None:
    store = ObjectStore()
    slice_ = stored(store, np.arange(float(LARGE)))
    reader.add(handle_of(store, slice_))
    store.close()
    assert np.frombuffer(reader.read(slice_))[-1] == LARGE - 1


def test_a_file_that_is_no_segment_is_not_opened(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    slice_ = stored(store, np.zeros(10_000))
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


def test_slices_of_unknown_segments_and_beyond_their_end_are_refused(store: ObjectStore, reader: SegmentReader) -> None:
    slice_ = stored(store, np.zeros(10_000))
    with pytest.raises(CannotOpen, match="not open"):
        reader.read(slice_)
    reader.add(handle_of(store, slice_))
    with pytest.raises(CannotOpen, match="ends beyond"):
        reader.read(Slice(slice_.segment, slice_.offset, 2**40, 1))


def test_a_probe_exists_only_within_its_context() -> None:
    with probe() as handle:
        assert handle is not None
        os.close(open_segment(handle))
    with pytest.raises(CannotOpen):
        open_segment(handle)


def test_a_closed_store_stores_nothing() -> None:
    store = ObjectStore()
    store.close()
    assert store.put(memoryview(bytes(100_000))) is None


def test_what_another_lease_holds_is_recognised_whatever_becomes_of_the_first(store: ObjectStore) -> None:
    array = np.arange(float(LARGE))
    first = Lease(store, [stored(store, array)])
    second = first.again()
    first.end(clean=False)
    count = store.stored_count
    store.release([stored(store, array)], clean=True)
    assert store.stored_count == count
    second.end(clean=True)
    stored(store, array)
    assert store.stored_count == count + 1, "it was released as unclean once"


def test_a_buffer_in_a_segment_that_is_given_up_is_stored_anew() -> None:
    store = ObjectStore()
    arrays = [memoryview(bytearray([number]) * 3_000_000) for number in range(3)]
    first, second, third = (store.put(array) for array in arrays)
    assert first is not None and second is not None and third is not None
    assert first.segment == second.segment == third.segment
    store.release([first], clean=False)  # the segment is closed when the others are free
    store.tidy()
    store.release([second], clean=True)
    again = store.put(arrays[1])
    assert again is not None and again.segment != third.segment
    assert store.read(again) == bytes(arrays[1])
    store.close()
