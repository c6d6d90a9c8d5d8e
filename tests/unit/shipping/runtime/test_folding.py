"""What a task of `reduce` runs: it combines values in order, and has the name of the user's function."""

import functools
import operator

import cloudpickle

from concurrent_nb.shipping.runtime.folding import folding


def test_values_are_combined_from_left_to_right() -> None:
    fold = cloudpickle.loads(cloudpickle.dumps(folding(operator.sub)))
    assert fold(10, 3, 2) == 5
    assert fold("alone") == "alone"


def test_it_is_known_by_the_name_of_the_function() -> None:
    assert folding(operator.add).__qualname__ == "add"
    assert "fold" in folding(functools.partial(max, 3)).__qualname__  # which has no name
