"""Arrays in writable mapped files travel as the names of these."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concurrent_nb.shipping.serialization.mapped_files import MappedFile, by_file, may_have_files


def made(tmp_path: Path) -> Any:
    mapped = np.memmap(tmp_path / "array", np.int64, "w+", 80, (6, 4))
    mapped[:] = np.arange(24).reshape(6, 4)
    return mapped


def arrived(thing: Any) -> Any:
    (sent,) = by_file([thing])
    assert type(sent) is MappedFile
    return pickle.loads(pickle.dumps(sent))


@pytest.mark.parametrize(
    "part",
    [
        np.s_[:],
        np.s_[2:4],
        np.s_[:, 1],
        np.s_[::-2, ::-1],
        np.s_[1::2, 1:3],
        np.s_[3, 2:3],
        np.s_[..., None],
    ],
)
def test_writes_reach_the_same_part_of_the_file(tmp_path: Path, part: Any) -> None:
    array = made(tmp_path)
    view = array[part]
    there = arrived(view)
    assert isinstance(there, np.memmap) and np.array_equal(there, view)
    there[...] = -there
    expected = np.arange(24).reshape(6, 4).copy()
    expected[part] *= -1
    assert np.array_equal(array, expected)
    assert np.array_equal(arrived(np.asarray(view)), view)  # also an array that only shares its memory
    assert np.array_equal(arrived(there), view)  # and from a task to its tasks


def test_what_is_in_fortran_order_stays_so(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "array", np.float32, "w+", shape=(3, 5), order="F")
    array[:] = np.arange(15).reshape(3, 5)
    there = arrived(array)
    assert there.flags.f_contiguous and np.array_equal(there, array)


def test_arrays_in_containers_are_found_and_stay_the_same_object(tmp_path: Path) -> None:
    array = made(tmp_path)
    ((first, second, others), again) = pickle.loads(
        pickle.dumps(by_file([(array, [array], {"a": 1, "b": array}), array]))
    )
    assert first is second[0] is others["b"] is again
    first[0, 0] = 100
    assert array[0, 0] == 100


def test_all_else_stays_as_it_is(tmp_path: Path) -> None:
    array = made(tmp_path)
    array.flush()
    others = [
        np.memmap(tmp_path / "array", np.int64, "r"),
        np.memmap(tmp_path / "array", np.int64, "c"),
        array.copy(),
        array + 1,
        array[:0],
        [1, (2, {"x": np.ones(3)})],
        "text",
    ]
    assert all(new is old for new, old in zip(by_file(others), others, strict=True))
    itself: list[Any] = []
    itself.append(itself)
    assert by_file([itself])[0] is itself


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    array = made(tmp_path)
    (sent,) = by_file([array])
    pickled = pickle.dumps(sent)
    (tmp_path / "array").write_bytes(b"short")
    with pytest.raises(OSError, match="shorter than the array"):
        pickle.loads(pickled)
    assert (tmp_path / "array").read_bytes() == b"short"
    (tmp_path / "array").unlink()
    with pytest.raises(FileNotFoundError, match="put it where all machines find it"):
        pickle.loads(pickled)


def test_which_types_may_hold_such_arrays() -> None:
    assert may_have_files({int, list}) and may_have_files({np.memmap}) and not may_have_files({int, str, bytes})
