"""Multidimensional scaling: places of points in few dimensions whose distances are near to given ones.

SMACOF lowers the stress in each step, but ends in a local minimum, so it is run from several starts (J. de Leeuw,
Applications of convex analysis to multidimensional scaling, 1977; Borg & Groenen, Modern Multidimensional Scaling).
Landmark MDS places a few landmarks by classical scaling, and all other points by their distances to these (V. de Silva
& J. Tenenbaum, Sparse multidimensional scaling using landmark points, 2004).
"""

from dataclasses import dataclass

import numpy as np

from concurrent_nb.samples.data_analysis.row_blocks import Floats

#: distance that stands for 0, as in scikit-learn
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Scaling:
    """Places that SMACOF has found from one start."""

    points: Floats
    stress: float  #: half the sum of squared differences between the distances and the given ones
    iterations: int
    start: int  #: number of the start


def start_points(rows: int, dimensions: int, seed: int, number: int) -> Floats:
    """Return the points of a start, which depend on the seed and on its number only."""
    return np.random.default_rng([seed, number]).uniform(size=(rows, dimensions))


def distances(a: Floats, b: Floats) -> Floats:
    """Return the Euclidean distances between the rows of two matrices."""
    return np.sqrt(squared_distances(a, b))


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared distances. Data far from the origin are moved there first, to lose fewer digits."""
    centre = b.mean(axis=0, dtype=np.float64)
    a, b = a - centre, b - centre
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return np.asarray(np.clip(squares, 0, None))


def smacof(
    given: Floats, points: Floats, start: int = 0, max_iterations: int = 300, tolerance: float = 1e-6
) -> Scaling:
    """Move points until a step lowers the stress, as a share of the squared distances, by less than `tolerance`.

    Args:
        given: the distances, symmetric, with zeros on the diagonal. Raises ValueError if they are not.
        points: where the points start.
        start: number of the start, which is only passed on.
    """
    check_distances(given)
    between = _mutual(points)
    stress = float(((between - given) ** 2).sum() / 2)
    iterations = 0
    while iterations < max_iterations:
        ratio = given / np.where(between == 0, _SMALLEST, between)
        points = (ratio.sum(axis=1)[:, None] * points - ratio @ points) / len(points)  # Guttman's transform
        between = _mutual(points)
        before, stress = stress, float(((between - given) ** 2).sum() / 2)
        iterations += 1
        if before - stress < tolerance * float((between**2).sum() / 2):
            break
    return Scaling(points, stress, iterations, start)


def _mutual(points: Floats) -> Floats:
    between = distances(points, points)
    np.fill_diagonal(between, 0)
    return between


def check_distances(given: Floats) -> None:
    """Raise ValueError unless these are distances between the same points."""
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not len(given):
        raise ValueError(f"distances of shape {given.shape}: they must be a square matrix, of at least one point")
    if not np.isfinite(given).all() or (given < 0).any() or np.diagonal(given).any() or not np.allclose(given, given.T):
        raise ValueError("distances must be finite, at least 0, 0 on the diagonal, and the same in both directions")


def best(scalings: list[Scaling]) -> Scaling:
    """Return the one with the least stress; of equal ones the first start's, whatever order they came in."""
    return min(scalings, key=lambda each: (each.stress, each.start))


# ----------------------------------------------------------------------------------------------------------- landmarks


@dataclass(frozen=True)
class Landmarks:
    """Landmarks with their places, and what places other points."""

    rows: Floats  #: the landmarks as rows of the data
    points: Floats  #: where they are placed
    pseudo_inverse: Floats
    mean_squares: Floats  #: mean of the squared distances to each landmark


def farthest(rows: Floats, count: int, first: int = 0) -> list[int]:
    """Return numbers of rows that are far apart: each is the one farthest from those before (max-min).

    Raises ValueError for more than there are different rows.
    """
    chosen = [first]
    nearest = squared_distances(rows, rows[[first]])[:, 0]
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        if not nearest[chosen[-1]]:
            raise ValueError(f"{count} landmarks of {len(chosen) - 1} different rows: choose fewer")
        nearest = np.minimum(nearest, squared_distances(rows, rows[[chosen[-1]]])[:, 0])
    return chosen


def placed_landmarks(rows: Floats, dimensions: int) -> Landmarks:
    """Place landmarks by classical scaling. Raises ValueError if their distances have fewer dimensions."""
    squares = squared_distances(rows, rows)
    np.fill_diagonal(squares, 0)
    means = squares.mean(axis=0)
    products = -(squares - means - means[:, None] + means.mean()) / 2
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    if len(values) < dimensions or values[-1] <= 1e-12 * max(values[0], 1e-300):
        raise ValueError(f"{len(rows)} landmarks do not span {dimensions} dimensions: choose more, or fewer dimensions")
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimensions)])
    return Landmarks(rows, vectors * np.sqrt(values), vectors / np.sqrt(values), means)


def triangulated(landmarks: Landmarks, rows: Floats) -> Floats:
    """Return the places of other points, from their distances to the landmarks."""
    squares = squared_distances(rows, landmarks.rows)
    return np.asarray((landmarks.mean_squares - squares) @ landmarks.pseudo_inverse / 2)
