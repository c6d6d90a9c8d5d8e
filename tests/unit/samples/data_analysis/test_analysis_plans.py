"""Plans against scikit-learn: the same numbers, up to signs and rotation, and the same however the rows are cut."""

import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.manifold import smacof as their_smacof

from concurrent_nb.samples.data_analysis import mds
from concurrent_nb.samples.data_analysis.analysis_plans import (
    LandmarkMdsPlan,
    LdaPlan,
    MdsPlan,
    PcaPlan,
    RandomisedPcaPlan,
    divided,
)
from concurrent_nb.samples.data_analysis.pca import Pca
from concurrent_nb.samples.data_analysis.row_blocks import ArrayRows, NpyRows, SyntheticRows
from concurrent_nb.samples.phased_plan import PhasedPlan, PhaseTask, run_plan

MADE = SyntheticRows(rows=500, columns=12, block_rows=64, rank=4, classes=3, seed=7)
ROWS = np.concatenate([MADE.block(number) for number in range(MADE.count)])
LABELS = np.concatenate([MADE.labels.block(number) for number in range(MADE.count)])


def same_as_theirs(ours: Pca, theirs: Any, tolerance: float) -> None:
    assert_allclose(ours.mean, theirs.mean_, atol=tolerance)
    assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=tolerance)
    assert_allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=tolerance)
    assert_allclose(ours.singular_values, theirs.singular_values_, rtol=tolerance)
    signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    assert_allclose(ours.components, theirs.components_ * signs[:, None], atol=tolerance)
    assert_allclose(ours.transform(ROWS), theirs.transform(ROWS) * signs, atol=100 * tolerance)
    largest = np.abs(ours.components).argmax(axis=1)
    assert (ours.components[np.arange(len(largest)), largest] > 0).all()


# ----------------------------------------------------------------------------------------------------------------- pca


@pytest.mark.parametrize("method", ["tsqr", "moments"])
@pytest.mark.parametrize(("block_rows", "parts"), [(500, 1), (64, 3), (7, 16), (1, 500)])
def test_exact_pca_is_scikit_learn_s(method: str, block_rows: int, parts: int) -> None:
    ours = run_plan(None, PcaPlan(ArrayRows(ROWS, block_rows), 6, method, parts))
    same_as_theirs(ours, PCA(6, svd_solver="full").fit(ROWS), 1e-8)


def test_incremental_pca_is_scikit_learn_s() -> None:
    ours = run_plan(None, PcaPlan(ArrayRows(ROWS, 100), 5, "incremental", parts=1))
    same_as_theirs(ours, IncrementalPCA(5, batch_size=100).fit(ROWS), 1e-8)


@pytest.mark.parametrize("parts", [2, 8])
def test_incremental_pca_in_parts_is_exact_if_it_keeps_all_and_near_if_not(parts: int) -> None:
    theirs = PCA(3, svd_solver="full").fit(ROWS)
    exact = run_plan(None, PcaPlan(MADE, 3, "incremental", parts, keep=12))
    same_as_theirs(exact, theirs, 1e-8)
    near = run_plan(None, PcaPlan(MADE, 3, "incremental", parts, keep=6))
    assert_allclose(near.explained_variance, theirs.explained_variance_, rtol=1e-3)


def test_randomised_pca_comes_near_with_few_passes_and_exact_with_more() -> None:
    theirs = PCA(3, svd_solver="full").fit(ROWS)
    near = run_plan(None, RandomisedPcaPlan(MADE, 3, passes=2, oversampling=3))
    assert_allclose(near.explained_variance, theirs.explained_variance_, rtol=1e-3)
    same_as_theirs(run_plan(None, RandomisedPcaPlan(MADE, 3, passes=40, oversampling=5)), theirs, 1e-8)


