"""Sums over blocks: every cut of the rows, and every order of merging, gives what all rows give."""

from functools import reduce

import numpy as np
import pytest
from numpy.testing import assert_allclose

from concurrent_nb.samples.data_analysis import moments
from concurrent_nb.samples.data_analysis.row_blocks import Floats

ROWS = np.random.default_rng(1).normal(40, 3, (60, 7)) * np.arange(1, 8)
CUTS = [[30], [1, 2, 59], [7, 14, 21, 28, 35, 42, 49, 56]]


def scatter(rows: Floats) -> Floats:
    return np.asarray((rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0)))


@pytest.mark.parametrize("cut", CUTS, ids=len)
@pytest.mark.parametrize("backwards", [False, True])
def test_merged_blocks_are_the_whole(cut: list[int], backwards: bool) -> None:
    blocks = np.split(ROWS, cut)[:: -1 if backwards else 1]
    whole = reduce(moments.merged_moments, map(moments.moments_of, blocks))
    factor = reduce(moments.merged_factors, map(moments.factor_of, blocks))
    basis = np.random.default_rng(2).normal(size=(7, 3))
    sketches = (moments.sketch_of(block, basis) for block in blocks)
    sketch = reduce(lambda a, b: moments.merged_sketches(a, b, basis), sketches)
    for state in (whole, factor, sketch):
        assert state.count == 60
        assert_allclose(state.mean, ROWS.mean(axis=0), rtol=1e-13)
    assert_allclose(whole.scatter, scatter(ROWS), rtol=1e-11, atol=1e-9)
    assert_allclose(factor.factor.T @ factor.factor, scatter(ROWS), rtol=1e-11, atol=1e-9)
    assert_allclose(sketch.product, scatter(ROWS) @ basis, rtol=1e-11, atol=1e-9)
    assert factor.total == sketch.total == pytest.approx(np.trace(scatter(ROWS)), rel=1e-12)


def test_a_factor_has_the_digits_that_a_scatter_loses() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    rows = np.random.default_rng(3).normal(size=(50, 3)) * [1.0, 1e-5, 1e-10] @ turn
    exact = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    blocks = np.split(rows, [20, 30])
    factor = reduce(moments.merged_factors, map(moments.factor_of, blocks)).factor
    assert_allclose(np.linalg.svd(factor, compute_uv=False), exact, rtol=1e-5)
    squares = np.linalg.eigvalsh(reduce(moments.merged_moments, map(moments.moments_of, blocks)).scatter)
    assert abs(np.sqrt(abs(squares[0])) / exact[2] - 1) > 1e-2


def test_a_cut_factor_keeps_the_largest_directions_and_the_total() -> None:
    whole = moments.factor_of(ROWS)
    kept = moments.cut(whole, 2)
    assert kept.factor.shape == (2, 7)
    values = np.linalg.svd(whole.factor, compute_uv=False)
    assert_allclose(np.linalg.svd(kept.factor, compute_uv=False), values[:2])
    assert kept.total == whole.total > (kept.factor**2).sum()


def test_what_is_no_block_is_refused() -> None:
    for function in (moments.moments_of, moments.factor_of):
        with pytest.raises(ValueError, match=r"a block of shape \(3,\): it must have two dimensions"):
            function(np.zeros(3))
    with pytest.raises(ValueError, match="one block has 3 columns, and another one 2"):
        moments.merged_moments(moments.moments_of(np.ones((2, 3))), moments.moments_of(np.ones((2, 2))))


def test_a_block_without_rows_adds_nothing() -> None:
    rows = np.random.default_rng(1).normal(5, 2, (9, 3))
    none, all_rows = moments.factor_of(rows[:0]), moments.factor_of(rows)
    for both in (moments.merged_factors(none, all_rows), moments.merged_factors(all_rows, moments.cut(none, 2))):
        assert (both.count, both.total) == (9, all_rows.total)
        assert_allclose(both.mean, all_rows.mean)
        assert_allclose(both.factor.T @ both.factor, all_rows.factor.T @ all_rows.factor)
    assert moments.merged_moments(moments.moments_of(rows[:0]), moments.moments_of(rows[:0])).count == 0
