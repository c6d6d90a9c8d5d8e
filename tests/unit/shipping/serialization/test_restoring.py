"""Functions that have arrays with them: each call finds those as they were sent."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from concurrent_nb.shipping.functions.pickled_functions import Functions, load_function
from concurrent_nb.shipping.serialization import pickles, restoring

SIZES = [1, 10, 1000, 40_000]


def arrived(function: Callable[..., Any]) -> Any:
    """Have a function where a worker would have it."""
    return load_function(Functions().pickle(function))


def add(array: Any, more: Any = 1) -> Any:
    array += more
    return float(array[0])


def in_closure(size: int) -> Callable[[], Any]:
    array = np.zeros(size)
    return lambda: add(array)


def as_constant(size: int) -> Callable[[], Any]:
    return functools.partial(add, np.zeros(size))


def as_default(size: int) -> Callable[[], Any]:
    def function(array: Any = np.zeros(size)) -> Any:  # noqa: B008  (that is what is tested)
        return add(array)

    return function


def several(size: int) -> Callable[[], Any]:
    arrays = [np.zeros(n) for n in (3, size, 1, 20_000, size)]
    return lambda: [add(array) for array in arrays][-1]


def in_an_object(size: int) -> Callable[[], Any]:
    class Model:
        def __init__(self) -> None:
            self.weights = {"layers": [np.zeros(size), np.zeros((size, 2)).T]}

        def fit(self) -> float:
            self.weights["layers"][1][0, 0] += 1
            return float(add(self.weights["layers"][0])) * float(self.weights["layers"][1][0, 0])

    return Model().fit


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [in_closure, as_constant, as_default, several, in_an_object])
def test_what_a_call_changes_is_its_own(make: Callable[[int], Callable[[], Any]], size: int) -> None:
    mine = make(size)
    function = arrived(mine)
    assert [function() for _ in range(3)] == [1, 1, 1]
    assert mine() == 1  # and nobody else's


def test_small_arrays_are_aligned_and_keep_their_values() -> None:
    arrays = [np.arange(n, dtype=kind) for n in range(1, 40, 3) for kind in ("u1", "f8", "c16", "i2")]
    for given, array in zip(arrived(lambda: arrays)(), arrays, strict=True):
        assert given.flags.aligned and given.flags.writeable and given.dtype == array.dtype
        np.testing.assert_array_equal(given, array)


def test_many_small_arrays_are_gathered_in_one_buffer() -> None:
    arrays = [np.full(100, float(n)) for n in range(1000)]
    _, buffers = restoring.dumps(lambda: [array[0] for array in arrays])
    assert len(buffers) == 1 and buffers[0].nbytes == 800_000
    assert arrived(lambda: [array[0] for array in arrays])() == list(range(1000))


def test_what_has_no_arrays_is_itself() -> None:
    things = [1]

    def function() -> Any:
        return things

    assert restoring.dumps(function) == pickles.dumps(function)
    assert not isinstance(arrived(function), restoring.Restoring)
    assert arrived(abs) is abs


def test_read_only_arrays_stay_so() -> None:
    for size in SIZES:
        array = np.zeros(size)
        array.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            arrived(lambda: add(array))()  # noqa: B023  (called at once)


def test_what_cannot_be_restored_is_read_only_and_the_error_says_what_to_do() -> None:
    array = np.zeros(40_000)
    body, buffers = restoring.dumps(lambda: add(array))
    function = restoring.loads(body, [it.toreadonly() for it in buffers], (), has_read_only=True)
    with pytest.raises(ValueError, match="read-only") as raised:
        function()
    assert "hand them over as arguments" in raised.value.__notes__[0]
    body, buffers = restoring.dumps(lambda: int("no number", base=len(array)))
    with pytest.raises(ValueError) as other:
        restoring.loads(body, buffers, (), has_read_only=True)()
    assert not hasattr(other.value, "__notes__")


def test_the_same_function_has_the_same_digest() -> None:
    array = np.zeros(10)
    functions = Functions()
    function = functools.partial(add, array)
    first = functions.pickle(function)
    assert functions.pickle(function).digest == first.digest
    array[0] = 1
    assert functions.pickle(function).digest != first.digest
