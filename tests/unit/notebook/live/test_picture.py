"""Pictures that fill up: what goes where, how it is coloured, and what is sent."""

import math
import zlib
from typing import Any

import numpy as np
import pytest

from concurrent_nb import Tile
from concurrent_nb.notebook.live.colours import viridis
from concurrent_nb.notebook.live.picture import COLOURS_MOST, NUMBERS_MOST, NotPixels, Picture
from concurrent_nb.notebook.live.png import palette_png, rgba_png


def seen(picture: Picture) -> "np.ndarray[Any, Any]":
    """Give the whole picture as it would be sent."""
    patch = picture.take(whole=True)
    assert patch is not None
    shape = (patch.height, patch.width, 4) if patch.colours else (patch.height, patch.width)
    return np.frombuffer(patch.data, np.uint8).reshape(shape)


def test_a_sequence_is_the_column_of_its_task() -> None:
    picture = Picture(3)
    assert picture.add(2, [0, 1, 2])
    assert picture.add(0, np.array([2.0, 1.0, 0.0]))
    assert (picture.width, picture.height) == (3, 3)
    assert seen(picture).tolist() == [[255, 0, 1], [128, 0, 128], [1, 0, 255]]


def test_rows_are_a_band_and_tiles_go_where_they_say() -> None:
    picture = Picture(2)
    picture.add(1, [[5, 5], [5, 5]])
    assert (picture.width, picture.height) == (2, 4)
    picture.add(0, Tile([[0]], x=3, y=1))
    assert (picture.width, picture.height) == (4, 4)
    assert seen(picture).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [255, 255, 0, 0], [255, 255, 0, 0]]


