"""Blocks: files are read a block at a time, and made-up data are the same each time."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from concurrent_nb.samples.data_analysis.row_blocks import ArrayRows, MadeRows, NpyRows, RowBlocks, SyntheticRows


def together(blocks: RowBlocks) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.concatenate([blocks.block(number) for number in range(blocks.count)])


@pytest.mark.parametrize("block_rows", [1, 4, 10, 99])
@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 2, 2)], ids=str)
def test_a_file_is_read_in_blocks(block_rows: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    whole = np.random.default_rng(1).normal(size=shape).astype(">f4")
    np.save(tmp_path / "a.npy", whole)
    blocks = NpyRows(tmp_path / "a.npy", block_rows)
    assert (blocks.rows, blocks.count) == (10, -(-10 // block_rows))
    assert (together(pickle.loads(pickle.dumps(blocks))) == whole).all()
    assert (together(ArrayRows(whole, block_rows)) == whole).all()
    for number in (-1, blocks.count):
        with pytest.raises(IndexError, match=f"there is no block {number}"):
            blocks.block(number)


def test_a_file_that_has_no_rows_of_its_own_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.ones((4, 3))))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "scalar.npy", np.array(1.0))
    for name in ("fortran", "objects", "scalar"):
        with pytest.raises(ValueError, match="save an array of numbers in C order"):
            NpyRows(tmp_path / f"{name}.npy", 2).block(0)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ValueError, match="magic"):
        NpyRows(tmp_path / "text.npy", 2).block(0)


def test_made_up_data_are_the_same_each_time_and_in_each_block() -> None:
    rows = SyntheticRows(rows=230, columns=6, block_rows=100, classes=3, seed=4)
    whole = together(rows)
    assert whole.shape == (230, 6)
    assert (together(pickle.loads(pickle.dumps(rows))) == whole).all()
    assert (whole[:100] != whole[100:200]).all()
    assert set(together(rows.labels)) == {0, 1, 2}
    assert [len(rows.labels.block(number)) for number in range(3)] == [100, 100, 30]
    assert (together(SyntheticRows(230, 6, 100, classes=3, seed=5)) != whole).any()


def test_a_function_makes_blocks() -> None:
    assert together(MadeRows(lambda number: np.full((2, 1), number), 3)).ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_files_that_are_none_or_cut_off_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(ValueError, match=r"text.npy is no .npy file: "):
        NpyRows(tmp_path / "text.npy", 2).block(0)
    np.save(tmp_path / "rows.npy", np.ones((10, 3)))
    whole = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-30])
    rows = NpyRows(str(tmp_path / "cut.npy"), 4)  # type: ignore[arg-type]
    assert rows.block(1).shape == (4, 3)
    with pytest.raises(ValueError, match=r"cut.npy ends within block 2: it was cut off"):
        rows.block(2)
    for block_rows in (0, -1):
        with pytest.raises(ValueError, match=f"blocks of {block_rows} rows"):
            ArrayRows(np.ones((3, 2)), block_rows)
