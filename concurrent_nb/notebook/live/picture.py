"""A picture, made of the values that tasks return or publish.

    Tile: at its position      1-D: the task's column        2-D: a band of rows        3-D of 3 or 4: colours

Used by the image view. Keeps the picture as it is shown: a large picture is reduced, the results are not. Numbers are
mapped to a range that follows the data, as indexes of a colour map, so that one byte per pixel is sent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb.notebook.live.colours import viridis
from concurrent_nb.notebook.live.png import palette_png, rgba_png
from concurrent_nb.shipping.runtime.tiles import Tile

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

#: maximum number of pixels that are kept and sent: of numbers, and of colours, which take four bytes each
NUMBERS_MOST: Final = 800_000
COLOURS_MOST: Final = 400_000
#: maximum width and height
SIDE_MOST: Final = 1 << 20
#: if more rectangles have changed, the whole picture is sent
RECTS_MOST: Final = 256
#: relative change of the range after which the whole picture is coloured again
RANGE_SLACK: Final = 0.02


class NotPixels(ValueError):
    """The value of a task cannot be drawn; the message explains why."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The changes since the last patch: rectangles (x, y, width, height), and their pixels one after another."""

    width: int
    height: int
    colours: bool  #: four bytes per pixel, not one
    full: bool  #: the rectangle is the whole picture
    rects: list[tuple[int, int, int, int]]
    data: bytes


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


@dataclass(frozen=True, slots=True)
class Still:
    """A copy of a picture, to be encoded while the picture changes: numbers and their range, or colours."""

    pixels: "Array"
    range: tuple[float, float]

    def png(self, step: int = 1) -> bytes:
        """Return it as a PNG file, drawn smaller: with one of `step` x `step` pixels."""
        import numpy  # here, because only this view needs it, and then it is loaded

        pixels = self.pixels[::step, ::step]
        height, width = pixels.shape[:2]
        if pixels.ndim == 3:
            return rgba_png(width, height, numpy.ascontiguousarray(pixels).tobytes())
        return palette_png(width, height, _indexes(pixels, *self.range).tobytes(), viridis(), b"\0")


