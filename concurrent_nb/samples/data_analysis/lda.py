"""Linear discriminants, from the moments of each class.

Fisher's discriminants: directions in which the means of the classes differ most, compared with the rows of one class
(R. A. Fisher, Annals of Eugenics 7, 179, 1936). The numbers are those of scikit-learn's solver "eigen".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concurrent_nb.samples.data_analysis.moments import Moments, merged_moments, moments_of
from concurrent_nb.samples.data_analysis.row_blocks import Floats

ClassMoments = dict[Any, Moments]


@dataclass(frozen=True)
class Lda:
    """Linear discriminants of labelled rows."""

    classes: NDArray[Any]
    priors: Floats  #: share of the rows that each class has
    means: Floats  #: a row for each class
    mean: Floats
    scalings: Floats  #: a column for each discriminant, the best one first
    explained_variance_ratio: Floats

    def transform(self, rows: Floats) -> Floats:
        """Return the coordinates of rows along the discriminants, in which the variance within classes is 1."""
        return np.asarray((rows - self.mean) @ self.scalings)

    def predict(self, rows: Floats) -> NDArray[Any]:
        """Return the most likely class of each row, if rows of all classes are normally distributed alike."""
        places, centres = self.transform(rows), self.transform(self.means)
        squares = (centres**2).sum(axis=1)
        return np.asarray(self.classes[np.argmax(places @ centres.T - squares / 2 + np.log(self.priors), axis=1)])


def class_moments(rows: Floats, labels: NDArray[Any]) -> ClassMoments:
    """Return the moments of each class in a block.

    Raises ValueError if there are not as many labels as rows, or if a label is NaN.
    """
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"a block has labels of shape {labels.shape} for rows of shape {rows.shape}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError("a label is NaN, which is no class: leave those rows out, or give them a class of their own")
    return {label: moments_of(rows[labels == label]) for label in _ordered(set(labels.tolist()))}


def merged_classes(a: ClassMoments, b: ClassMoments) -> ClassMoments:
    """Return the moments of each class in both."""
    return {
        label: merged_moments(a[label], b[label]) if label in a and label in b else a.get(label) or b[label]
        for label in _ordered({*a, *b})
    }


def _ordered(labels: Iterable[Any]) -> list[Any]:
    try:
        return sorted(labels)
    except TypeError as error:
        raise ValueError(f"labels are of types that have no order: {error}") from error


def lda_of(classes: ClassMoments, components: int | None = None) -> Lda:
    """Return the discriminants; by default as many as there can be, one fewer than classes.

    Raises ValueError for fewer than two classes, for more discriminants than there can be, and if columns depend on
    each other within classes.
    """
    if not classes:
        raise ValueError("there are no rows: discriminants need two classes or more")
    labels = _ordered(classes)
    groups = [classes[label] for label in labels]
    if len(groups) < 2:
        raise ValueError(f"all rows have the class {labels}: discriminants need two classes or more")
    whole = reduce(merged_moments, groups)
    most = min(len(groups) - 1, len(whole.mean))
    components = most if components is None else components
    if not 0 < components <= most:
        raise ValueError(f"{components} discriminants of {len(groups)} classes: choose 1 to {most}")
    within = np.sum([group.scatter for group in groups], axis=0) / whole.count
    between = whole.scatter / whole.count - within
    try:
        root = np.linalg.cholesky(within)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"within the {len(groups)} classes of {whole.count} rows a column is constant or depends on others: leave "
            "it out, or give more rows"
        ) from error
    # In coordinates in which the variance within classes is 1, the discriminants are orthogonal.
    whitened = np.linalg.solve(root, np.linalg.solve(root, between).T)
    values, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
    scalings = np.linalg.solve(root.T, vectors[:, ::-1][:, :components])
    scalings *= np.sign(scalings[np.abs(scalings).argmax(axis=0), np.arange(components)])
    priors = np.array([group.count for group in groups]) / whole.count
    means = np.stack([group.mean for group in groups])
    ratio = values[::-1][:components] / values.sum()
    return Lda(np.array(labels), priors, means, whole.mean, scalings, ratio)
