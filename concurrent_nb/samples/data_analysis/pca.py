"""Principal components, from what blocks have been reduced to."""

from dataclasses import dataclass
from operator import index

import numpy as np

from concurrent_nb.samples.data_analysis.moments import CentredFactor, Moments
from concurrent_nb.samples.data_analysis.row_blocks import Floats


@dataclass(frozen=True)
class Pca:
    """Principal components; names and meaning are those of scikit-learn's PCA."""

    count: int
    mean: Floats
    components: Floats  #: a row for each component, of length 1; its largest number is positive
    singular_values: Floats
    explained_variance: Floats
    explained_variance_ratio: Floats

    def transform(self, rows: Floats) -> Floats:
        """Return the coordinates of rows along the components."""
        return np.asarray((rows - self.mean) @ self.components.T)


def pca_of_factor(state: CentredFactor, components: int) -> Pca:
    """Return the principal components from a factor of the scatter. Raises ValueError for more than there are."""
    _, values, directions = np.linalg.svd(state.factor, full_matrices=False)
    return _pca(state.count, state.mean, values, directions, state.total, components)


def pca_of_moments(moments: Moments, components: int) -> Pca:
    """Return the principal components from the scatter itself, which costs half as much as its factor.

    Singular values below 1e-8 of the largest are lost to rounding. Raises ValueError for more than there are.
    """
    squares, vectors = np.linalg.eigh(moments.scatter)
    values = np.sqrt(np.clip(squares[::-1], 0, None))
    total = float(np.trace(moments.scatter))
    return _pca(moments.count, moments.mean, values, vectors.T[::-1], total, components)


def pca_in_basis(state: CentredFactor, mean: Floats, total: float, basis: Floats, components: int) -> Pca:
    """Return the principal components from rows @ basis, whose columns span (nearly) the same space.

    `mean` and `total` are those of the rows themselves.
    """
    _, values, directions = np.linalg.svd(state.factor, full_matrices=False)
    return _pca(state.count, mean, values, directions @ basis.T, total, components)


def _pca(count: int, mean: Floats, values: Floats, directions: Floats, total: float, components: int) -> Pca:
    if not 0 < index(components) <= min(len(values), count):
        raise ValueError(f"{components} components of {count} rows with {len(mean)} columns: choose fewer, at least 1")
    kept = directions[:components]
    signs = np.sign(kept[np.arange(components), np.abs(kept).argmax(axis=1)])
    values = values[:components]
    variance = values**2 / max(1, count - 1)
    ratio = values**2 / total if total else np.zeros(components)
    return Pca(count, mean, kept * signs[:, None], values, variance, ratio)
