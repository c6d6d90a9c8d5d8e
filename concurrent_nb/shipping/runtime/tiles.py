"""Tiles: a piece of a picture and its place. What a task returns or publishes for `--view image`.

Used by tasks and by the views that show their pictures. Needs no numpy: pixels may be of any type.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of pixels whose upper left corner is at (x, y) of the picture.

    >>> Tile([[0, 1], [2, 3]], x=10, y=4)
    Tile(pixels=[[0, 1], [2, 3]], x=10, y=4)
    """

    pixels: Any  #: rows of numbers (h, w), or of colours (h, w, 3 or 4) from 0 to 255
    x: int = 0
    y: int = 0
