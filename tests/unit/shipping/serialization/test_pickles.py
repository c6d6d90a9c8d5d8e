"""The C pickler only where it is provably enough; large buffers outside of the pickle."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickles import OUT_OF_BAND_BYTES, PLAIN_ITEMS, is_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Mine:
    pass


class MyList(list[int]):
    pass


@given(PLAIN)
def test_plain_things_come_back_as_they_were(thing: Any) -> None:
    assert pickles.loads(*pickles.dumps(thing)) == thing
    assert pickles.loads(*pickles.dumps_call((thing,), {})) == (thing,)


@pytest.mark.parametrize("thing", [Mine(), Mine, MyList(), [Mine()], {"a": (1, Mine)}, len, lambda: 1, object()])
def test_what_may_come_from_main_is_not_plain(thing: Any) -> None:
    assert not is_plain(thing)


def test_what_is_large_deep_or_contains_itself_is_left_to_cloudpickle() -> None:
    assert is_plain([0] * (PLAIN_ITEMS - 1))
    assert not is_plain([0] * PLAIN_ITEMS)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert not is_plain(deep)
    itself: list[Any] = []
    itself.append(itself)
    back = pickles.loads(*pickles.dumps(itself))
    assert back[0] is back


def test_arrays_are_plain_unless_they_hold_objects() -> None:
    assert is_plain((np.arange(3), np.float64(1.0)))
    assert not is_plain(np.array([Mine()], dtype=object))


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_travel_outside_of_the_pickle(order: Any) -> None:
    array = np.asarray(np.arange(OUT_OF_BAND_BYTES).reshape(256, -1), order=order)
    body, buffers = pickles.dumps(array)
    assert len(body) < 1000
    assert sum(buffer.nbytes for buffer in buffers) == array.nbytes
    assert np.array_equal(pickles.loads(body, [bytes(buffer) for buffer in buffers]), array)


def test_small_and_strided_arrays_stay_in_the_pickle() -> None:
    assert pickles.dumps(np.arange(10))[1] == []
    strided = np.arange(4 * OUT_OF_BAND_BYTES)[::2]
    body, buffers = pickles.dumps(strided)
    assert np.array_equal(pickles.loads(body, buffers), strided)


def test_what_cannot_be_pickled_says_so() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickles.dumps(threading.Lock())


@pytest.mark.parametrize("plain", [True, False])
def test_more_buffers_than_a_message_has_room_for_stay_in_the_pickle(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "OUT_OF_BAND_MAX", 3)
    arrays = [np.full(pickles.OUT_OF_BAND_BYTES, number, "u1") for number in range(5)]
    thing = arrays if plain else [*arrays, lambda: 1]
    body, buffers = pickles.dumps(thing)
    assert len(buffers) == 3
    restored = pickles.loads(body, buffers)
    assert all((one == other).all() for one, other in zip(restored, arrays, strict=False))
