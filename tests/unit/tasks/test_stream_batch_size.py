"""How many calls of a stream travel together."""

import pytest

from concurrent_nb.tasks.stream_batch_size import (
    BATCH_MAX_S,
    BATCH_S,
    BYTES_MAX,
    CALLS_MAX,
    LAST_BATCH_S,
    StreamBatchSize,
)


def after(*measured: tuple[int, float, int]) -> int:
    size = StreamBatchSize(2)
    for calls, elapsed_s, size_bytes in measured:
        size.measured(calls, elapsed_s, size_bytes)
    return size.next_size()


def test_the_first_batches_are_single_calls() -> None:
    assert after() == 1


def test_long_calls_stay_alone() -> None:
    assert after((1, 1.0, 100)) == after((1, BATCH_S, 100), (1, BATCH_S, 100)) == 1


def test_batches_of_short_calls_reach_the_wanted_time_within_a_few_rounds() -> None:
    size = StreamBatchSize(2)
    sizes = []
    for _ in range(6):
        sizes.append(size.next_size())
        size.measured(sizes[-1], sizes[-1] * 20e-6, sizes[-1] * 10)
    assert sizes[0] == 1 and sizes[3:] == pytest.approx([BATCH_S / 20e-6] * 3, rel=0.01)


def test_the_longer_a_stream_takes_the_longer_its_batches_up_to_a_limit() -> None:
    size = StreamBatchSize(2)
    size.measured(1, 1e-3, 10)
    times = []
    for _ in range(400):
        calls = size.next_size()
        times.append(calls * 1e-3)
        size.measured(calls, times[-1], 10)
    assert times[:3] == pytest.approx([BATCH_S] * 3)
    assert times == pytest.approx(sorted(times), abs=2e-3) and times[-1] == pytest.approx(BATCH_MAX_S)
    assert 0.06 < times[sum(sum(times[:n]) < 1.0 for n in range(400))] < 0.14  # after 0.5 s on each of two slots


def test_times_that_make_no_sense_change_nothing() -> None:
    assert after((1, 1e-3, 10), (20, float("inf"), 10), (20, -1.0, 10)) == after((1, 1e-3, 10))


def test_the_last_batches_of_a_known_number_become_smaller_but_not_tiny() -> None:
    size, left, times = StreamBatchSize(2), 1000, []
    size.measured(1, 1e-4, 10)
    while left:
        calls = size.next_size(left)
        left -= calls
        times.append(calls * 1e-4)
        size.measured(calls, times[-1], 10)
    largest = times.index(max(times))
    assert times[largest:-1] == pytest.approx(sorted(times[largest:-1], reverse=True), abs=1e-3)
    assert min(times[:-1]) > 0.8 * LAST_BATCH_S and times[-1] <= LAST_BATCH_S


def test_a_short_stream_is_divided_among_all_slots_to_its_end() -> None:
    size = StreamBatchSize(2)
    for _ in range(4):
        size.measured(1, 1e-3, 10)
    assert [size.next_size(left) for left in (16, 8, 4, 2, 1)] == [4, 2, 2, 2, 1]


def test_how_long_calls_will_probably_run() -> None:
    size = StreamBatchSize(2)
    assert size.expected_s(10) == 0
    size.measured(1, 1e-3, 10)
    assert size.expected_s(10) == pytest.approx(0.01)


def test_no_batch_is_larger_than_the_limit() -> None:
    assert after(*[(10**n, 10**n * 1e-9, 10) for n in range(8)]) == CALLS_MAX


def test_calls_with_large_arguments_of_their_own_are_limited_by_bytes() -> None:
    each = BYTES_MAX // 4
    assert after((1, 1e-5, each)) <= 8
    assert after((1, 1e-5, each), (4, 4e-5, 4 * each)) == 4
    assert after((1, 1e-5, 10 * BYTES_MAX)) == 2


def test_arguments_that_calls_share_do_not_count_for_each() -> None:
    shared = 10 * BYTES_MAX
    assert after((1, 1e-5, shared), (2, 2e-5, shared + 50), (30, 3e-4, shared + 1500)) > 100