def test_randomised_pca_depends_on_its_seed_only() -> None:
    one, same, other = (run_plan(None, RandomisedPcaPlan(MADE, 3, 1, 0, seed)) for seed in (1, 1, 2))
    assert (one.components == same.components).all()
    assert (one.components != other.components).any()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_mean_costs_no_digits(offset: float) -> None:
    theirs = PCA(4, svd_solver="full").fit(ROWS)
    for plan in (
        PcaPlan(ArrayRows(ROWS + offset, 50), 4, "tsqr"),
        PcaPlan(ArrayRows(ROWS + offset, 50), 4, "moments"),
        RandomisedPcaPlan(ArrayRows(ROWS + offset, 50), 4, passes=40),
    ):
        assert_allclose(run_plan(None, plan).singular_values, theirs.singular_values_, rtol=1e-8)


@pytest.mark.parametrize("method", ["tsqr", "moments"])
def test_data_of_other_kinds_give_the_same(method: str, tmp_path: Path) -> None:
    def found(data: Any, rows: Any = ROWS) -> None:
        same_as_theirs(run_plan(None, PcaPlan(data, 3, method)), PCA(3, svd_solver="full").fit(rows), 1e-8)

    np.save(tmp_path / "rows.npy", ROWS)
    for data in (ROWS, pandas.DataFrame(ROWS), np.load(tmp_path / "rows.npy", mmap_mode="r")):
        found(data)
    found([ROWS[:1], ROWS[1:1], ROWS[1:400], ROWS[400:].tolist()])
    single = ROWS.astype(np.float32)
    found(single, single.astype(np.float64))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_named(value: float) -> None:
    rows = ROWS.copy()
    rows[70, 3] = rows[80, 5] = value
    blocks = ArrayRows(rows, 50)
    plans: list[PhasedPlan] = [
        PcaPlan(blocks, 2),
        RandomisedPcaPlan(blocks, 2),
        LdaPlan(blocks, ArrayRows(LABELS, 50)),
        LandmarkMdsPlan(blocks, candidates=50),
    ]
    expected = f"block 1 has {value} in row 20, column 3 (2 of its values are no finite numbers): fill them, or leave"
    for plan in plans:
        with pytest.raises(ValueError, match=re.escape(expected)):
            run_plan(None, plan)


