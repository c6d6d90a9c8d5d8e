"""Rows of a matrix in blocks, each of which is read or made in the task that uses it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

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


def as_blocks(data: "RowBlocks | NDArray[Any] | Sequence[NDArray[Any]]", parts: int) -> RowBlocks:
    """Return data as blocks: a matrix is divided into `parts`, and the matrices of a list are a block each.

    Raises TypeError for anything else, such as an iterator.
    """
    if callable(getattr(data, "block", None)):
        return cast(RowBlocks, data)
    if hasattr(data, "__array__"):
        data = np.asarray(data)
        if not data.ndim:
            raise ValueError("a single value has no rows")
        return ArrayRows(data, max(1, -(-len(data) // parts)))
    if isinstance(data, list | tuple):
        return ListRows(tuple(data))
    raise TypeError(
        f"a {type(data).__name__} is no data in blocks: give a matrix, a list of matrices, or an object with `count` "
        "and `block(number)`, such as NpyRows, or MadeRows(function, count) instead of an iterator"
    )


def read_block(blocks: RowBlocks, number: int) -> NDArray[Any]:
    """Return the rows of a block. Raises ValueError unless they are a matrix of finite numbers."""
    rows = np.asarray(blocks.block(number))
    if rows.ndim != 2:
        raise ValueError(f"block {number} has the shape {rows.shape}: it must be a matrix, with a row for each sample")
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"block {number} has values of type {rows.dtype}: they must be real numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(rows.sum(axis=0, dtype=np.float64)).all()
    if not is_finite and len(places := np.argwhere(~np.isfinite(rows))):
        row, column = places[0]
        raise ValueError(
            f"block {number} has {rows[row, column]} in row {row}, column {column} ({len(places)} of its values are no "
            "finite numbers): fill them, or leave those rows out"
        )
    return rows


def _check_block_rows(block_rows: int) -> None:
    if not block_rows >= 1:
        raise ValueError(f"blocks of {block_rows} rows: they must have at least one")


@dataclass(frozen=True)
class NpyRows:
    """Blocks of the rows of a .npy file, which all workers can read.

    The rows are read, not mapped: pages of a mapped file count as memory of the process. Raises ValueError for a file
    in Fortran's order, with objects, of another format or cut off, and OSError.
    """

    path: Path
    block_rows: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        _check_block_rows(self.block_rows)

    @cached_property
    def _layout(self) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        """Return the position of the first row, the shape and the type."""
        with self.path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, is_fortran, dtype = read(file)
            except ValueError as error:
                raise ValueError(f"{self.path} is no .npy file: {error}") from error
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
        if len(found) < rows * row_items:
            raise ValueError(f"{self.path} ends within block {number}: it was cut off, or is still being written")
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

    def __post_init__(self) -> None:
        _check_block_rows(self.block_rows)

    @property
    def count(self) -> int:
        return -(-len(self.array) // self.block_rows)

    def block(self, number: int) -> NDArray[Any]:
        return self.array[number * self.block_rows : (number + 1) * self.block_rows]


@dataclass(frozen=True)
class ListRows:
    """Matrices that are a block each, of any numbers of rows; all of them travel with the tasks."""

    matrices: tuple[NDArray[Any], ...]

    @property
    def count(self) -> int:
        return len(self.matrices)

    def block(self, number: int) -> NDArray[Any]:
        return self.matrices[number]


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