class Picture:
    """The picture.

    Args:
        tasks: number of tasks, so that the width of the picture is known from its first column.
        size: (width, height) if it is fixed; pixels outside are cut off.
    """

    def __init__(self, tasks: int, size: tuple[int, int] | None = None) -> None:
        import numpy  # here, because only this view needs it

        self._np = numpy
        self._tasks = tasks
        self._fixed = size is not None
        self.width, self.height = size or (0, 0)  #: size of the picture that the tasks draw
        self.step = 1  #: each kept pixel is one of step x step pixels
        self.version = 0  #: incremented when something is drawn
        self._numbers: Array | None = None
        self._colours: Array | None = None
        self._low = math.inf
        self._high = -math.inf
        self._shown_range = (math.inf, -math.inf)
        self._rects: list[tuple[int, int, int, int]] = []
        self._all = False
        if size is not None:
            self._step_for(NUMBERS_MOST)

    @property
    def kept_size(self) -> tuple[int, int]:
        """Return width and height of the kept picture."""
        return -(-self.width // self.step), -(-self.height // self.step)

    @property
    def range(self) -> tuple[float, float] | None:
        """Return the least and the greatest number so far."""
        return (self._low, self._high) if self._numbers is not None and self._low <= self._high else None

    @property
    def has_range_news(self) -> bool:
        """Return whether the whole picture should be coloured again."""
        low, high = self._shown_range
        span = self._high - self._low
        slack = RANGE_SLACK * span if math.isfinite(span) else 0.0
        return self._numbers is not None and (abs(low - self._low) > slack or abs(high - self._high) > slack)

    @property
    def changed(self) -> bool:
        """Return whether there is anything to send."""
        return self._all or bool(self._rects)

    def add(self, index: int, value: Any) -> bool:
        """Draw the value of task `index`; return whether it contained pixels. Raises NotPixels."""
        if value is None:
            return False
        tile = self._tile(index, value)
        if tile is None:
            return False
        pixels, x, y = tile
        if not self._fixed:
            self._grow(x + pixels.shape[1], y + pixels.shape[0], pixels.ndim == 3)
        pixels = pixels[: max(0, self.height - y), : max(0, self.width - x)]
        # Only pixels whose coordinates are multiples of the step are kept.
        pixels = pixels[-y % self.step :: self.step, -x % self.step :: self.step]
        self._draw(pixels, -(-x // self.step), -(-y // self.step))
        return True

    def _tile(self, index: int, value: Any) -> "tuple[Array, int, int] | None":
        where = value if isinstance(value, Tile) else None
        pixels = self._array(value.pixels if isinstance(value, Tile) else value)
        if pixels.size == 0:
            return None
        if pixels.ndim == 1:
            x, y = index, 0
            if where is None and not self._fixed:
                self.width = max(self.width, min(self._tasks, SIDE_MOST))
            pixels = pixels[:, None]
        else:
            x, y = 0, index * pixels.shape[0]
            if where is None and not self._fixed:
                self.height = max(self.height, min(self._tasks * pixels.shape[0], SIDE_MOST))
        if where is not None:
            x, y = self._coordinate(where.x, "x"), self._coordinate(where.y, "y")
        if x + pixels.shape[1] > SIDE_MOST or y + pixels.shape[0] > SIDE_MOST:
            raise NotPixels(f"pixels at ({x}, {y}) are outside of any picture")
        return pixels, x, y

    def _coordinate(self, value: Any, name: str) -> int:
        try:
            coordinate = int(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise NotPixels(f"a tile's {name} is {type(value).__name__}, not a whole number") from error
        if coordinate < 0:
            raise NotPixels(f"a tile's {name} is {coordinate}: below 0")
        return coordinate

    def _array(self, value: Any) -> "Array":
        np = self._np
        if isinstance(value, (str, bytes, dict)) or not (isinstance(value, Sequence) or _is_array(value)):
            raise NotPixels(f"{type(value).__name__} is not an array of pixels")
        try:
            pixels: Array = np.asarray(value)
        except Exception as error:  # an object's own conversion may raise anything
            raise NotPixels(
                f"{type(value).__name__} is not an array of pixels: its rows may differ in length"
            ) from error
        if pixels.dtype.kind not in "biufc" or pixels.ndim not in (1, 2, 3):
            raise NotPixels(f"an array of {pixels.dtype} with {pixels.ndim} dimensions is not an array of pixels")
        if pixels.ndim == 3:
            if pixels.shape[2] not in (3, 4):
                raise NotPixels(f"an array of shape {pixels.shape} has neither 3 nor 4 colours")
            if pixels.dtype != np.uint8:
                # Floats are colours from 0 to 1, as in matplotlib; other numbers are from 0 to 255.
                scale = 255 if pixels.dtype.kind == "f" else 1
                pixels = np.clip(np.nan_to_num(pixels.real) * scale, 0, 255).astype(np.uint8)
        if pixels.dtype.kind == "c":
            pixels = np.abs(pixels)
        return pixels

    def _grow(self, width: int, height: int, colours: bool) -> None:
        self.width, self.height = max(self.width, width), max(self.height, height)
        self._step_for(COLOURS_MOST if colours or self._colours is not None else NUMBERS_MOST)

    def _step_for(self, most: int) -> None:
        """Reduce the kept picture until it is small enough, and resize it."""
        times = 1
        while -(-self.width // (self.step * times)) * -(-self.height // (self.step * times)) > most:
            times *= 2
        self.step *= times
        np, (width, height) = self._np, self.kept_size
        for name in ("_numbers", "_colours"):
            kept = getattr(self, name)
            if kept is None:
                continue
            kept = kept[::times, ::times]
            if kept.shape[:2] != (height, width) or times > 1:
                new = np.zeros((height, width, *kept.shape[2:]), kept.dtype)
                if name == "_numbers":
                    new[:] = np.nan
                new[: kept.shape[0], : kept.shape[1]] = kept[:height, :width]
                setattr(self, name, new)
                self._all = True

    def _draw(self, pixels: "Array", x: int, y: int) -> None:
        np, (width, height) = self._np, self.kept_size
        if pixels.size == 0:
            return
        self.version += 1
        if pixels.ndim == 3 and self._colours is None:
            self._step_for(COLOURS_MOST)
            if self.kept_size != (width, height):
                times = width // self.kept_size[0] or 1
                pixels, x, y = pixels[::times, ::times], x // times, y // times
                width, height = self.kept_size
            self._colours = np.zeros((height, width, 4), np.uint8)
            if self._numbers is not None:
                self._colours[:] = self._coloured(self._numbers)
                self._numbers = None
                self._all = True
        if self._colours is not None:
            if pixels.ndim == 2:
                self._note_range(pixels)
                pixels = self._coloured(pixels.astype(np.float32))
            part = self._colours[y : y + pixels.shape[0], x : x + pixels.shape[1]]
            part[..., : pixels.shape[2]] = pixels[: part.shape[0], : part.shape[1]]
            if pixels.shape[2] == 3:
                part[..., 3] = 255
        else:
            if self._numbers is None:
                self._numbers = np.full((height, width), np.nan, np.float32)
            self._note_range(pixels)
            with np.errstate(over="ignore"):
                part = self._numbers[y : y + pixels.shape[0], x : x + pixels.shape[1]]
                part[:] = pixels[: part.shape[0], : part.shape[1]]
        if part.size:
            self._rects.append((x, y, part.shape[1], part.shape[0]))
        if len(self._rects) > RECTS_MOST:
            self._rects.clear()
            self._all = True

    def _note_range(self, pixels: "Array") -> None:
        np = self._np
        finite = pixels if pixels.dtype.kind in "biu" else pixels[np.isfinite(pixels)]
        if finite.size:
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))

    def take(self, whole: bool = False) -> Patch | None:
        """Return the changes since the last call; a whole picture is coloured by the current range.

        The first patch, and the first one after a change of size, apply to an empty picture.

        Args:
            whole: return the whole picture in any case.
        """
        np, (width, height) = self._np, self.kept_size
        kept = self._colours if self._colours is not None else self._numbers
        if kept is None or not (whole or self.changed):
            return None
        full = whole or self._all
        if full or self._shown_range[0] > self._shown_range[1]:
            self._shown_range = (self._low, self._high)
        rects = [(0, 0, width, height)] if full else self._rects
        pieces = []
        for x, y, w, h in rects:
            part = kept[y : y + h, x : x + w]
            part = self._indexes(part) if self._colours is None else part
            pieces.append(np.ascontiguousarray(part).tobytes())
        self._rects = []
        self._all = False
        return Patch(width, height, self._colours is not None, full, list(rects), b"".join(pieces))

    @property
    def whole_bytes(self) -> int:
        """Return the size of the whole picture in bytes."""
        width, height = self.kept_size
        return width * height * (4 if self._colours is not None else 1)

    def png(self) -> bytes | None:
        """Return the picture as a PNG file, coloured by the whole range; None if nothing was drawn."""
        if self._numbers is not None:
            self._shown_range = (self._low, self._high)
        still = self.still()
        return None if still is None else still.png()

    def still(self) -> Still | None:
        """Return a copy, coloured by the whole range; None if nothing was drawn. Changes nothing that is sent later."""
        kept = self._colours if self._colours is not None else self._numbers
        return None if kept is None else Still(kept.copy(), (self._low, self._high))

    def _indexes(self, numbers: "Array") -> "Array":
        is_shown = self._shown_range[0] <= self._shown_range[1]
        return _indexes(numbers, *(self._shown_range if is_shown else (self._low, self._high)))

    def _coloured(self, numbers: "Array") -> "Array":
        np = self._np
        indexes = self._indexes(numbers)
        table = np.frombuffer(viridis(), np.uint8).reshape(256, 3)
        colours: Array = np.empty((*numbers.shape, 4), np.uint8)
        colours[..., :3] = table[indexes]
        colours[..., 3] = np.where(indexes == 0, 0, 255)
        return colours


def _indexes(numbers: "Array", low: float, high: float) -> "Array":
    """Return the indexes of numbers in the colour map; 0 where there is no number."""
    import numpy as np  # here, because only this view needs it, and then it is loaded

    if low < high:
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = 1.5 + (numbers.astype(np.float64) - low) * (254 / (high - low))
    else:
        scaled = np.full(numbers.shape, 128.0)
    empty = np.isnan(numbers)
    bounded = np.clip(np.nan_to_num(scaled, nan=128.0), 1, 255)
    indexes: Array = bounded.astype(np.uint8)
    indexes[empty] = 0
    return indexes
