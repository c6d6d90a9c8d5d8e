"""`concurrent-nb run pca`, `lda`, `mds` and `landmark-mds`.

The modules that need numpy are imported where they are used: the package does not depend on it, and `concurrent-nb run`
lists samples without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.config import ChoiceItem, IntItem, TextItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.phased_plan import PhasedPlan, PhasedSystem
from concurrent_nb.samples.sample import Sample, Show

if TYPE_CHECKING:
    from concurrent_nb.samples.data_analysis.lda import Lda
    from concurrent_nb.samples.data_analysis.mds import Scaling
    from concurrent_nb.samples.data_analysis.pca import Pca
    from concurrent_nb.samples.data_analysis.row_blocks import Floats, NpyRows, SyntheticRows


class AnalysisSample(Sample):
    """Base class of the data analysis samples: made-up data, and a plan for them.

    They run as task systems only: what a phase computes is known when the phase before has ended.
    """

    ways: ClassVar[tuple[str, ...]] = ("system",)
    packages: ClassVar[tuple[str, ...]] = ("numpy",)

    rows = IntItem(100_000, min=2, help="Rows of made-up data.")
    columns = IntItem(50, min=1, help="Columns of made-up data.")
    block_rows = IntItem(5_000, min=1, help="Rows that a task has in memory at a time.")
    parts = IntItem(16, min=1, help="Largest number of tasks of a phase; each handles its blocks one after the other.")
    seed = IntItem(0, min=0, help="Seed of made-up data, of starts and of random choices.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        try:
            self.plan = self._plan()
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"{type(self).__name__} cannot run: {error}") from error

    def _plan(self) -> PhasedPlan:
        """Return the plan. May raise ValueError."""
        raise NotImplementedError

    def answer(self, app: ApplicationNode, way: str, show: Show = lambda line: None) -> Any:
        """Run as others do. Raises ConfigurationError for data that do not fit, as it does for options."""
        try:
            return super().answer(app, way, show)
        except ValueError as error:
            raise ConfigurationError(f"{type(self).__name__} cannot run: {error}") from error

    def made(self, classes: int = 1) -> "SyntheticRows":
        """Return made-up data."""
        from concurrent_nb.samples.data_analysis.row_blocks import SyntheticRows  # here: it needs numpy

        return SyntheticRows(self.rows, self.columns, self.block_rows, classes=classes, seed=self.seed)

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.rows // self.block_rows)

    @property
    def count(self) -> int:
        return min(self.parts, self.blocks)

    def system(self) -> PhasedSystem:
        return PhasedSystem(self.plan)


class PcaSample(AnalysisSample):
    """Principal components of data that are larger than a worker's memory.

    The methods "tsqr" and "moments" are exact, "incremental" keeps only some directions, and "randomised" reads the
    data several times.
    """

    method = ChoiceItem(
        "tsqr",
        ("tsqr", "moments", "incremental", "randomised"),
        help="Method: tsqr is exact, moments is faster, incremental and randomised need less memory.",
    )
    components = IntItem(5, min=1, help="Number of components.")
    passes = IntItem(4, min=1, help="How often the randomised method reads the data to improve its basis.")
    keep = IntItem(20, min=1, help="Directions that the incremental method keeps.")
    file = TextItem("", help="A .npy file that all workers can read, instead of made-up data.")

    def source(self) -> "NpyRows | SyntheticRows":
        """Return the data."""
        from concurrent_nb.samples.data_analysis.row_blocks import NpyRows  # here: it needs numpy

        return NpyRows(Path(self.file).resolve(), self.block_rows) if self.file else self.made()

    def _plan(self) -> PhasedPlan:
        from concurrent_nb.samples.data_analysis.analysis_plans import (  # here: it needs numpy
            PcaPlan,
            RandomisedPcaPlan,
        )

        if self.method == "randomised":
            return RandomisedPcaPlan(self.source(), self.components, self.passes, seed=self.seed, parts=self.parts)
        keep = self.keep if self.method == "incremental" else None
        return PcaPlan(self.source(), self.components, self.method, self.parts, keep)

    @property
    def blocks(self) -> int:
        return self.source().count

    @property
    def count(self) -> int:
        return super().count * (self.passes + 1 if self.method == "randomised" else 1)

    def describe(self, answer: "Pca", elapsed_s: float) -> str:
        lines = [
            f"component {number}: variance {variance:.6g}, {100 * ratio:.2f} % of all"
            for number, (variance, ratio) in enumerate(
                zip(answer.explained_variance.tolist(), answer.explained_variance_ratio.tolist(), strict=True), 1
            )
        ]
        size = f"{answer.count} rows of {len(answer.mean)} columns in {self.blocks} blocks, {self.method}"
        return "\n".join([*lines, f"{size} ({elapsed_s:.2f} s)"])


class LdaSample(AnalysisSample):
    """Linear discriminants of labelled data that are larger than a worker's memory."""

    classes = IntItem(4, min=2, help="Number of classes.")

    def _plan(self) -> PhasedPlan:
        from concurrent_nb.samples.data_analysis.analysis_plans import LdaPlan  # here: it needs numpy

        data = self.made(self.classes)
        return LdaPlan(data, data.labels, parts=self.parts)

    def describe(self, answer: "Lda", elapsed_s: float) -> str:
        data = self.made(self.classes)
        right = float((answer.predict(data.block(0)) == data.labels.block(0)).mean())
        ratios = ", ".join(f"{100 * ratio:.2f} %" for ratio in answer.explained_variance_ratio.tolist())
        size = f"{self.rows} rows of {self.columns} columns, {self.classes} classes ({elapsed_s:.2f} s)"
        return f"discriminants: {ratios}\n{100 * right:.1f} % of the first block classified right\n{size}"


