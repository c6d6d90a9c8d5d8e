"""Places in segments: kinds, reuse, what is spoilt, what is given up."""

from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.object_store.allocator import PAGE_BYTES, SLAB_BYTES_MAX, Allocator, Block, kind_of, places_in


@given(st.integers(1, 2**40))
def test_a_kind_is_whole_pages_and_wastes_at_most_a_quarter(size: int) -> None:
    kind = kind_of(size)
    assert kind >= size and kind % PAGE_BYTES == 0 and kind_of(kind) == kind
    assert kind - size < max(PAGE_BYTES, size / 4 + 1)
    assert places_in(kind) == 1 or places_in(kind) * kind <= SLAB_BYTES_MAX


def heap_with(segment: bytes, size: int, places: int) -> Allocator:
    heap = Allocator()
    heap.add(segment, kind_of(size), places)
    return heap


def take(heap: Allocator, size: int) -> Block:
    place = heap.take(size)
    assert place is not None
    return place


def test_a_place_that_is_free_again_is_the_next_one_handed_out() -> None:
    heap = heap_with(b"a", 5000, 3)
    first, second = take(heap, 5000), take(heap, 5000)
    assert (first.offset, second.offset) == (0, kind_of(5000))
    assert heap.give_back(first, clean=True) is None
    assert heap.free_bytes == kind_of(5000)
    assert take(heap, 4999) == first
    assert heap.free_bytes == 0
    assert take(heap, 5000).offset == 2 * kind_of(5000)
    assert heap.take(5000) is None
    assert heap.take(1) is None  # another kind


def test_what_lies_in_a_free_place_can_be_taken_again() -> None:
    heap = heap_with(b"a", 5000, 2)
    place = take(heap, 5000)
    heap.give_back(place, clean=True)
    heap.retake(place)
    assert take(heap, 5000) != place
    assert heap.take(5000) is None


def test_a_segment_with_a_spoilt_place_is_used_up_and_closed() -> None:
    heap = heap_with(b"a", 5000, 4)
    spoilt, good, other = (take(heap, 5000) for _ in range(3))
    heap.give_back(other, clean=True)
    assert heap.give_back(spoilt, clean=False) is None
    assert heap.take(5000) is None and heap.free_bytes == 0  # nothing of it is handed out any more
    assert heap.give_back(good, clean=True) == b"a"


def test_the_coldest_segments_are_given_up_first() -> None:
    heap = Allocator()
    kind = kind_of(5000)
    for segment in (b"a", b"b", b"c"):
        heap.add(segment, kind, 1)
    places = [take(heap, 5000) for _ in range(3)]
    kept = places.pop()
    for place in places:
        heap.give_back(place, clean=True)
    assert heap.trim(2 * kind) == []
    assert len(heap.trim(kind)) == 1
    assert len(heap.trim(0)) == 1
    assert heap.free_bytes == 0
    assert heap.give_back(kept, clean=True) is None
    assert heap.trim(0) == [kept.segment]


@given(st.lists(st.tuples(st.sampled_from([100, 5000, 70_000]), st.integers(0, 5), st.booleans()), max_size=60))
def test_no_place_has_two_owners(steps: list[tuple[int, int, bool]]) -> None:
    heap = Allocator()
    taken: list[Block] = []
    made = closed = 0
    for size, which, clean in steps:
        if which and len(taken) >= which:
            closed += heap.give_back(taken.pop(which - 1), clean=clean) is not None
            continue
        place = heap.take(size)
        if place is None:
            heap.add(bytes([made]), kind_of(size), places_in(kind_of(size)))
            made += 1
            place = heap.take(size)
        assert place is not None and place.size >= size
        assert place not in taken
        taken.append(place)
    while taken:
        closed += heap.give_back(taken.pop(), clean=True) is not None
    assert closed + len(heap.trim(0)) == made
