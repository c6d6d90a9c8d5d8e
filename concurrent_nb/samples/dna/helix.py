"""The geometry of a DNA helix: where its base pairs lie, and how much it bends, from a table of steps.

Each step moves all base pairs before it by a 4 x 4 matrix A_i (twist, wedge, rise), so that base pair j ends at
START A_j A_(j+1) ... A_(n-2). A product of matrices is associative: products of blocks can be computed apart
(`block_product`), and the coordinates of a block from the product of what follows it (`block_coordinates`).

The three measures of bending do not change when the helix is moved or turned, so a chunk can be computed in its own
frame (`chunk_profile`); it needs HALO nucleotides on each side.

The algorithm is that of the program dnacurve by C. Gohlke, after Goodsell & Dickerson, Nucleic Acids Res. 22, 5497
(1994) and Tan & Harvey, J. Biomol. Struct. Dyn. 5, 497 (1987).
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from concurrent_nb.samples.dna.wedge_models import BORDER, MODELS, NUCLEOTIDES, WedgeModel, WedgeStep

Floats = NDArray[np.float64]

#: nucleotides between the three points of the curvature, about one turn of the helix
CURVATURE_WINDOW: Final = 10
#: nucleotides from the middle to each of the two normals of the local bend
BEND_WINDOW: Final = 2
#: the same for the curvature angle, whose normals are smoothed
ANGLE_WINDOW: Final = 15
#: weights of the smoothing of normals over one turn
_KERNEL: Final = np.array([0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5]) / 10
_SMOOTHED: Final = 5
#: nucleotides that the measures of one nucleotide need on each side
HALO: Final = ANGLE_WINDOW + _SMOOTHED
#: the curvature of DNA in a nucleosome per ångström, which is the unit of the measures
NUCLEOSOME_CURVATURE: Final = 0.0234
#: radius in ångström, angle and height of the phosphates
_PHOSPHATE: Final = (8.91, np.radians(-5.2), 2.08)

#: names of the rows of a profile
MEASURES: Final = ("curvature", "bend angle", "curvature angle")


def start_points() -> Floats:
    """Return the four homogeneous points of one base pair: axis, phosphate, other phosphate, and the normal."""
    radius, angle, z = _PHOSPHATE
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return np.array([[0, 0, 0, 1], [x, y, z, 1], [-x, y, -z, 1], [0, 0, 1, 0]], dtype=np.float64)


def step_matrix(step: WedgeStep, rise: float) -> Floats:
    """Return the matrix of a step, which is multiplied to row vectors from the right."""
    w, r, t = np.radians([step.twist, -step.roll, -step.tilt])
    (sw, sr, st), (cw, cr, ct) = np.sin([w, r, t]), np.cos([w, r, t])
    columns = [
        [ct * cw, sr * st * cw - cr * sw, cr * st * cw + sr * sw, 0],
        [ct * sw, sr * st * sw + cr * cw, cr * st * sw - sr * cw, 0],
        [-st, sr * ct, cr * ct, rise],
        [0, 0, 0, 1],
    ]
    return np.array(columns, dtype=np.float64).T


@cache
def _table(name: str) -> Floats:
    """Return the matrices of all groups of nucleotides of a model, and last that of the border."""
    model = MODELS[name]
    oligos = [""]
    for _ in range(model.order):
        oligos = [oligo + letter for oligo in oligos for letter in NUCLEOTIDES]
    steps = [*map(model.step, oligos), BORDER]
    return np.stack([step_matrix(step, model.rise) for step in steps])


def step_matrices(sequence: str, model: WedgeModel) -> Floats:
    """Return the matrices of the n - 1 steps of a sequence of n nucleotides, with shape (n - 1, 4, 4)."""
    codes = np.zeros(256, np.intp)
    codes[np.frombuffer(NUCLEOTIDES.encode(), np.uint8)] = range(len(NUCLEOTIDES))
    letters = codes[np.frombuffer(sequence.encode(), np.uint8)]
    table = _table(model.name)
    windows = max(0, len(letters) - model.order + 1)
    oligos = np.zeros(windows, np.intp)
    for at in range(model.order):
        oligos = 4 * oligos + letters[at : at + windows]
    steps = np.full(max(0, len(letters) - 1), len(table) - 1)
    before = model.order // 2 - 1
    steps[before : before + windows] = oligos
    return np.asarray(table[steps])


def suffix_products(matrices: Floats, carry: Floats) -> Floats:
    """Return A_j A_(j+1) ... A_(m-1) carry for each j of m matrices, and last `carry` itself."""
    products = np.empty((len(matrices) + 1, 4, 4))
    products[-1] = carry
    for j in range(len(matrices) - 1, -1, -1):
        np.matmul(matrices[j], products[j + 1], out=products[j])
    return products


def coordinates(sequence: str, model: WedgeModel) -> Floats:
    """Return the coordinates of a helix: 4 rows (see `start_points`) of n points in ångström, with shape (4, n, 3).

    >>> ends = coordinates("ATGCAAATTG", MODELS["straight"])[0, [0, -1]]
    >>> float(np.linalg.norm(ends[0] - ends[1]).round(2))  # nine steps of 3.38
    30.42
    """
    return _placed(suffix_products(step_matrices(sequence, model), np.eye(4)))


def _placed(products: Floats) -> Floats:
    return np.ascontiguousarray(np.einsum("rk,nkc->rnc", start_points(), products)[:, :, :3])


# ----------------------------------------------------------------------------------- coordinates in blocks: the scan


def block_text(sequence: str, first: int, size: int, model: WedgeModel) -> str:
    """Return the part of a sequence that the steps from `first` on, at most `size`, depend on."""
    return sequence[first : first + size + model.order - 1]


def _block_steps(text: str, size: int, model: WedgeModel) -> Floats:
    return step_matrices(text, model)[:size]


def block_product(text: str, size: int, model: WedgeModel) -> Floats:
    """Return the product of the matrices of a block of steps (phase 1). `text` is what `block_text` returns."""
    product = np.eye(4)
    for matrix in _block_steps(text, size, model):
        product = product @ matrix
    return product


def suffix_carries(products: list[Floats]) -> list[Floats]:
    """Return for each block the product of all blocks after it (between the phases)."""
    carries = [np.eye(4)]
    for product in reversed(products[1:]):
        carries.append(product @ carries[-1])
    return carries[::-1]


def block_coordinates(text: str, size: int, model: WedgeModel, carry: Floats, is_last: bool) -> Floats:
    """Return the coordinates of a block (phase 2): a point for each step, and in the last block the end."""
    products = suffix_products(_block_steps(text, size, model), carry)
    return _placed(products if is_last else products[:-1])


# --------------------------------------------------------------------------------------------- the measures of bending


def profile(points: Floats, rise: float) -> Floats:
    """Return the MEASURES of each nucleotide, with shape (3, n); 0 where the sequence is too short on one side.

    *Curvature* is one over the radius of the circle through three points of the axis, each a turn apart. *Bend angle*
    is the angle between two near normals, *curvature angle* that between two smoothed normals farther apart. All are
    multiples of those of DNA in a nucleosome. In the first and the last HALO nucleotides the curvature angle is an
    artefact: normals there are smoothed over less than a turn.
    """
    axis, normals = points[0], points[3]
    found = np.zeros((3, len(axis)))
    if len(axis) > 2 * CURVATURE_WINDOW:
        found[0, CURVATURE_WINDOW:-CURVATURE_WINDOW] = _circles(axis) / NUCLEOSOME_CURVATURE
    scale = NUCLEOSOME_CURVATURE * 2 * ANGLE_WINDOW * rise
    if len(axis) > 2 * BEND_WINDOW:
        before, after = normals[: -2 * BEND_WINDOW], normals[2 * BEND_WINDOW :]
        found[1, BEND_WINDOW:-BEND_WINDOW] = angles(before, after) / scale
    if len(axis) > 2 * ANGLE_WINDOW:
        smoothed = smoothed_normals(normals)
        before, after = smoothed[: -2 * ANGLE_WINDOW], smoothed[2 * ANGLE_WINDOW :]
        between = angles(before, after)
        for edge in (slice(None, _SMOOTHED), slice(-_SMOOTHED, None)):
            # As published: these normals have not the length 1, but are taken as if.
            between[edge] = np.arccos(np.clip((before[edge] * after[edge]).sum(1), -1, 1))
        found[2, ANGLE_WINDOW:-ANGLE_WINDOW] = between / scale
    return found


def _circles(axis: Floats) -> Floats:
    """Return the curvature of the circle through each three points: four times the area over the product of sides."""
    w = CURVATURE_WINDOW
    a, b, c = axis[: -2 * w], axis[w:-w], axis[2 * w :]
    sides = np.prod([np.linalg.norm(each, axis=1) for each in (a - b, b - c, a - c)], axis=0)
    return np.asarray(2 * np.linalg.norm(np.cross(b - a, c - a), axis=1) / sides)


def angles(before: Floats, after: Floats) -> Floats:
    """Return the angles between unit vectors; unlike arccos, as exact for small angles as for others (W. Kahan)."""
    return np.asarray(2 * np.arctan2(np.linalg.norm(before - after, axis=1), np.linalg.norm(before + after, axis=1)))


def smoothed_normals(normals: Floats) -> Floats:
    """Return weighted means over one turn; of length 1, but for the first and last five, which lack neighbours."""
    smoothed = np.stack([np.convolve(normals[:, axis], _KERNEL, "same") for axis in range(3)], axis=1)
    inner = smoothed[_SMOOTHED:-_SMOOTHED]
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    return smoothed


def sequence_profile(sequence: str, model: WedgeModel) -> Floats:
    """Return the MEASURES of a whole sequence."""
    return profile(coordinates(sequence, model), model.rise)


# -------------------------------------------------------------------------------------------- the measures, in chunks


def chunk_text(sequence: str, first: int, size: int, model: WedgeModel) -> tuple[str, int, bool]:
    """Return what a chunk of `size` nucleotides depends on: letters, how many of them are before it, whether it ends
    with the sequence."""
    begin = max(0, first - HALO)
    text = sequence[begin : first + size + HALO + model.order - 2]
    return text, first - begin, first + size + HALO >= len(sequence)


def chunk_profile(text: str, before: int, size: int, is_last: bool, model: WedgeModel) -> Floats:
    """Return the MEASURES of a chunk. The arguments are those that `chunk_text` returns."""
    steps = step_matrices(text, model)
    if not is_last:
        steps = steps[: before + size + HALO - 1]
    points = _placed(suffix_products(steps, np.eye(4)))
    return profile(points, model.rise)[:, before : before + size]


# ------------------------------------------------------------------------------------------------------ pictures, files


def oriented(points: Floats) -> Floats:
    """Return the coordinates for people: the ends on the x axis, the axis's farthest point from it towards z.

    The centre of axis and phosphates is the origin. Normals are turned with the points.
    """
    axis = points[0]
    along = axis[-1] - axis[0]
    length = np.linalg.norm(along)
    x = along / length if length else np.array([1.0, 0, 0])
    beside = (axis - axis[0]) - np.outer((axis - axis[0]) @ x, x)
    far = beside[np.argmax(np.linalg.norm(beside, axis=1))]
    distance = np.linalg.norm(far)
    if distance > 1e-6 * max(1.0, float(length)):
        z = far / distance
    else:  # a straight helix has no such point
        z = np.cross(x, np.eye(3)[np.argmin(np.abs(x))])
        z /= np.linalg.norm(z)
    turned = points @ np.stack([x, np.cross(z, x), z], axis=1)
    turned[:3] -= turned[:3].reshape(-1, 3).mean(0)
    return np.asarray(turned)
