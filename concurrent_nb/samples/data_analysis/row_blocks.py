"""Rows of a matrix in blocks, each of which is read or made in the task that uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RowBlocks(Protocol):
    """A matrix, or a column of labels, in blocks of rows. The object itself is small, and travels with each task."""

    @property
    def count(self) -> int:
        """Return the number of blocks."""

    def block(self, number: int) -> NDArray[Any]:
        """Return the rows of a block, from 0."""


@dataclass(frozen=True)
class NpyRows:
    """Blocks of the rows of a .npy file, which all workers can read.

    The rows are read, not mapped: pages of a mapped file count as memory of the process. Raises ValueError for a file
    in Fortran's order or with objects, and OSError.
    """

    path: Path
    block_rows: int

    @cached_property
    def _layout(self) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        """Return the position of the first row, the shape and the type."""
        with self.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            if (is_fortran and len(shape) > 1) or dtype.hasobject or not shape:
                raise ValueError(f"{self.path} has no rows that can be read alone: save an array of numbers in C order")
            return file.tell(), shape, dtype

    @property
    def rows(self) -> int:
        """Return the number of rows of the file."""
        return self._layout[1][0]

    @property
    def count(self) -> int:
        return -(-self.rows // self.block_rows)

    def block(self, number: int) -> NDArray[Any]:
        offset, shape, dtype = self._layout
        first = number * self.block_rows
        rows = min(self.block_rows, shape[0] - first)
        if not 0 <= first < shape[0]:
            raise IndexError(f"{self.path} has {self.count} blocks, there is no block {number}")
        row_items = int(np.prod(shape[1:]))
        found = np.fromfile(self.path, dtype, rows * row_items, offset=offset + first * row_items * dtype.itemsize)
        return found.reshape(rows, *shape[1:])


@dataclass(frozen=True)
class MadeRows:
    """Blocks that a function makes from their number. It must return the same rows each time."""

    make: Callable[[int], NDArray[Any]]
    count: int

    def block(self, number: int) -> NDArray[Any]:
        return self.make(number)


@dataclass(frozen=True)
class ArrayRows:
    """Blocks of an array, which travels with the tasks: for data that fit."""

    array: NDArray[Any]
    block_rows: int

    @property
    def count(self) -> int:
        return -(-len(self.array) // self.block_rows)

    def block(self, number: int) -> NDArray[Any]:
        return self.array[number * self.block_rows : (number + 1) * self.block_rows]


@dataclass(frozen=True)
class SyntheticRows:
    """Made-up data: a few directions with large variance, whose weights fall by a constant factor, and noise.

    With `classes`, each row belongs to one of them, and their centres differ.
    """

    rows: int
    columns: int
    block_rows: int
    rank: int = 5
    classes: int = 1
    seed: int = 0

    @property
    def count(self) -> int:
        return -(-self.rows // self.block_rows)

    @cached_property
    def _model(self) -> tuple[Floats, Floats]:
        """Return the directions with their weights, and the centres."""
        chance = np.random.default_rng(self.seed)
        directions, _ = np.linalg.qr(chance.normal(size=(self.columns, min(self.rank, self.columns))))
        weights = 10 * 0.7 ** np.arange(directions.shape[1])
        return (directions * weights).T, 3 * chance.normal(size=(self.classes, self.columns))

    def _drawn(self, number: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
        chance = np.random.default_rng([self.seed, number + 1])
        rows = min(self.block_rows, self.rows - number * self.block_rows)
        return chance, chance.integers(self.classes, size=rows)

    @property
    def variances(self) -> Floats:
        """Return the largest variances that the rows are drawn with, if they are of one class."""
        return np.asarray((self._model[0] ** 2).sum(axis=1) + 1)

    def block(self, number: int) -> Floats:
        directions, centres = self._model
        chance, labels = self._drawn(number)
        rows = chance.normal(size=(len(labels), self.columns))
        rows += chance.normal(size=(len(labels), len(directions))) @ directions
        rows += centres[labels]
        return rows

    @property
    def labels(self) -> MadeRows:
        """Return the classes of the rows, in the same blocks."""
        return MadeRows(lambda number: self._drawn(number)[1], self.count)
