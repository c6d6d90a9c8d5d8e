"""The chaos soak, in short. By hand, for an hour: make soak S=3600."""

import sys

import pytest

from concurrent_nb.errors import PoisonTask
from tests.soak.history import History
from tests.soak.soak import run_soak

SECONDS = 12.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes and shared memory as Linux has them")
def test_nothing_is_lost_doubled_or_left_whatever_dies_or_freezes() -> None:
    history, chaos, grown = run_soak(SECONDS, seed=4711, warm_up_s=1.0)
    assert history.violations == []
    assert grown == []
    assert history.ended["poison"] and history.ended["system"] and history.ended["large"]
    assert len(chaos.done) > 1, "a busy machine leaves little time, but for more than one kind of fault"


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([(1, 4, None), (2, None, PoisonTask("poison")), (1, 4, None)], "ended twice"),
        ([(1, 5, None), (2, None, PoisonTask("poison"))], r"ended with 5, None, not 4"),
        ([(1, None, PoisonTask("innocent")), (2, None, PoisonTask("poison"))], "PoisonTask.* not 4"),
        ([(1, 4, None), (2, None, None)], "poison task 2 ended with None"),
        ([(1, 4, None)], r"task 2 \(poison\) was never answered"),
    ],
)
def test_the_checker_notices(ends: list[tuple[int, object, BaseException | None]], words: str) -> None:
    history = History()
    assert (history.begin("square", 4), history.begin("poison", PoisonTask)) == (1, 2)
    for number, value, error in ends:
        history.end(number, value, error)
    history.close()
    with pytest.raises(AssertionError, match=words):
        assert history.violations == []


def test_the_checker_keeps_nothing_of_what_is_over() -> None:
    history = History()
    for number in range(1, 1001):
        history.end(history.begin("square", number), number, None)
    history.close()
    assert (history.open, history.violations, history.ended["square"]) == (0, [], 1000)
