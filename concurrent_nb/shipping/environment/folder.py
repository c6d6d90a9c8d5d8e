"""The current folder of this process, looked at without letting go of the interpreter."""

import ctypes
import os
from collections.abc import Callable
from typing import Final

#: longer paths are read the slow way
PATH_BYTES: Final = 4096


def folder_reader() -> Callable[[], bytes]:
    """Make a function that gives the current folder as the file system writes it; b"" if it is gone.

    `os.getcwd` lets another thread run at each call. Where each submit of a burst looks, the thread that sends wakes up
    for a task or two, and everything behind it costs a fifth more.
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