def test_an_iterator_is_no_data() -> None:
    with pytest.raises(
        TypeError, match=r"a list_iterator is no data in blocks: give a matrix, .* instead of an iterator"
    ):
        PcaPlan(iter([ROWS]), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PcaPlan(MADE, 3, "qr"), "unknown method 'qr': choose one of tsqr, moments, incremental"),
        (lambda: PcaPlan(MADE, 3, "incremental", keep=2), "keep=2 is less than the 3 components"),
        (lambda: PcaPlan(MADE, 3, keep=4), "keep=4 is for the method 'incremental'"),
        (lambda: PcaPlan(MADE, 3, parts=0), "8 blocks of rows in 0 parts"),
        (lambda: RandomisedPcaPlan(MADE, 3, passes=0), "0 passes"),
        (lambda: LdaPlan(MADE, ArrayRows(LABELS, 500)), "8 blocks of rows, but 1 of labels"),
        (lambda: MdsPlan(np.ones((3, 2))), "must be a square matrix"),
        (lambda: MdsPlan(np.ones((3, 3))), "0 on the diagonal"),
        (lambda: MdsPlan(np.zeros((3, 3)), starts=0), "0 starts in 2 dimensions"),
        (lambda: LandmarkMdsPlan(MADE, 2, landmarks=2), "2 landmarks for 2 dimensions"),
    ],
)
def test_plans_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PcaPlan(MADE, 13), "13 components of 500 rows with 12 columns: choose fewer"),
        (RandomisedPcaPlan(MADE, 13), "13 components of 12 columns"),
        (LdaPlan(MADE, MADE.labels, 3), "3 discriminants of 3 classes: choose 1 to 2"),
        (LdaPlan(ArrayRows(ROWS, 500), ArrayRows(LABELS[:7], 500)), "labels of shape"),
        (LdaPlan(ArrayRows(ROWS, 500), ArrayRows(0 * LABELS, 500)), "discriminants need two classes or more"),
        (LdaPlan(ArrayRows(ROWS * 0, 500), ArrayRows(LABELS, 500)), "within the 3 classes of 500 rows a column"),
        (PcaPlan([ROWS, ROWS[:, :5]], 2), "one block has 12 columns, and another one 5"),
        (RandomisedPcaPlan([ROWS, ROWS[:, :5]], 2), "one block has 5 columns, and another one 12"),
        (PcaPlan([ROWS, ROWS[0]], 2), r"block 1 has the shape \(12,\): it must be a matrix"),
        (PcaPlan(ROWS.astype(complex), 2), "block 0 has values of type complex128: they must be real numbers"),
        (LdaPlan(ROWS, np.where(LABELS == 1, np.nan, LABELS)), "a label is NaN"),
        (LdaPlan([ROWS, ROWS], [LABELS, LABELS.astype(str)]), "labels are of types that have no order"),
        (LandmarkMdsPlan(MADE, 2, 200, candidates=1), "200 landmarks, but only 8 candidates"),
        (LandmarkMdsPlan(ArrayRows(np.ones((90, 2)), 9), 1, 30), "30 landmarks of 1 different rows"),
        (LandmarkMdsPlan(ArrayRows(np.arange(90.0)[:, None], 9), 2, 30), "do not span 2 dimensions"),
    ],
)
def test_data_that_do_not_fit_are_refused_while_it_runs(plan: PhasedPlan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_plan(None, plan)


# ----------------------------------------------------------------------------------------------------------------- lda


@pytest.mark.parametrize(("block_rows", "parts"), [(500, 1), (64, 3), (7, 16)])
def test_lda_is_scikit_learn_s(block_rows: int, parts: int) -> None:
    plan = LdaPlan(ArrayRows(ROWS, block_rows), ArrayRows(LABELS, block_rows), parts=parts)
    ours = run_plan(None, plan)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(ROWS, LABELS)
    assert_allclose(ours.priors, theirs.priors_, rtol=1e-12)
    assert_allclose(ours.means, theirs.means_, atol=1e-8)
    assert_allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-8)
    signs = np.sign((ours.scalings * theirs.scalings_[:, :2]).sum(axis=0))
    assert_allclose(ours.scalings, theirs.scalings_[:, :2] * signs, atol=1e-8)
    assert (ours.predict(ROWS) == theirs.predict(ROWS)).all()
    assert (ours.predict(ROWS) == LABELS).mean() > 0.9


def test_classes_may_be_missing_in_blocks_and_have_names() -> None:
    order = np.argsort(LABELS, kind="stable")
    names = np.array(["auk", "murre", "puffin"])[LABELS[order]]
    ours = run_plan(None, LdaPlan(ArrayRows(ROWS[order], 50), ArrayRows(names, 50)))
    mixed = run_plan(None, LdaPlan(MADE, MADE.labels))
    assert ours.classes.tolist() == ["auk", "murre", "puffin"]
    assert_allclose(ours.scalings, mixed.scalings, atol=1e-10)


# ----------------------------------------------------------------------------------------------------------------- mds

DISTANCES = mds.distances(ROWS[:40], ROWS[:40])
np.fill_diagonal(DISTANCES, 0)


def test_smacof_is_scikit_learn_s_step_by_step() -> None:
    start = mds.start_points(40, 2, seed=3, number=5)
    for steps in (1, 10):
        ours = mds.smacof(DISTANCES, start, 5, steps, tolerance=0.0)
        theirs = their_smacof(DISTANCES, n_components=2, init=start, n_init=1, max_iter=steps, eps=0.0)[0]
        assert_allclose(ours.points, theirs, atol=1e-8)
        assert (ours.iterations, ours.start) == (steps, 5)


