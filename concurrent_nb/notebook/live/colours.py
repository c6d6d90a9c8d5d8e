"""Colours: a perceptually uniform map for numbers, and one colour for each state of a task.

The colours of the states have a medium lightness, so that they are visible on white and on black: a saved page may be
shown with any theme.
"""

from typing import Final

#: states of a task, as single digits
WAITING, RUNNING, DONE, FAILED, CANCELLED, HIT = range(6)
STATE_WORDS: Final = ("waiting", "running", "done", "failed", "cancelled", "hit")
STATE_COLOURS: Final = ("#9a9a9a", "#e0a030", "#3a8f6f", "#d1495b", "#8a8fa0", "#7b5cd6")
#: opacity of each state, from 0 to 255
STATE_ALPHA: Final = (60, 255, 255, 255, 120, 255)

#: viridis as polynomials of degree 6, for red, green and blue, lowest power first (a fit by Matt Zucker, in the public
#: domain): with an error below half a percent, and shorter than a table
_VIRIDIS: Final = (
    (0.2777273272234177, 0.1050930431085774, -0.3308618287255563, -4.634230498983486, 6.228269936347081,
     4.776384997670288, -5.435455855934631),
    (0.005407344544966578, 1.404613529898575, 0.214847559468213, -5.799100973351585, 14.17993336680509,
     -13.74514537774601, 4.645852612178535),
    (0.3340998053353061, 1.384590162594685, 0.09509516302823659, -19.33244095627987, 56.69055260068105,
     -65.35303263337234, 26.3124352495832),
)  # fmt: skip


def viridis() -> bytes:
    """Return red, green and blue of 256 indexes: 0 is no value, 1 to 255 are the least to the greatest value."""
    table = bytearray(3)
    for index in range(255):
        at = index / 254
        for powers in _VIRIDIS:
            value = sum(factor * at**power for power, factor in enumerate(powers))
            table.append(round(255 * min(1.0, max(0.0, value))))
    return bytes(table)


def rgb(colour: str) -> bytes:
    """Return red, green and blue of a colour like `#3a8f6f`."""
    return bytes.fromhex(colour.removeprefix("#"))
