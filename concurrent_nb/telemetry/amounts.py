"""Seconds, bytes and names as short text for people."""

from typing import Final

_SECONDS: Final = ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"))
_BYTES: Final = ((1e3, 1.0, "bytes"), (1e6, 1e-3, "kB"), (1e9, 1e-6, "MB"), (1e12, 1e-9, "GB"))
#: most characters of a name
NAME_MAX: Final = 60


def seconds_text(seconds: float) -> str:
    """Return a duration in three digits.

    >>> seconds_text(0.00123), seconds_text(12.34), seconds_text(600)
    ('1.23 ms', '12.3 s', '10 min')
    """
    factor, unit = next(((factor, unit) for limit, factor, unit in _SECONDS if seconds < limit), (1 / 3600, "h"))
    return f"{_digits(seconds * factor)} {unit}"


def bytes_text(size: float) -> str:
    """Return a size in three digits.

    >>> bytes_text(512), bytes_text(30_100_000)
    ('512 bytes', '30.1 MB')
    """
    factor, unit = next(((factor, unit) for limit, factor, unit in _BYTES if size < limit), (1e-12, "TB"))
    return f"{_digits(size * factor)} {unit}"


def visible(name: str) -> str:
    """Return a name of a user as one line without characters that hide or reorder text."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    return shown if len(shown) <= NAME_MAX else shown[: NAME_MAX - 1] + "…"


def _digits(value: float) -> str:
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