class MdsSample(AnalysisSample):
    """Multidimensional scaling by SMACOF, from several starts at once; the best one is kept."""

    rows = IntItem(300, min=2, help="Number of points.")
    dimensions = IntItem(2, min=1, help="Dimensions of the result.")
    starts = IntItem(8, min=1, help="Number of starts, a task for each.")
    iterations = IntItem(300, min=1, help="Largest number of iterations from each start.")

    def _plan(self) -> PhasedPlan:
        import numpy as np

        from concurrent_nb.samples.data_analysis import analysis_plans, mds  # here: it needs numpy

        data = self.made(3)
        rows = np.concatenate([data.block(number) for number in range(data.count)])
        given = mds.distances(rows, rows)
        np.fill_diagonal(given, 0)
        return analysis_plans.MdsPlan(given, self.dimensions, self.starts, self.seed, self.iterations)

    @property
    def count(self) -> int:
        return self.starts

    def describe(self, answer: "Scaling", elapsed_s: float) -> str:
        best = f"start {answer.start} has the least stress, {answer.stress:.6g}, after {answer.iterations} iterations"
        return f"{best}\n{self.rows} points, {self.starts} starts ({elapsed_s:.2f} s)"


class LandmarkMdsSample(AnalysisSample):
    """Multidimensional scaling of many points, by their distances to a few landmarks."""

    dimensions = IntItem(2, min=1, help="Dimensions of the result.")
    landmarks = IntItem(50, min=2, help="Number of landmarks.")

    def _plan(self) -> PhasedPlan:
        from concurrent_nb.samples.data_analysis.analysis_plans import LandmarkMdsPlan  # here: it needs numpy

        return LandmarkMdsPlan(self.made(3), self.dimensions, self.landmarks, seed=self.seed, parts=self.parts)

    @property
    def count(self) -> int:
        return 2 * super().count

    def describe(self, answer: "Floats", elapsed_s: float) -> str:
        spread = ", ".join(f"{each:.6g}" for each in answer.std(axis=0).tolist())
        return f"{len(answer)} points by {self.landmarks} landmarks, spread {spread} ({elapsed_s:.2f} s)"
