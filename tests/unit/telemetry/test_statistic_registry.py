"""Statistics by name: what is refused, what accumulates, what many threads add."""

import threading
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from concurrent_nb.telemetry.statistic_registry import NAMES_MAX, StatisticRegistry, Timing, packed_statistics


def test_values_accumulate_until_they_are_taken() -> None:
    registry = StatisticRegistry()
    registry.add("b", 1)
    registry.add("a", 2.0)
    registry.add("b", 3)
    assert list(registry.read()) == ["a", "b"]
    assert registry.read()["b"].total == 4
    assert registry.take()["b"].count == 2
    assert (registry.read(), len(registry)) == ({}, 0)


def test_what_was_read_does_not_change() -> None:
    registry = StatisticRegistry()
    registry.add("a", 1)
    before = registry.read()
    registry.add("a", 1)
    assert before["a"].count == 1


@pytest.mark.parametrize(
    "value", [True, 3, 2**70, Decimal("1.5"), Fraction(1, 2), np.float32(2), np.int64(3), np.array(4.0)]
)
def test_every_kind_of_number_is_one(value: Any) -> None:
    registry = StatisticRegistry()
    registry.add("a", value)
    assert registry.read()["a"].total == float(value)


@pytest.mark.parametrize("name", [None, 3, b"bytes", ("a",), ["a"]])
def test_a_name_is_a_string(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a statistic is a string"):
        StatisticRegistry().add(name, 1.0)
    with pytest.raises(TypeError, match="the name of a statistic is a string"):
        Timing(lambda name, value: None, name)


@pytest.mark.parametrize(("name", "why"), [("", "1 to 200"), ("x" * 201, "not 201"), ("\ud800", "cannot be encoded")])
def test_names_have_limits(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        StatisticRegistry().add(name, 1.0)


@pytest.mark.parametrize("value", ["3", b"3", None, 1j, [1.0], np.array([1.0, 2.0]), object()])
def test_what_is_no_number_is_refused(value: Any) -> None:
    registry = StatisticRegistry()
    with pytest.raises(TypeError, match="the value of statistic 'a' is a number"):
        registry.add("a", value)
    assert len(registry) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), Decimal("nan"), 10**400])
def test_values_are_finite(value: Any) -> None:
    registry = StatisticRegistry()
    with pytest.raises(ValueError, match="the value of statistic 'a'"):
        registry.add("a", value)
    assert len(registry) == 0


def test_a_string_of_a_class_of_its_own_is_the_same_name() -> None:
    class Name(str):
        __slots__ = ()

    registry = StatisticRegistry()
    registry.add(Name("a"), 1)
    registry.add("a", 1)
    assert registry.read()["a"].count == 2


def test_there_are_a_thousand_names_at_most() -> None:
    registry = StatisticRegistry()
    for number in range(NAMES_MAX):
        registry.add(f"name {number}", 1)
    with pytest.raises(ValueError, match="a name stands for a kind of value"):
        registry.add("one more", 1)
    registry.add("name 0", 1)
    before = registry.take()
    with pytest.raises(ValueError, match="a name stands for a kind of value"):
        registry.add("one more", 1)
    registry.add("name 0", 1)
    registry.merge(packed_statistics(before))
    other = StatisticRegistry()
    other.add("one more", 1)
    other.add("name 0", 1)
    registry.merge(packed_statistics(other.read()))
    assert (len(registry), registry.left_out, registry.read()["name 0"].count) == (NAMES_MAX, 1, 4)


def test_a_block_is_timed_also_if_it_raises() -> None:
    registry = StatisticRegistry()
    with Timing(registry.add, "block"):
        pass
    with pytest.raises(ZeroDivisionError), Timing(registry.add, "block"):
        _ = 1 / 0
    block = registry.read()["block"]
    assert block.count == 2
    assert 0 < block.minimum <= block.maximum < 10


def test_no_value_of_many_threads_is_lost() -> None:
    registry = StatisticRegistry()
    taken: list[int] = []

    def add() -> None:
        for number in range(2000):
            registry.add(f"name {number % 3}", number)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.append(sum(statistic.count for statistic in registry.take().values()))
    for thread in threads:
        thread.join()
    assert sum(taken) + sum(statistic.count for statistic in registry.take().values()) == 8000
