"""A statistic is exact but for its percentiles, which are within 1 %; merging is the same as adding all values."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.telemetry.statistic import BINS_MAX, Statistic

VALUES = st.lists(st.floats(-1e300, 1e300, allow_nan=False), min_size=1, max_size=50)


def test_nothing_has_a_statistic_of_zeros() -> None:
    numbers = Statistic().as_dict()
    assert {name: value for name, value in numbers.items() if value} == {}
    assert repr(Statistic()) == "<Statistic: no values>"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_percentiles_are_within_one_per_cent(scale: float, sign: int) -> None:
    values = sorted(sign * scale * (1 + n / 100) ** 3 for n in range(1000))
    statistic = Statistic(values)
    for percent in (1, 50, 90, 99, 100):
        exact = values[math.ceil(percent / 100 * len(values)) - 1]
        assert statistic.percentile(percent) == pytest.approx(exact, rel=0.0101)


@given(VALUES, VALUES)
def test_merging_is_the_same_as_adding_all(first: list[float], second: list[float]) -> None:
    merged, whole = Statistic(first), Statistic([*first, *second])
    merged.merge(Statistic(second))
    assert (merged.count, merged.minimum, merged.maximum, merged.bins) == (
        whole.count,
        whole.minimum,
        whole.maximum,
        whole.bins,
    )
    assert merged.p90 == whole.p90


@given(VALUES)
def test_percentiles_grow_and_stay_between_the_limits(values: list[float]) -> None:
    statistic = Statistic(values)
    found = [statistic.percentile(percent) for percent in (0, 50, 90, 99, 100)]
    assert found == sorted(found)
    assert min(values) <= found[0]
    assert found[-1] <= max(values)


@given(VALUES)
def test_it_travels_unchanged(values: list[float]) -> None:
    statistic = Statistic(values)
    assert Statistic.unpacked(statistic.packed()) == statistic
    assert pickle.loads(pickle.dumps(statistic)) == statistic
    assert Statistic.from_dict(json.loads(json.dumps(statistic.as_dict()))) == statistic
    assert Statistic.from_dict(Statistic().as_dict()) == Statistic()


def test_zero_and_both_signs_are_in_order() -> None:
    statistic = Statistic([-100.0, -1.0, 0.0, 1.0, 100.0])
    assert [round(statistic.percentile(percent)) for percent in (20, 40, 60, 80, 100)] == [-100, -1, 0, 1, 100]


def test_memory_is_bounded_and_large_values_keep_their_bins() -> None:
    statistic = Statistic(10.0 ** (n / 20) for n in range(-6000, 6000))
    assert len(statistic.bins) <= BINS_MAX
    assert sum(statistic.bins.values()) == statistic.count == 12_000
    assert statistic.p99 == pytest.approx(10.0 ** (5880 / 20), rel=0.13)
    other = Statistic(-(10.0 ** (n / 20)) for n in range(-6000, 6000))
    other.merge(statistic)
    assert len(other.bins) <= BINS_MAX


def test_it_shows_its_numbers() -> None:
    assert repr(Statistic([2.0])) == "<Statistic: 1 value, average 2, minimum 2, maximum 2>"
    statistic = Statistic([1.0, 3.0])
    assert (statistic.average, statistic.total, statistic.copy() == statistic) == (2.0, 4.0, True)
    assert statistic != "statistic"
