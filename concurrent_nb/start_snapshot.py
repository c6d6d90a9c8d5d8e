"""This process as it was when concurrent_nb was imported: what has changed since then, tasks see too.

What was there before belongs to the machine (PATH, HOME, where Python is), and another machine has its own.
"""

import os
import sys
from typing import Final


def current_folder() -> str:
    """Give the current folder; "" if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


VARIABLES: Final = dict(os.environ)
PATH: Final = tuple(sys.path)
FOLDER: Final = current_folder()
