"""The Mandelbrot set, with two kinds of tasks: one contains every point to compute, the other a range of columns.

Both make the same picture. Their sizes on the network differ by four orders of magnitude.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from concurrent_nb.components.config import BoolItem, IntItem
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import ITaskSystem, MasterHandle, Task

#: x -> the iteration counts of a column, from top to bottom
Columns = dict[int, "array[int]"]

MIN_X: Final = -2.0
MAX_X: Final = 1.0
MIN_Y: Final = -1.0
MAX_Y: Final = 1.0
SHADES: Final = " .:-=+*#%@"
PREVIEW: Final = (72, 24)


class Grid(NamedTuple):
    """The points of a picture, and the maximum number of iterations."""

    width: int
    height: int
    iters: int

    def real(self, x: int) -> float:
        """Return the real part of the points of a column."""
        return MIN_X + x * ((MAX_X - MIN_X) / self.width)

    def imag(self, y: int) -> float:
        """Return the imaginary part of the points of a row."""
        return MIN_Y + y * ((MAX_Y - MIN_Y) / self.height)


def escape(re: float, im: float, iters: int) -> int:
    """Return the number of iterations of z² + c until the point leaves the circle of radius 2, at most `iters`."""
    c = complex(re, im)
    z = 0j
    for i in range(iters):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag >= 4:
            return i
    return iters


class MandelbrotTask(Task):
    """The simple task: contains (x, y, re, im, iters) for each of its points, column by column."""

    def __init__(self, workload: list[tuple[int, int, float, float, int]]) -> None:
        super().__init__(f"mandelbrot {workload[0][0]}")
        self.workload = workload

    def __call__(self) -> Columns:
        columns: Columns = {}
        for x, _, re, im, iters in self.workload:
            columns.setdefault(x, array("H")).append(escape(re, im, iters))
        return columns


class MandelbrotTaskOptimized(Task):
    """The optimised task: contains a few numbers, and computes its points itself."""

    def __init__(self, start_x: int, stop_x: int, grid: Grid) -> None:
        super().__init__(f"mandelbrot {start_x}")
        self.start_x = start_x
        self.stop_x = stop_x
        self.grid = grid

    def __call__(self) -> Columns:
        grid = self.grid
        imags = [grid.imag(y) for y in range(grid.height)]
        columns: Columns = {}
        for x in range(self.start_x, self.stop_x):
            re = grid.real(x)
            columns[x] = array("H", [escape(re, im, grid.iters) for im in imags])
        return columns


def tasks(grid: Grid, factor: int, optimized: bool) -> Iterator[Task]:
    """Yield a task for each `factor` columns; the last task has the remaining ones."""
    for start_x in range(0, grid.width, factor):
        stop_x = min(start_x + factor, grid.width)
        if optimized:
            yield MandelbrotTaskOptimized(start_x, stop_x, grid)
        else:
            points = ((x, y) for x in range(start_x, stop_x) for y in range(grid.height))
            yield MandelbrotTask([(x, y, grid.real(x), grid.imag(y), grid.iters) for x, y in points])


class MandelbrotSystem(ITaskSystem):
    """Combines the columns."""

    def __init__(self, grid: Grid, factor: int, optimized: bool) -> None:
        self.grid = grid
        self.factor = factor
        self.optimized = optimized
        self.columns: Columns = {}

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return tasks(self.grid, self.factor, self.optimized)

    def task_finished(
        self, master: MasterHandle, task: Task, result: Columns, error: BaseException | None
    ) -> Iterable[Task] | None:
        if error is not None:
            raise error
        self.columns.update(result)
        return None

    def gather_result(self, master: MasterHandle) -> Columns:
        return self.columns


class MandelbrotSample(Sample):
    """A picture of the Mandelbrot set; each task computes some of its columns."""

    use_optimized_task = BoolItem(True, help="Tasks contain a few numbers; otherwise they contain all of their pixels.")
    factor = IntItem(1, min=1, help="Columns per task.")
    iters = IntItem(20, min=1, max=65535, help="Maximum number of iterations per pixel.")
    height = IntItem(1024, min=1, help="Height of the picture in pixels.")
    width = IntItem(1536, min=1, help="Width of the picture in pixels.")

    @property
    def grid(self) -> Grid:
        """Return the points of the picture."""
        return Grid(self.width, self.height, self.iters)

    @property
    def count(self) -> int:
        return -(-self.width // self.factor)

    def tasks(self) -> Iterator[Task]:
        return tasks(self.grid, self.factor, self.use_optimized_task)

    def gather(self, results: Iterable[Columns]) -> Columns:
        return {x: column for columns in results for x, column in columns.items()}

    def system(self) -> MandelbrotSystem:
        return MandelbrotSystem(self.grid, self.factor, self.use_optimized_task)

    def describe(self, answer: Columns, elapsed_s: float) -> str:
        inside = sum(column.count(self.iters) for column in answer.values())
        size = f"{self.width} x {self.height} pixels, {inside} of them in the set ({elapsed_s:.2f} s)"
        return f"{preview(answer, self.grid)}\n{size}"


def preview(columns: Columns, grid: Grid) -> str:
    """Return the picture as a few lines of text."""
    width, height = min(PREVIEW[0], grid.width), min(PREVIEW[1], grid.height)
    rows = [
        "".join(
            SHADES[columns[x * grid.width // width][y * grid.height // height] * (len(SHADES) - 1) // grid.iters]
            for x in range(width)
        )
        for y in range(height)
    ]
    return "\n".join(row.rstrip() for row in rows)