def test_mds_takes_the_start_with_the_least_stress() -> None:
    plan = MdsPlan(DISTANCES, starts=5, seed=1)
    found = run_plan(None, plan)
    stresses = [scaling.stress for scaling in plan.scalings]
    assert found.stress == min(stresses) < max(stresses)
    assert [scaling.start for scaling in plan.scalings] == [0, 1, 2, 3, 4]
    theirs = their_smacof(DISTANCES, n_components=2, n_init=5, random_state=0, eps=1e-6)[1]
    assert found.stress < 1.02 * theirs
    again = run_plan(None, MdsPlan(DISTANCES, starts=5, seed=1))
    assert (again.points == found.points).all()


def test_smacof_stops_when_a_step_gains_little() -> None:
    start = mds.start_points(40, 2, 0, 0)
    early, late = (mds.smacof(DISTANCES, start, tolerance=tolerance) for tolerance in (1e-2, 1e-7))
    assert early.iterations < late.iterations < 300
    assert late.stress < early.stress


@pytest.mark.parametrize("parts", [1, 5, 16])
def test_landmark_mds_of_flat_data_is_exact(parts: int) -> None:
    flat = np.random.default_rng(5).normal(size=(300, 2))
    turn, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(9, 9)))
    rows = flat @ turn[:2] + 7
    points = run_plan(None, LandmarkMdsPlan(ArrayRows(rows, 20), 2, landmarks=10, parts=parts))
    assert points.shape == (300, 2)
    assert_allclose(mds.distances(points, points[::7]), mds.distances(rows, rows[::7]), atol=1e-7)


def test_landmarks_are_far_apart_and_classical_scaling_is_pca() -> None:
    chosen = mds.farthest(ROWS[:100], 5)
    between = mds.distances(ROWS[chosen], ROWS[chosen])[np.triu_indices(5, 1)]
    assert between.min() > np.median(mds.distances(ROWS[:100], ROWS[:100]))
    placed = mds.placed_landmarks(ROWS[:50], 3)
    scores = PCA(3, svd_solver="full").fit_transform(ROWS[:50])
    assert_allclose(np.abs(placed.points), np.abs(scores), atol=1e-8)
    assert_allclose(mds.triangulated(placed, ROWS[:50]), placed.points, atol=1e-8)


# ----------------------------------------------------------------------------------------------------------- the plans


class _Other:
    """An executor whose tasks have ended at once; `as_completed` gives such futures in any order."""

    def submit(self, function: Any, task: PhaseTask) -> Any:
        future: Future[Any] = Future()
        future.set_result(function(task))
        return future


def test_the_result_does_not_depend_on_who_runs_it(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    plans: list[Any] = [PcaPlan(blocks, 4) for blocks in (MADE, NpyRows(tmp_path / "rows.npy", 64))]
    one, other = run_plan(None, plans[0]), run_plan(_Other(), plans[1])  # type: ignore[arg-type]
    assert (one.components == other.components).all()


def test_blocks_are_divided_among_tasks() -> None:
    assert [list(numbers) for numbers in divided(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert len(divided(3, 16)) == 3
    names = [task.name for task in PcaPlan(MADE, 3, parts=2).begin()]
    assert names == ["blocks 0 to 3", "blocks 4 to 7"]


def test_a_failure_cancels_the_other_tasks_of_its_phase() -> None:
    futures: list[Future[Any]] = []

    class _Fails(_Other):
        def submit(self, function: Any, task: PhaseTask) -> Any:
            futures.append(Future())
            if task.number == 1:
                futures[-1].set_exception(MemoryError("all gone"))
            return futures[-1]

    with pytest.raises(MemoryError, match="all gone"):
        run_plan(_Fails(), PcaPlan(MADE, 3, parts=3))  # type: ignore[arg-type]
    assert [future.cancelled() for future in futures] == [True, False, True]
