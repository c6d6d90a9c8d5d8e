"""The origin of a module: the user's, or installed on each machine.

The user's are files beside the notebook, below the current folder, in editable installs, in folders that were added to
`sys.path`: all modules that are not part of Python, not installed into site-packages, and not of this package.
"""

import os
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_PACKAGE: Final = str(Path(__file__).resolve().parents[2])
#: modules that are imported at the start of Python or by debuggers of editors, from folders of their own
_OTHERS: Final = (
    "__main__",
    "__mp_main__",
    "sitecustomize",
    "usercustomize",
    "debugpy",
    "pydev",
    "_pydev",
    "_cython_cell_",
)


def _standard_folders() -> tuple[str, ...]:
    found = {os.path.dirname(os.__file__), *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib"))}
    if not sysconfig.is_python_build():
        found |= {os.path.realpath(folder) for folder in found}
    return tuple(sorted(os.path.join(folder, "") for folder in found))


_STANDARD: Final = _standard_folders()
_known: Final[dict[str, bool]] = {}


def is_users_path(path: str) -> bool:
    """Return whether a file or folder of this path is the user's."""
    folder = os.path.dirname(path)
    known = _known.get(folder)
    if known is None:
        known = _known[folder] = _is_users_folder(folder)
    return known


def _is_users_folder(folder: str) -> bool:
    for way in (folder, os.path.realpath(folder)):
        whole = os.path.join(way, "")
        if whole.startswith(_STANDARD) or not _INSTALLED.isdisjoint(way.split(os.sep)):
            return False
        if way == _PACKAGE or way.startswith(os.path.join(_PACKAGE, "")):
            return False
    return True


def is_users(name: str, spec: Any) -> bool:
    """Return whether a module of this name and `__spec__` is the user's: Python, compiled, or a namespace package."""
    if spec is None or name.startswith(_OTHERS):
        return False
    if name.partition(".")[0] in sys.builtin_module_names:
        return False
    origin = getattr(spec, "origin", None)
    if isinstance(origin, str) and getattr(spec, "has_location", False):
        return (origin.endswith(".py") or is_compiled(origin)) and is_users_path(os.path.abspath(origin))
    folders = getattr(spec, "submodule_search_locations", None)
    if origin is None and folders is not None:
        return any(is_users_path(os.path.join(os.path.abspath(folder), "")) for folder in list(folders))
    return False


def is_compiled(path: str) -> bool:
    """Return whether a file is a compiled module."""
    return path.endswith(tuple(EXTENSION_SUFFIXES))
