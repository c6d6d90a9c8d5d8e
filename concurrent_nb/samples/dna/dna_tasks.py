"""The tasks of the DNA samples, and the task systems that combine their results.

numpy is imported where it is used: the package does not depend on it, and `concurrent-nb run` lists samples without it.
"""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from concurrent_nb.samples.dna.wedge_models import MODELS
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task

if TYPE_CHECKING:
    from concurrent_nb.samples.dna.helix import Floats


class Dna(NamedTuple):
    """What is computed: a sequence, the name of a model, and how many nucleotides or steps a task has."""

    sequence: str
    model: str
    factor: int

    @property
    def cuts(self) -> range:
        """Return the first nucleotide of each chunk."""
        return range(0, len(self.sequence), self.factor)

    @property
    def block_cuts(self) -> range:
        """Return the first step of each block; there is one step fewer than nucleotides."""
        return range(0, len(self.sequence) - 1, self.factor)

    def block_size(self, first: int) -> int:
        """Return the number of steps of a block."""
        return min(self.factor, len(self.sequence) - 1 - first)


# ------------------------------------------------------------------------------------------------ curvature in chunks


class CurvatureTask(Task):
    """Computes the measures of `size` nucleotides from some letters more; its result is (first, measures)."""

    def __init__(self, dna: Dna, first: int) -> None:
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        super().__init__(f"curvature {first}")
        self.first = first
        self.size = min(dna.factor, len(dna.sequence) - first)
        self.model = dna.model
        self.text, self.before, self.is_last = helix.chunk_text(dna.sequence, first, self.size, MODELS[dna.model])

    def __call__(self) -> "tuple[int, Floats]":
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        return self.first, helix.chunk_profile(self.text, self.before, self.size, self.is_last, MODELS[self.model])


def curvature_tasks(dna: Dna) -> Iterator[CurvatureTask]:
    """Yield a task for each chunk."""
    return (CurvatureTask(dna, first) for first in dna.cuts)


def joined(chunks: "Iterable[tuple[int, Floats]]", length: int) -> "Floats":
    """Return the profile of the whole sequence from its chunks, which come in any order."""
    import numpy as np

    whole = np.zeros((3, length))
    for first, measures in chunks:
        whole[:, first : first + measures.shape[1]] = measures
    return whole


