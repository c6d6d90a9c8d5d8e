"""A promise is judged by the figures it names, and left open where one of them is missing."""

import pytest

from benchmarks.targets import TARGETS, Bound, Median, Verdict, verdict

METRIC = "tasks/s"


def medians(**values: float) -> Median:
    """Medians of METRIC by contender."""
    return lambda metric, contender: values.get(contender) if metric == METRIC else None


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (Bound(100.0, at_least=True), Verdict.MET),
        (Bound(100.1, at_least=True), Verdict.MISSED),
        (Bound(100.0, at_least=False), Verdict.MET),
        (Bound(99.9, at_least=False), Verdict.MISSED),
        (Bound(4.0, at_least=True, peer="pool"), Verdict.MET),
        (Bound(5.0, at_least=True, peer="pool"), Verdict.MISSED),
        (Bound(4.0, at_least=False, peer="pool"), Verdict.MET),
        (Bound(3.0, at_least=False, peer="pool"), Verdict.MISSED),
        (Bound(2.0, at_least=True, peer="ray"), Verdict.UNKNOWN),
    ],
)
def test_a_bound_holds_up_to_its_limit(bound: Bound, expected: Verdict) -> None:
    assert bound.verdict(METRIC, medians(ours=100.0, pool=25.0)) is expected


def test_without_our_figure_a_target_stays_open() -> None:
    for bound in (Bound(1.0, at_least=True), Bound(1.0, at_least=True, peer="pool")):
        assert bound.verdict(METRIC, medians(pool=25.0)) is Verdict.UNKNOWN


def test_a_peer_at_zero_is_no_yardstick() -> None:
    assert Bound(1.0, at_least=True, peer="pool").verdict(METRIC, medians(ours=1.0, pool=0.0)) is Verdict.UNKNOWN


def test_one_bound_that_does_not_hold_is_a_miss_whatever_else_is_unknown() -> None:
    holds, fails = Bound(100.0, at_least=True), Bound(101.0, at_least=True)
    unknown = Bound(2.0, at_least=True, peer="ray")
    median = medians(ours=100.0)
    assert verdict((holds,), METRIC, median) is Verdict.MET
    assert verdict((holds, unknown), METRIC, median) is Verdict.UNKNOWN
    assert verdict((unknown, fails, holds), METRIC, median) is Verdict.MISSED


def test_bounds_read_as_they_are_meant() -> None:
    assert str(Bound(1_000_000, at_least=True)) == "≥ 1,000,000"
    assert str(Bound(1.6, at_least=False, peer="ppe")) == "≤ 1.6 x ProcessPoolExecutor"


def test_every_stretch_asks_for_more_than_the_promise() -> None:
    for target in TARGETS:
        for stretch in target.stretch:
            for promised in target.promised:
                if promised.peer == stretch.peer:
                    harder = stretch.limit > promised.limit if stretch.at_least else stretch.limit < promised.limit
                    assert harder, target.what
        assert all(bound.at_least is target.more_is_better for bound in (*target.promised, *target.stretch))
