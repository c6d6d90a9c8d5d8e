"""Registers the joblib backend when a notebook imports joblib: joblib has no entry point for backends.

`%load_ext` does not import joblib itself, because that takes 0.2 s, and is not needed for most notebooks.
"""

import sys
import types
from importlib import import_module
from typing import Any, Final

from concurrent_nb.foreign import Log, guarded
from concurrent_nb.import_hook import ImportHook

log = Log(__name__)

#: the module of joblib that has the registry of backends
_REGISTRY: Final = "joblib.parallel"
_NAME: Final = "concurrent_nb"


def make_backend(**options: Any) -> Any:
    """Return a backend. For joblib."""
    return import_module("concurrent_nb.joblib").make_backend(**options)


def _register(module: types.ModuleType) -> None:
    module.__dict__["BACKENDS"].setdefault(_NAME, make_backend)


_HOOK: Final = ImportHook(_REGISTRY, guarded(log, "registering the joblib backend has raised", _register))


def register() -> None:
    """Register the backend now if joblib is there, else when it is imported."""
    if (module := sys.modules.get(_REGISTRY)) is not None:
        _register(module)
    elif _HOOK not in sys.meta_path:
        sys.meta_path.insert(0, _HOOK)


def unregister() -> None:
    """Do not register it any more. A registered one stays: a name of joblib's registry cannot be taken back."""
    if _HOOK in sys.meta_path:
        sys.meta_path.remove(_HOOK)
