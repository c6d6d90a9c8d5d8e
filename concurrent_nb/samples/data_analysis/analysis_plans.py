"""The plans of PCA, LDA and MDS: which blocks a task has, and what the results of a phase lead to.

A task has several blocks, one in memory at a time, so that its result is one reduced block. A plan takes blocks, a
matrix that fits, or a list of matrices.
"""

from collections.abc import Sequence
from functools import reduce
from operator import index
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from concurrent_nb.samples.data_analysis import lda, mds, moments, pca
from concurrent_nb.samples.data_analysis.lda import ClassMoments
from concurrent_nb.samples.data_analysis.mds import Landmarks, Scaling
from concurrent_nb.samples.data_analysis.moments import CentredFactor, Moments, Sketch
from concurrent_nb.samples.data_analysis.row_blocks import Floats, RowBlocks, as_blocks, read_block
from concurrent_nb.samples.phased_plan import PhasedPlan, PhaseTask

#: what plans take: blocks, a matrix, or a list of matrices
Data = RowBlocks | NDArray[Any] | Sequence[NDArray[Any]]
#: how many parts the blocks are divided into; not the number of workers, so that no result depends on that
PARTS: Final = 16
PCA_METHODS: Final = ("tsqr", "moments", "incremental", "randomised")


def divided(count: int, parts: int) -> list[range]:
    """Divide the numbers of blocks into at most `parts` ranges.

    >>> divided(5, 2)
    [range(0, 2), range(2, 5)]
    """
    if count < 1 or parts < 1:
        raise ValueError(f"{count} blocks of rows in {parts} parts: there must be at least one of each")
    parts = min(count, parts)
    return [range(count * n // parts, count * (n + 1) // parts) for n in range(parts)]


def _named(numbers: range) -> str:
    return f"blocks {numbers.start} to {numbers.stop - 1}"


# ---------------------------------------------------------------------------------- what a task does with its blocks


def _factor(blocks: RowBlocks, numbers: range, keep: int | None) -> CentredFactor:
    state = None
    for number in numbers:
        added = moments.factor_of(read_block(blocks, number))
        state = added if state is None else moments.merged_factors(state, added)
        if keep is not None:
            state = moments.cut(state, keep)
    assert state is not None
    return state


def _moments(blocks: RowBlocks, numbers: range) -> Moments:
    return reduce(moments.merged_moments, (moments.moments_of(read_block(blocks, number)) for number in numbers))


def _sketch(blocks: RowBlocks, numbers: range, basis: Floats) -> Sketch:
    sketches = (moments.sketch_of(read_block(blocks, number), basis) for number in numbers)
    return reduce(lambda a, b: moments.merged_sketches(a, b, basis), sketches)


def _projected(blocks: RowBlocks, numbers: range, basis: Floats) -> CentredFactor:
    factors = (moments.factor_of(_in(basis, read_block(blocks, number))) for number in numbers)
    return reduce(moments.merged_factors, factors)


def _in(basis: Floats, rows: Floats) -> Floats:
    moments.check_columns(rows.shape[1], len(basis))
    return np.asarray(rows @ basis)


def _classes(blocks: RowBlocks, labels: RowBlocks, numbers: range) -> ClassMoments:
    groups = (lda.class_moments(read_block(blocks, number), np.asarray(labels.block(number))) for number in numbers)
    return reduce(lda.merged_classes, groups)


def _scaling(given: Floats, dimensions: int, seed: int, number: int, max_iterations: int, tolerance: float) -> Scaling:
    start = mds.start_points(len(given), dimensions, seed, number)
    return mds.smacof(given, start, number, max_iterations, tolerance)


def _candidates(blocks: RowBlocks, numbers: range, count: int, seed: int) -> Floats:
    """Return some rows of each block, chosen by chance."""
    found = []
    for number in numbers:
        rows = read_block(blocks, number)
        chance = np.random.default_rng([seed, number])
        found.append(rows[np.sort(chance.choice(len(rows), min(count, len(rows)), replace=False))])
    return np.vstack(found)


def _triangulated(blocks: RowBlocks, numbers: range, landmarks: Landmarks) -> Floats:
    return np.vstack([mds.triangulated(landmarks, read_block(blocks, number)) for number in numbers])


# --------------------------------------------------------------------------------------------------------------- plans


class PcaPlan(PhasedPlan):
    """Principal components in one phase; the result is a `Pca`.

    Args:
        method: "tsqr": exact; "moments": exact, half the time, fewer digits of small components; "incremental": keeps
            `keep` directions only, so that a task's result is small for any number of columns.
        keep: directions that "incremental" keeps; by default as many as components.
    """

    def __init__(
        self, blocks: Data, components: int, method: str = "tsqr", parts: int = PARTS, keep: int | None = None
    ) -> None:
        blocks = as_blocks(blocks, parts)
        if method not in PCA_METHODS[:3]:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(PCA_METHODS[:3])}")
        if method != "incremental" and keep is not None:
            raise ValueError(f"keep={keep} is for the method 'incremental': {method!r} keeps all directions")
        if keep is not None and keep < components:
            raise ValueError(f"keep={keep} is less than the {components} components")
        self.blocks, self.components, self.method = blocks, index(components), method
        self.parts = divided(blocks.count, parts)
        self.keep = (keep or components) if method == "incremental" else None

    def begin(self) -> Sequence[PhaseTask]:
        if self.method == "moments":
            work: list[tuple[Any, ...]] = [(_moments, self.blocks, numbers) for numbers in self.parts]
        else:
            work = [(_factor, self.blocks, numbers, self.keep) for numbers in self.parts]
        return [PhaseTask(_named(each[2]), n, *each) for n, each in enumerate(work)]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        if self.method == "moments":
            self.result = pca.pca_of_moments(reduce(moments.merged_moments, results), self.components)
        else:
            self.result = pca.pca_of_factor(reduce(moments.merged_factors, results), self.components)
        return ()


class RandomisedPcaPlan(PhasedPlan):
    """Principal components in `passes` + 1 phases, without a matrix of columns x columns; the result is a `Pca`.

    Each pass multiplies a random basis by the scatter, which turns it towards the largest components (N. Halko, P.
    Martinsson & J. Tropp, Finding structure with randomness, SIAM Rev. 53, 217, 2011); the last phase computes the
    components within the basis.

    Args:
        oversampling: columns of the basis besides the components.
    """

    def __init__(
        self,
        blocks: Data,
        components: int,
        passes: int = 4,
        oversampling: int = 10,
        seed: int = 0,
        parts: int = PARTS,
    ) -> None:
        blocks = as_blocks(blocks, parts)
        if passes < 1 or components < 1 or oversampling < 0:
            raise ValueError(f"{passes} passes, {components} components, {oversampling} columns besides: too few")
        self.blocks, self.components, self.passes, self.seed = blocks, index(components), passes, seed
        self.width = components + oversampling
        self.parts = divided(blocks.count, parts)
        self.basis: Floats | None = None

    def begin(self) -> Sequence[PhaseTask]:
        self.sketch: Sketch | None = None
        self.done = 0
        columns = read_block(self.blocks, 0).shape[1]
        if self.components > columns:
            raise ValueError(f"{self.components} components of {columns} columns: choose fewer")
        start = np.random.default_rng(self.seed).normal(size=(columns, min(self.width, columns)))
        return self._pass(start)

    def _pass(self, start: Floats) -> Sequence[PhaseTask]:
        self.basis = np.linalg.qr(start)[0]
        function = _sketch if self.done < self.passes else _projected
        name = f"pass {self.done + 1}" if self.done < self.passes else "components"
        return [
            PhaseTask(f"{name}, {_named(numbers)}", n, function, self.blocks, numbers, self.basis)
            for n, numbers in enumerate(self.parts)
        ]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        basis = self.basis
        assert basis is not None
        if self.done < self.passes:
            self.done += 1
            self.sketch = reduce(lambda a, b: moments.merged_sketches(a, b, basis), results)
            return self._pass(self.sketch.product)
        assert self.sketch is not None
        factor = reduce(moments.merged_factors, results)
        self.result = pca.pca_in_basis(factor, self.sketch.mean, self.sketch.total, basis, self.components)
        return ()


class LdaPlan(PhasedPlan):
    """Linear discriminants in one phase; the result is an `Lda`. The labels are in blocks of the same sizes."""

    def __init__(self, blocks: Data, labels: Data, components: int | None = None, parts: int = PARTS) -> None:
        if hasattr(blocks, "__array__"):
            labels = np.asarray(labels)
        blocks, labels = as_blocks(blocks, parts), as_blocks(labels, parts)
        if blocks.count != labels.count:
            raise ValueError(f"{blocks.count} blocks of rows, but {labels.count} of labels")
        self.blocks, self.labels, self.components = blocks, labels, components
        self.parts = divided(blocks.count, parts)

    def begin(self) -> Sequence[PhaseTask]:
        return [
            PhaseTask(_named(numbers), n, _classes, self.blocks, self.labels, numbers)
            for n, numbers in enumerate(self.parts)
        ]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        self.result = lda.lda_of(reduce(lda.merged_classes, results), self.components)
        return ()


class MdsPlan(PhasedPlan):
    """SMACOF from several starts, a task for each; the result is the `Scaling` with the least stress.

    `scalings` then has all of them. The distances are sent once to each machine, not once per task.
    """

    def __init__(
        self,
        given: Floats,
        dimensions: int = 2,
        starts: int = 8,
        seed: int = 0,
        max_iterations: int = 300,
        tolerance: float = 1e-6,
    ) -> None:
        if starts < 1 or dimensions < 1:
            raise ValueError(f"{starts} starts in {dimensions} dimensions: there must be at least one")
        given = np.asarray(given, dtype=np.float64)
        mds.check_distances(given)
        self.given, self.dimensions, self.starts, self.seed = given, dimensions, starts, seed
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.scalings: list[Scaling] = []

    def begin(self) -> Sequence[PhaseTask]:
        fixed = (self.given, self.dimensions, self.seed)
        return [
            PhaseTask(f"start {n}", n, _scaling, *fixed, n, self.max_iterations, self.tolerance)
            for n in range(self.starts)
        ]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        self.scalings = results
        self.result = mds.best(results)
        return ()


class LandmarkMdsPlan(PhasedPlan):
    """Places of many points, in two phases: choose and place landmarks, then all points; the result is their matrix.

    Args:
        candidates: rows of each block of which the landmarks are chosen.
    """

    def __init__(
        self,
        blocks: Data,
        dimensions: int = 2,
        landmarks: int = 50,
        candidates: int = 20,
        seed: int = 0,
        parts: int = PARTS,
    ) -> None:
        blocks = as_blocks(blocks, parts)
        if landmarks <= dimensions or dimensions < 1:
            raise ValueError(f"{landmarks} landmarks for {dimensions} dimensions: there must be more of them")
        self.blocks, self.dimensions, self.landmarks = blocks, dimensions, landmarks
        self.candidates, self.seed = candidates, seed
        self.parts = divided(blocks.count, parts)
        self.placed: Landmarks | None = None

    def begin(self) -> Sequence[PhaseTask]:
        self.placed = None
        return [
            PhaseTask(f"candidates {n}", n, _candidates, self.blocks, numbers, self.candidates, self.seed)
            for n, numbers in enumerate(self.parts)
        ]

    def proceed(self, results: list[Any]) -> Sequence[PhaseTask]:
        if self.placed is not None:
            self.result = np.vstack(results)
            return ()
        rows = np.vstack(results)
        if len(rows) < self.landmarks:
            raise ValueError(f"{self.landmarks} landmarks, but only {len(rows)} candidates: give more candidates")
        chosen = rows[mds.farthest(rows, self.landmarks)]
        self.placed = mds.placed_landmarks(chosen, self.dimensions)
        return [
            PhaseTask(f"points {n}", n, _triangulated, self.blocks, numbers, self.placed)
            for n, numbers in enumerate(self.parts)
        ]
