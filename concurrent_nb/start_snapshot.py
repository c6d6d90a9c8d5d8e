"""The state of this process when concurrent_nb was imported. Tasks get only what has changed since then.

What was set before belongs to the machine (PATH, HOME, the location of Python), and other machines have their own.
"""

import os
import sys
from typing import Final


def current_folder() -> str:
    """Return the current folder; "" if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


VARIABLES: Final = dict(os.environ)
PATH: Final = tuple(sys.path)
FOLDER: Final = current_folder()