def test_colours_are_shown_as_they_are() -> None:
    picture = Picture(2)
    picture.add(0, np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    picture.add(1, np.array([[[1.0, 0.0, 0.5, 0.5], [2.0, -1.0, math.nan, 1.0]]]))
    assert seen(picture).tolist() == [[[1, 2, 3, 255], [4, 5, 6, 255]], [[255, 0, 127, 127], [255, 0, 0, 255]]]


def test_numbers_and_colours_may_be_mixed() -> None:
    picture = Picture(3)
    picture.add(0, [[0, 10]])
    picture.add(1, np.zeros((1, 2, 3), np.uint8))
    picture.add(2, [[10, 0]])
    low, high = list(viridis()[3:6]), list(viridis()[-3:])
    assert seen(picture)[:, :, :3].tolist() == [[low, high], [[0, 0, 0]] * 2, [high, low]]


def test_a_picture_of_a_fixed_size_cuts_off_what_does_not_fit() -> None:
    picture = Picture(10, (2, 2))
    picture.add(1, [1, 2, 3])
    picture.add(5, [1, 2])
    picture.add(0, Tile([[1, 2], [3, 4]], 1, 1))
    assert picture.kept_size == (2, 2)
    assert seen(picture).tolist() == [[0, 1], [0, 1]]


def test_numbers_that_are_none_leave_holes_and_infinity_is_an_end() -> None:
    picture = Picture(1)
    picture.add(0, [math.nan, -math.inf, 0.0, 1.0, math.inf])
    assert picture.range == (0.0, 1.0)
    assert seen(picture).ravel().tolist() == [0, 1, 1, 255, 255]
    flat = Picture(1)
    flat.add(0, [True, True])
    assert seen(flat).ravel().tolist() == [128, 128]


@pytest.mark.parametrize("size", [(4000, 3000), (100_000, 10), (1 << 20, 1 << 20)])
def test_a_large_picture_is_thinned_out(size: tuple[int, int]) -> None:
    picture = Picture(4, size)
    width, height = picture.kept_size
    assert width * height <= NUMBERS_MOST
    assert picture.step in {2**power for power in range(20)}
    corner = Tile(np.ones((picture.step, picture.step)), size[0] - picture.step, size[1] - picture.step)
    picture.add(0, corner)
    assert np.count_nonzero(seen(picture)) == 1


def test_a_picture_that_grows_keeps_what_it_has() -> None:
    picture = Picture(1)
    picture.add(0, Tile(np.arange(900.0).reshape(30, 30)))
    picture.add(0, Tile([[5.0]], 1999, 1999))
    assert picture.step == 4
    shown = seen(picture)
    assert shown.shape == (500, 500)
    assert np.count_nonzero(shown[:8, :8]) == 64
    assert shown[0, 0] == 1
    colours = Picture(1)
    colours.add(0, Tile(np.ones((700, 700))))
    assert colours.step == 1
    colours.add(0, Tile(np.full((700, 700, 3), 9, np.uint8)))
    width, height = colours.kept_size
    assert width * height <= COLOURS_MOST
    assert np.all(seen(colours) == [9, 9, 9, 255])


def test_only_what_has_changed_is_sent() -> None:
    picture = Picture(4)
    picture.add(0, [0, 10])
    first = picture.take()
    assert first is not None
    assert (first.width, first.full, first.rects, list(first.data)) == (4, False, [(0, 0, 1, 2)], [1, 255])
    assert picture.take() is None
    picture.add(2, [5, 10])
    patch = picture.take()
    assert patch is not None
    assert (patch.full, patch.rects, list(patch.data)) == (False, [(2, 0, 1, 2)], [128, 255])


def test_a_new_range_colours_the_whole_picture_anew() -> None:
    picture = Picture(2)
    picture.add(0, [0, 10])
    picture.take()
    news = [picture.has_range_news]
    picture.add(1, [5, 20])
    news.append(picture.has_range_news)
    assert seen(picture).tolist() == [[1, 65], [128, 255]]
    news.append(picture.has_range_news)
    assert news == [False, True, False]


def test_many_small_changes_are_sent_as_one() -> None:
    picture = Picture(2)
    picture.add(0, [0, 10])
    picture.take()
    for _ in range(300):
        picture.add(1, [5, 10])
    patch = picture.take()
    assert patch is not None
    assert patch.full


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        {"a": 1},
        3,
        object(),
        [[1, 2], [3]],
        ["a", "b"],
        np.zeros((2, 2, 5)),
        np.zeros((1, 1, 1, 1)),
        np.array(["x"]),
        Tile([[1]], -1, 0),
        Tile([[1]], 1 << 21, 0),
        Tile([[1]], "x", 0),  # type: ignore[arg-type]
        Tile(None),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_no_part_of_a_picture_is_refused_by_name(value: Any) -> None:
    picture = Picture(2)
    picture.add(1, [1, 2])
    with pytest.raises(NotPixels):
        picture.add(0, value)
    assert seen(picture).shape == (2, 2)


def test_nothing_is_drawn_of_nothing() -> None:
    picture = Picture(2)
    assert not picture.add(0, None)
    assert not picture.add(0, [])
    assert picture.png() is None
    assert picture.take(whole=True) is None


def test_what_has_an_array_interface_is_an_array() -> None:
    class Image:
        __array_interface__ = np.array([[1, 2]]).__array_interface__

    picture = Picture(1)
    picture.add(0, Image())
    assert picture.range == (1.0, 2.0)


def test_complex_numbers_are_drawn_by_their_size() -> None:
    picture = Picture(1)
    picture.add(0, [3 + 4j, 0])
    assert picture.range == (0.0, 5.0)


def test_png_files_are_what_they_should_be() -> None:
    png = palette_png(2, 1, b"\0\1", b"\1\2\3\4\5\6", b"\0")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at = png.index(b"IDAT")
    assert zlib.decompress(png[at + 4 : -12]) == b"\0\0\1"
    picture = Picture(1)
    picture.add(0, [1, 2])
    assert picture.png()
    with pytest.raises(ValueError, match="do not fit a picture"):
        rgba_png(2, 2, b"123")
