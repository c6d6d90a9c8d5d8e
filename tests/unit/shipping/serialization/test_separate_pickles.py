"""Objects that are pickled one by one, with their classes once."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from concurrent_nb.shipping.serialization import separate_pickles, task_main
from concurrent_nb.shipping.serialization.sealed import Sealed, seal
from concurrent_nb.shipping.serialization.separate_pickles import SeparatePickler, loads, loads_all


def local_class() -> type:
    class Member:
        def __init__(self, value: Any) -> None:
            self.value = value

        def doubled(self) -> Any:
            return 2 * self.value

    return Member


def test_a_class_that_cannot_be_imported_is_pickled_once() -> None:
    kind = local_class()
    pickler = SeparatePickler()
    bodies = [pickler.dumps(kind(number)) for number in range(100)]
    assert len(pickler.table) == 1
    assert max(map(len, bodies)) < 200
    members = loads_all(bodies, pickler.table)
    assert [member.doubled() for member in members] == list(range(0, 200, 2))
    assert len({type(member) for member in members}) == 1


def test_what_was_opened_here_gets_the_same_entry_again() -> None:
    first, second = SeparatePickler(), SeparatePickler()
    member = loads(first.dumps(local_class()(1)), first.table)
    second.dumps(member)
    assert first.table == second.table


def class_of_a_notebook() -> tuple[Any, dict[str, Any]]:
    names: dict[str, Any] = {"__name__": "__main__", "RATE": 1}
    code = "class Cell:\n    speed = 1\n    def get(self):\n        return self.speed, RATE\n"
    exec(code, names)
    return names["Cell"], names


def test_a_class_that_was_changed_and_one_that_uses_a_changed_variable_travel_anew() -> None:
    kind, names = class_of_a_notebook()
    tables = []
    for rate in range(3):
        pickler = SeparatePickler()
        assert loads(pickler.dumps(kind()), pickler.table).get() == (kind.speed, names["RATE"])
        pickler.dumps(kind())
        (digest,) = pickler.table
        tables.append(digest)
        names["RATE"], kind.speed = 2, 1 + rate
    assert len(set(tables)) == 3


def test_a_worker_has_the_latest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, names = class_of_a_notebook()
    packed = []
    for speed in (1, 2):
        kind.speed = names["RATE"] = speed
        pickler = SeparatePickler()
        packed.append((pickler.dumps(kind()), pickler.table))
    monkeypatch.setattr(separate_pickles, "_opened", {})  # as in another process
    monkeypatch.setattr(task_main.CURRENT, "module", task_main.new_module())
    for (body, table), expected in zip(packed, (1, 2), strict=True):
        opened = loads(body, table)
        assert opened.get() == (expected, expected)
        again = SeparatePickler()
        again.dumps(opened)
        assert again.table == table


def new_counter() -> Any:
    count = 0

    def counter() -> int:
        nonlocal count
        count += 1
        return count

    return counter


def test_functions_with_a_state_are_parts_of_their_objects() -> None:
    kind = local_class()
    one, other = kind(new_counter()), kind(new_counter())
    pickler = SeparatePickler()
    for _ in range(3):
        one.value()
        again = SeparatePickler()
        one, other = loads_all([again.dumps(one), again.dumps(other)], again.table)
        assert type(one) is kind and len(again.table) == 1
    assert one.value() == 4 and other.value() == 1
    one.value = lambda: one
    opened = loads(pickler.dumps(one), pickler.table)
    assert opened is not one and opened.value() is opened
    one.value = lambda known=[]: known.append(1) or len(known)
    opened = loads(pickler.dumps(one), pickler.table)
    assert (one.value(), one.value(), opened.value()) == (1, 2, 1)


def test_functions_and_importable_classes() -> None:
    pickler = SeparatePickler()
    body = pickler.dumps({"function": lambda x: x + 1, "class": threading.Thread})
    assert len(pickler.table) == 1
    opened = loads(body, pickler.table)
    assert opened["function"](1) == 2 and opened["class"] is threading.Thread


def test_no_two_objects_share_a_part() -> None:
    common: list[int] = []
    pickler = SeparatePickler()
    one, other = loads_all([pickler.dumps([common, common]), pickler.dumps([common])], pickler.table)
    assert one[0] is one[1] and one[0] is not other[0]


def test_large_arrays_can_be_changed_afterwards() -> None:
    pickler = SeparatePickler()
    for thing in (np.zeros(100_000), [np.zeros(100_000), type(None), local_class()(np.zeros(50_000))]):
        opened = loads(pickler.dumps(thing), pickler.table)
        (opened if isinstance(opened, np.ndarray) else opened[0])[0] = 1


def test_what_cannot_be_pickled_raises() -> None:
    with pytest.raises(TypeError, match="lock"):
        SeparatePickler().dumps([threading.Lock()])


def test_what_is_sealed_is_opened_only_by_who_needs_it() -> None:
    class Explosive:
        def __reduce__(self) -> Any:
            return (int, ("not a number",))

    parts = pickle.loads(pickle.dumps({1: seal([1, np.arange(100_000)]), 2: seal(Explosive())}, 5))
    assert isinstance(parts[1], Sealed)
    assert parts[1].open()[1].sum() == 4_999_950_000
    with pytest.raises(ValueError, match="invalid literal"):
        parts[2].open()
    again = pickle.loads(pickle.dumps(parts[1], 5))
    assert again.open()[0] == 1
