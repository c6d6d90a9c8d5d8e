"""Clean texts of tasks for display: no control characters, nothing that hides or reorders text, limited length.

Used by everything in the live display that shows texts of tasks. The results are plain text, which is not escaped yet.
"""

import math
import reprlib
import unicodedata
from typing import Any, Final

from concurrent_nb.notebook.cell_output import clean

#: maximum lengths: of a value in a table, a name, a report, the first line of a message
VALUE_CHARACTERS: Final = 80
NAME_CHARACTERS: Final = 60
REPORT_CHARACTERS: Final = 200
MESSAGE_CHARACTERS: Final = 110
TRACEBACK_CHARACTERS: Final = 6000

#: formatting (direction, zero width, tags), lone surrogates, private use, and the two separators that break lines
_HIDDEN: Final = frozenset(("Cf", "Cs", "Co", "Zl", "Zp"))


class _Short(reprlib.Repr):
    """A repr that shortens numbers, and writes numpy's like Python's own, also inside containers."""

    def __init__(self, digits: int | None) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = VALUE_CHARACTERS
        self.maxlevel = 3
        self._digits = digits

    def repr1(self, x: Any, level: int) -> str:
        if type(x).__module__ == "numpy" and getattr(x, "ndim", None) == 0 and hasattr(x, "item"):
            x = x.item()
        if type(x) is float and self._digits is not None:
            return number_text(x, self._digits)
        if type(x).__name__ == "ndarray" and self._digits is not None and type(x).__module__ == "numpy":
            import numpy  # here, because only arrays need it, and then it is loaded

            return numpy.array_repr(x, precision=self._digits)
        return super().repr1(x, level)


def line_of(text: str, limit: int = NAME_CHARACTERS) -> str:
    r"""Return a text as one line.

    >>> line_of("a\nb\x1b[31m\u202e")
    'a\\nb\\u202e'
    """
    cut = text[: 4 * limit + 64]
    cut = cut.replace("\r\n", "\n").replace("\n", "\\n").replace("\r", "\\r").replace("\t", " ")
    return shorten(_visible(cut), limit, len(cut) < len(text))


def lines_of(text: str, limit: int = TRACEBACK_CHARACTERS) -> str:
    """Return a text of several lines, shortened in the middle: the end of a traceback matters most."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > limit:
        text = f"{text[: limit // 4]}\n  …\n{text[-(limit - limit // 4) :]}"
    return _visible(text)


def shorten(text: str, limit: int, more: bool = False) -> str:
    """Return a text, cut to `limit` characters with an ellipsis; `more`: text was already cut off."""
    return f"{text[: limit - 1]}…" if more or len(text) > limit else text


def number_text(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, without an exponent if that is shorter.

    >>> number_text(0.97161936), number_text(12345.678), number_text(1.5e-7)
    ('0.9716', '12,346', '1.500e-07')
    """
    size = abs(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if 10**digits <= size < 1e12:
        return f"{value:,.0f}"
    if 1e-4 <= size < 10**digits:
        return f"{value:#.{digits}g}".rstrip(".")
    return f"{value:.{digits - 1}e}"


def value_text(value: Any, limit: int = VALUE_CHARACTERS, digits: int | None = None) -> str:
    """Return a value as one short line, even if its `repr` fails.

    Args:
        digits: significant digits of each float; None: all.
    """
    try:
        is_text = isinstance(value, (str, bytes, bytearray))
        text = repr(value[: 2 * limit]) if is_text else _Short(digits).repr(value)
    except Exception:  # noqa: BLE001  (user code)
        text = f"<{type(value).__name__}>"
    return line_of(" ".join(text.split()), limit)


def error_texts(error: BaseException) -> tuple[str, str]:
    """Return the type's name and the first line of the message of an exception."""
    try:
        message = str(error).strip()
    except Exception:  # noqa: BLE001  (user code)
        message = ""
    first, newline, _ = message.replace("\r", "\n").partition("\n")
    first = line_of(first, 4 * MESSAGE_CHARACTERS)
    if len(first) > MESSAGE_CHARACTERS:
        first, newline = first[:MESSAGE_CHARACTERS].rpartition(" ")[0] or first[:MESSAGE_CHARACTERS], " "
    return line_of(type(error).__name__), f"{first.rstrip(' :')} …" if newline else first


def seconds_text(seconds: float) -> str:
    """Return a time as text: `0.42 s`, `12.3 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _visible(text: str) -> str:
    if not text.isascii():  # first, because `clean` would remove some of them
        text = "".join(f"\\u{ord(sign):04x}" if unicodedata.category(sign) in _HIDDEN else sign for sign in text)
    return _without_colours(clean(text))


def _without_colours(text: str) -> str:
    if "\x1b" not in text:
        return text
    first, *rest = text.split("\x1b")
    return first + "".join(piece.partition("m")[2] for piece in rest)
