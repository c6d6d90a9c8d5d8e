"""Sums over rows that can be computed block by block, and merged: the base of PCA and LDA.

`Moments` is count, mean and scatter, the sum of (x - mean)(x - mean)ᵀ. `CentredFactor` has instead of the scatter a
factor R of it, with RᵀR = scatter: it keeps the digits that squaring loses, as TSQR does. Both are merged by the update
formula of Chan, Golub & LeVeque (Updating formulae and a pairwise algorithm for computing sample variances, 1979); for
a factor the correction is one more row. A factor cut to its k largest directions is the state of incremental PCA (Ross,
Lim, Lin & Yang, Incremental learning for robust visual tracking, Int. J. Comput. Vis. 77, 125, 2008).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from concurrent_nb.samples.data_analysis.row_blocks import Floats


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of some rows."""

    count: int
    mean: Floats
    scatter: Floats


def moments_of(rows: Floats) -> Moments:
    """Return the moments of a block. Raises ValueError if it is no matrix."""
    mean, centred = _centred(rows)
    return Moments(len(rows), mean, centred.T @ centred)


def merged_moments(a: Moments, b: Moments) -> Moments:
    """Return the moments of the rows of both.

    >>> rows = np.random.default_rng(1).normal(5, 2, (9, 2))
    >>> both = merged_moments(moments_of(rows[:4]), moments_of(rows[4:]))
    >>> bool(np.allclose(both.scatter, moments_of(rows).scatter))
    True
    """
    count, difference = _together(a, b)
    correction = np.outer(difference, difference) * (a.count * b.count / max(1, count))
    return Moments(count, a.mean + difference * (b.count / max(1, count)), a.scatter + b.scatter + correction)


@dataclass(frozen=True)
class CentredFactor:
    """Count, mean and factor of the scatter of some rows."""

    count: int
    mean: Floats
    factor: Floats
    total: float  #: the trace of the scatter, also if the factor was cut


def factor_of(rows: Floats) -> CentredFactor:
    """Return the factor of a block, by QR. Raises ValueError if it is no matrix."""
    mean, centred = _centred(rows)
    total = float(np.einsum("ij,ij->", centred, centred))
    return CentredFactor(len(rows), mean, _triangle(centred), total)


def merged_factors(a: CentredFactor, b: CentredFactor) -> CentredFactor:
    """Return the factor of the rows of both."""
    count, difference = _together(a, b)
    correction = difference * (a.count * b.count / max(1, count)) ** 0.5
    factor = _triangle(np.vstack([a.factor, b.factor, correction]))
    mean = a.mean + difference * (b.count / max(1, count))
    return CentredFactor(count, mean, factor, a.total + b.total + float(correction @ correction))


def cut(state: CentredFactor, keep: int) -> CentredFactor:
    """Return the factor with its `keep` largest directions only."""
    _, values, directions = np.linalg.svd(state.factor, full_matrices=False)
    return CentredFactor(state.count, state.mean, values[:keep, None] * directions[:keep], state.total)


@dataclass(frozen=True)
class Sketch:
    """Count and mean of some rows, and their scatter times a narrow matrix, which it does not contain."""

    count: int
    mean: Floats
    product: Floats
    total: float


def sketch_of(rows: Floats, basis: Floats) -> Sketch:
    """Return scatter @ basis of a block, without the scatter. Raises ValueError if it is no matrix of those columns."""
    check_columns(rows.shape[-1], len(basis))
    mean, centred = _centred(rows)
    total = float(np.einsum("ij,ij->", centred, centred))
    return Sketch(len(rows), mean, centred.T @ (centred @ basis), total)


def merged_sketches(a: Sketch, b: Sketch, basis: Floats) -> Sketch:
    """Return the sketch of the rows of both, of the same basis."""
    count, difference = _together(a, b)
    weight = a.count * b.count / max(1, count)
    product = a.product + b.product + weight * np.outer(difference, difference @ basis)
    total = a.total + b.total + weight * float(difference @ difference)
    return Sketch(count, a.mean + difference * (b.count / max(1, count)), product, total)


def _triangle(rows: Floats) -> Floats:
    """Return R of QR."""
    return np.asarray(np.linalg.qr(rows, mode="r"))


def check_columns(ours: int, others: int) -> None:
    """Raise ValueError unless two blocks have the same number of columns."""
    if ours != others:
        raise ValueError(f"one block has {ours} columns, and another one {others}: all must have the same")


def _together(a: Any, b: Any) -> tuple[int, Floats]:
    """Return the number of rows of both, and the difference of their means."""
    check_columns(len(a.mean), len(b.mean))
    return a.count + b.count, b.mean - a.mean


def _centred(rows: Floats) -> tuple[Floats, Floats]:
    """Return the mean, and a copy of the rows without it."""
    if rows.ndim != 2:
        raise ValueError(f"a block of shape {rows.shape}: it must have two dimensions")
    if not len(rows):
        return np.zeros(rows.shape[1]), np.zeros(rows.shape)
    mean = rows.mean(axis=0, dtype=np.float64)
    return mean, rows - mean
