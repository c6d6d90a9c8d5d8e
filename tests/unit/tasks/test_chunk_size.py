"""How many items of a map go as one task, decided by measured times."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.tasks.chunk_size import CHUNK_S, CHUNKS_LEFT, GROWTH, LAST_CHUNK_S, AdaptiveSize


def cut_all(item_s: float, count: int, slots: int, task_s: float = 0.0) -> list[int]:
    """Give the sizes of the chunks of a map whose items all take the same time, measured one after the other."""
    size = AdaptiveSize(slots)
    sizes = []
    while count:
        chunk = size.next_size(count)
        size.measured(chunk, chunk * item_s + task_s)
        sizes.append(chunk)
        count -= chunk
    return sizes


def test_until_something_is_known_items_go_alone() -> None:
    size = AdaptiveSize(4)
    assert [size.next_size(1000) for _ in range(20)] == [1] * 20


def test_short_items_soon_go_by_the_thousand() -> None:
    sizes = cut_all(1e-7, 1_000_000, slots=2, task_s=50e-6)
    assert sizes[:3] == sorted(sizes[:3])
    assert max(sizes[:6]) > 1000
    assert len(sizes) < 100


def test_chunks_are_a_few_milliseconds_of_work() -> None:
    sizes = cut_all(100e-6, 100_000, slots=2)
    assert all(size * 100e-6 <= 1.01 * CHUNK_S for size in sizes)
    assert sizes[10] * 100e-6 > 0.9 * CHUNK_S


def test_long_items_go_alone() -> None:
    assert cut_all(1.0, 50, slots=4) == [1] * 50
    assert cut_all(CHUNK_S, 50, slots=4) == [1] * 50


def test_towards_the_end_chunks_become_smaller_and_not_too_small() -> None:
    sizes = cut_all(10e-6, 20_000, slots=4)
    largest = sizes.index(max(sizes))
    assert sizes[largest] * 10e-6 > 0.9 * CHUNK_S
    for earlier, later in itertools.pairwise(sizes[largest:]):
        assert later <= earlier + 1
    assert all(size * 10e-6 > 0.9 * LAST_CHUNK_S for size in sizes[largest:-1])


def test_what_is_short_at_first_may_be_so_by_chance() -> None:
    size = AdaptiveSize(1)
    size.measured(1, 1e-6)
    assert size.next_size(1_000_000) == GROWTH


def test_when_items_become_slow_so_do_chunks_become_short() -> None:
    size = AdaptiveSize(1)
    for _ in range(5):
        size.measured(1000, 0.001)
    for _ in range(3):
        size.measured(1000, 10.0)
    assert size.next_size(1_000_000) <= 2


def test_a_cluster_of_which_nothing_is_known_has_one_slot() -> None:
    assert AdaptiveSize(0).slots == 1


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e6)), max_size=20),
    st.integers(1, 10**7),
)
def test_a_chunk_has_at_least_one_item_and_never_more_than_there_are(
    slots: int, past: list[tuple[int, float]], waiting: int
) -> None:
    size = AdaptiveSize(slots)
    for items, elapsed_s in past:
        size.measured(items, elapsed_s)
    assert 1 <= size.next_size(waiting) <= waiting


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_work_is_left_for_every_slot_when_a_long_chunk_is_cut(slots: int) -> None:
    size = AdaptiveSize(slots)
    size.measured(10_000, 0.01)
    assert size.next_size(50_000 * slots) <= 50_000 / CHUNKS_LEFT
