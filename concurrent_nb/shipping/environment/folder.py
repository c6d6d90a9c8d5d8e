"""The current folder of this process, read without releasing the interpreter's lock."""

import ctypes
import os
from collections.abc import Callable
from typing import Final

#: longer paths are read by `os.getcwdb`
PATH_BYTES: Final = 4096


def folder_reader() -> Callable[[], bytes]:
    """Return a function that returns the current folder as bytes; b"" if it was deleted.

    `os.getcwd` releases the lock at each call. If each submit of a burst did so, the client thread would wake up for
    one or two tasks at a time, and all that follows would cost a fifth more.
    """
    try:
        getcwd = ctypes.PyDLL(None).getcwd  # a PyDLL keeps the interpreter's lock
    except (AttributeError, OSError, TypeError):  # Windows
        return _folder
    getcwd.restype = ctypes.c_char_p
    buffer = ctypes.create_string_buffer(PATH_BYTES)
    place = ctypes.byref(buffer)
    return lambda: getcwd(place, PATH_BYTES) or _folder()


def _folder() -> bytes:
    try:
        return os.getcwdb()
    except OSError:
        return b""