class CurvatureSystem(ITaskSystem):
    """Collects the chunks as they come."""

    def __init__(self, dna: Dna) -> None:
        self.dna = dna

    def init_system(self, master: MasterHandle) -> None:
        self.whole = joined((), len(self.dna.sequence))

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return curvature_tasks(self.dna)

    def task_finished(
        self, master: MasterHandle, task: Task, result: "tuple[int, Floats]", error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        first, measures = result
        self.whole[:, first : first + measures.shape[1]] = measures
        return None

    def gather_result(self, master: MasterHandle) -> "Floats":
        return self.whole


# ---------------------------------------------------------------------------------------- coordinates, in two phases


class BlockProductTask(Task):
    """Phase 1: multiplies the matrices of a block of steps; its result is (first, product)."""

    def __init__(self, dna: Dna, first: int) -> None:
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        super().__init__(f"product {first}")
        self.first = first
        self.size = dna.block_size(first)
        self.model = dna.model
        self.text = helix.block_text(dna.sequence, first, self.size, MODELS[dna.model])

    def __call__(self) -> "tuple[int, Floats]":
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        return self.first, helix.block_product(self.text, self.size, MODELS[self.model])


class BlockCoordinatesTask(Task):
    """Phase 2: computes the points of a block; its result is (first, coordinates)."""

    def __init__(self, dna: Dna, first: int, carry: "Floats") -> None:
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        super().__init__(f"coordinates {first}")
        self.first = first
        self.size = dna.block_size(first)
        self.model = dna.model
        self.text = helix.block_text(dna.sequence, first, self.size, MODELS[dna.model])
        self.carry = carry
        self.is_last = first + self.size == len(dna.sequence) - 1

    def __call__(self) -> "tuple[int, Floats]":
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        model = MODELS[self.model]
        return self.first, helix.block_coordinates(self.text, self.size, model, self.carry, self.is_last)


class CoordinatesSystem(ITaskSystem):
    """A parallel scan: products of blocks, then coordinates of blocks; its result has the shape (4, n, 3).

    The tasks of the second phase need the products of all blocks after theirs, so they are made when the first phase
    has ended.
    """

    def __init__(self, dna: Dna) -> None:
        self.dna = dna

    def init_system(self, master: MasterHandle) -> None:
        self.products: dict[int, Floats] = {}
        self.blocks: dict[int, Floats] = {}

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return (BlockProductTask(self.dna, first) for first in self.dna.block_cuts)

    def task_finished(
        self, master: MasterHandle, task: Task, result: "tuple[int, Floats]", error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        first, array = result
        if isinstance(task, BlockCoordinatesTask):
            self.blocks[first] = array
            return None
        self.products[first] = array
        return self._second_phase() if len(self.products) == len(self.dna.block_cuts) else None

    def _second_phase(self) -> Iterator[Task]:
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        cuts = self.dna.block_cuts
        carries = helix.suffix_carries([self.products[first] for first in cuts])
        return (BlockCoordinatesTask(self.dna, first, carry) for first, carry in zip(cuts, carries, strict=True))

    def gather_result(self, master: MasterHandle) -> "Floats":
        import numpy as np

        return np.concatenate([self.blocks[first] for first in self.dna.block_cuts], axis=1)


# ------------------------------------------------------------------------------------------------ the thesis's own way


class NaiveTotals(NamedTuple):
    """What is kept of the results: how many, how large, and the sum of all their numbers."""

    tasks: int
    result_bytes: int
    checksum: float


class NaiveTask(Task):
    """Moves the first i + 1 base pairs by step i, all from the start position; its result are the moved points.

    So the steps do not add up, and no helix comes of it. The arguments and the result grow with i: for the 10,000
    nucleotides of the thesis they are 6.4 GB in each direction. A task has `factor` steps.
    """

    def __init__(self, first: int, work: "list[tuple[Floats, Floats]]") -> None:
        super().__init__(f"naive {first}")
        self.work = work

    def __call__(self) -> "list[Floats]":
        return [points @ matrix for points, matrix in self.work]


def naive_tasks(dna: Dna) -> Iterator[NaiveTask]:
    """Yield a task for each `factor` steps."""
    import numpy as np

    from concurrent_nb.samples.dna import helix  # here: it needs numpy

    matrices, start = helix.step_matrices(dna.sequence, MODELS[dna.model]), helix.start_points()[:, None, :]
    for first in dna.block_cuts:
        steps = range(first, first + dna.block_size(first))
        yield NaiveTask(first, [(np.repeat(start, step + 1, axis=1), matrices[step].copy()) for step in steps])


def naive_checksum(dna: Dna) -> float:
    """Return the checksum that the results must have."""
    from concurrent_nb.samples.dna import helix  # here: it needs numpy

    matrices = helix.step_matrices(dna.sequence, MODELS[dna.model])
    sums = (helix.start_points() @ matrices).sum(axis=(1, 2))
    return math.fsum((step + 1) * float(each) for step, each in enumerate(sums))


class NaiveSum:
    """Adds up results, which are dropped one by one. `fsum` rounds once, so their order makes no difference."""

    def __init__(self) -> None:
        self.tasks = 0
        self.result_bytes = 0
        self.sums: list[float] = []

    def add(self, moved: "list[Floats]") -> None:
        """Add the result of a task."""
        self.tasks += 1
        self.result_bytes += sum(each.nbytes for each in moved)
        self.sums += [float(each.sum()) for each in moved]

    def totals(self) -> NaiveTotals:
        """Return what has been added."""
        return NaiveTotals(self.tasks, self.result_bytes, math.fsum(self.sums))


class NaiveSystem(ITaskSystem):
    """Adds up the results of thousands of tasks; its memory does not grow with their size."""

    def __init__(self, dna: Dna) -> None:
        self.dna = dna

    def init_system(self, master: MasterHandle) -> None:
        self.sum = NaiveSum()

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return naive_tasks(self.dna)

    def task_finished(
        self, master: MasterHandle, task: Task, result: "list[Floats]", error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        self.sum.add(result)
        return None

    def gather_result(self, master: MasterHandle) -> NaiveTotals:
        return self.sum.totals()
