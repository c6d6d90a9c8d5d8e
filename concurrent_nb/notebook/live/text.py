"""Texts of strangers, made fit to be shown: no control characters, nothing that hides or turns text, and not too long.

Used by everything in the live view that shows what a task said. What comes out is still text, never markup.
"""

import reprlib
import unicodedata
from typing import Any, Final

from concurrent_nb.notebook.output import clean

#: of a value in a table, a name, a message
VALUE_CHARACTERS: Final = 80
NAME_CHARACTERS: Final = 60
MESSAGE_CHARACTERS: Final = 300
TRACEBACK_CHARACTERS: Final = 6000

#: formatting (direction, zero width, tags), lone surrogates, private use, and the two separators that break lines
_HIDDEN: Final = frozenset(("Cf", "Cs", "Co", "Zl", "Zp"))
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = VALUE_CHARACTERS
_SHORT.maxlong = VALUE_CHARACTERS
_SHORT.maxlevel = 3


def line_of(text: str, limit: int = NAME_CHARACTERS) -> str:
    r"""Make one line of a text.

    >>> line_of("a\nb\x1b[31m\u202e")
    'a\\nb\\u202e'
    """
    cut = text[: 4 * limit + 64]
    cut = cut.replace("\r\n", "\n").replace("\n", "\\n").replace("\r", "\\r").replace("\t", " ")
    return shorten(_visible(cut), limit, len(cut) < len(text))


def lines_of(text: str, limit: int = TRACEBACK_CHARACTERS) -> str:
    """Make a text of several lines fit to be shown: the beginning and, which matters more in a traceback, the end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > limit:
        text = f"{text[: limit // 4]}\n  …\n{text[-(limit - limit // 4) :]}"
    return _visible(text)


def shorten(text: str, limit: int, more: bool = False) -> str:
    """Cut a text; an ellipsis says so."""
    return f"{text[: limit - 1]}…" if more or len(text) > limit else text


def value_text(value: Any, limit: int = VALUE_CHARACTERS) -> str:
    """Write a value as one short line, whatever its own `repr` may do."""
    try:
        text = repr(value[: 2 * limit]) if isinstance(value, (str, bytes, bytearray)) else _SHORT.repr(value)
    except Exception:  # noqa: BLE001  (user code)
        text = f"<{type(value).__name__}>"
    return line_of(" ".join(text.split()), limit)


def error_texts(error: BaseException) -> tuple[str, str]:
    """Give the type's name and the message of an exception, each as one line."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  (user code)
        message = ""
    return line_of(type(error).__name__), line_of(message, MESSAGE_CHARACTERS)


def seconds_text(seconds: float) -> str:
    """Write a time as people do: `0.42 s`, `12.3 s`, `2 min 05 s`, `1 h 02 min`. The browser writes it alike."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _visible(text: str) -> str:
    text = _without_colours(clean(text))
    if text.isascii():
        return text
    return "".join(f"\\u{ord(sign):04x}" if unicodedata.category(sign) in _HIDDEN else sign for sign in text)


def _without_colours(text: str) -> str:
    if "\x1b" not in text:
        return text
    first, *rest = text.split("\x1b")
    return first + "".join(piece.partition("m")[2] for piece in rest)
