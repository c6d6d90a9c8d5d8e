"""Tiles: a piece of a picture and its position. What a task returns or publishes for `--view image`.

Needs no numpy: pixels are what the task has.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of pixels whose upper left corner is at (x, y) of the picture. Tasks return or publish tiles.

    >>> concurrent_nb.Tile([[0, 1], [2, 3]], x=10, y=4)
    Tile(pixels=[[0, 1], [2, 3]], x=10, y=4)

    In a notebook, `%%concurrent_task --view image` puts the tiles of all tasks together to one picture, which grows
    while the job runs.

    Args:
        pixels: rows of numbers, (height, width), or of colours, (height, width, 3 or 4) from 0 to 255. An array or
            lists.
        x: column of the left edge in the picture, in pixels.
        y: row of the upper edge in the picture, in pixels.
    """

    pixels: Any  #: rows of numbers (h, w), or of colours (h, w, 3 or 4) from 0 to 255
    x: int = 0
    y: int = 0
