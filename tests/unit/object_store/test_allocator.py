"""Blocks of segments: size classes, reuse, retired segments, dropped segments."""

from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.object_store.allocator import PAGE_BYTES, SLAB_BYTES_MAX, Allocator, Block, blocks_in, size_class_of


@given(st.integers(1, 2**40))
def test_a_size_class_is_whole_pages_and_wastes_at_most_a_quarter(size: int) -> None:
    size_class = size_class_of(size)
    assert size_class >= size and size_class % PAGE_BYTES == 0 and size_class_of(size_class) == size_class
    assert size_class - size < max(PAGE_BYTES, size / 4 + 1)
    assert blocks_in(size_class) == 1 or blocks_in(size_class) * size_class <= SLAB_BYTES_MAX


def allocator_with(segment: bytes, size: int, blocks: int) -> Allocator:
    allocator = Allocator()
    allocator.add(segment, size_class_of(size), blocks)
    return allocator


def take(allocator: Allocator, size: int) -> Block:
    block = allocator.allocate(size)
    assert block is not None
    return block


def test_a_freed_block_is_allocated_next() -> None:
    allocator = allocator_with(b"a", 5000, 3)
    first, second = take(allocator, 5000), take(allocator, 5000)
    assert (first.offset, second.offset) == (0, size_class_of(5000))
    assert allocator.free(first, clean=True) is None
    assert allocator.free_bytes == size_class_of(5000)
    assert take(allocator, 4999) == first
    assert allocator.free_bytes == 0
    assert take(allocator, 5000).offset == 2 * size_class_of(5000)
    assert allocator.allocate(5000) is None
    assert allocator.allocate(1) is None  # another size class


def test_the_content_of_a_free_block_can_be_used_again() -> None:
    allocator = allocator_with(b"a", 5000, 2)
    block = take(allocator, 5000)
    allocator.free(block, clean=True)
    allocator.reuse(block)
    assert take(allocator, 5000) != block
    assert allocator.allocate(5000) is None


def test_a_segment_with_an_unclean_block_is_retired_and_closed() -> None:
    allocator = allocator_with(b"a", 5000, 4)
    retired, good, other = (take(allocator, 5000) for _ in range(3))
    allocator.free(other, clean=True)
    assert allocator.free(retired, clean=False) is None
    assert allocator.allocate(5000) is None and allocator.free_bytes == 0  # no block of it is allocated any more
    assert allocator.free(good, clean=True) == b"a"


def test_the_oldest_segments_are_dropped_first() -> None:
    allocator = Allocator()
    size_class = size_class_of(5000)
    for segment in (b"a", b"b", b"c"):
        allocator.add(segment, size_class, 1)
    blocks = [take(allocator, 5000) for _ in range(3)]
    kept = blocks.pop()
    for block in blocks:
        allocator.free(block, clean=True)
    assert allocator.trim(2 * size_class) == []
    assert len(allocator.trim(size_class)) == 1
    assert len(allocator.trim(0)) == 1
    assert allocator.free_bytes == 0
    assert allocator.free(kept, clean=True) is None
    assert allocator.trim(0) == [kept.segment]


@given(st.lists(st.tuples(st.sampled_from([100, 5000, 70_000]), st.integers(0, 5), st.booleans()), max_size=60))
def test_no_block_has_two_owners(steps: list[tuple[int, int, bool]]) -> None:
    allocator = Allocator()
    taken: list[Block] = []
    made = closed = 0
    for size, which, clean in steps:
        if which and len(taken) >= which:
            closed += allocator.free(taken.pop(which - 1), clean=clean) is not None
            continue
        block = allocator.allocate(size)
        if block is None:
            allocator.add(bytes([made]), size_class_of(size), blocks_in(size_class_of(size)))
            made += 1
            block = allocator.allocate(size)
        assert block is not None and block.size >= size
        assert block not in taken
        taken.append(block)
    while taken:
        closed += allocator.free(taken.pop(), clean=True) is not None
    assert closed + len(allocator.trim(0)) == made
