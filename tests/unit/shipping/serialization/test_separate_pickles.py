"""Objects that are pickled one by one, with their classes once."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest

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
