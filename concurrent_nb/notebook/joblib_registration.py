"""Registers the joblib backend when a notebook imports joblib: joblib has no entry point for backends.

`%load_ext` does not import joblib itself, because that takes 0.2 s, and is not needed for most notebooks.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from concurrent_nb.foreign import Log, call

log = Log(__name__)

#: the module of joblib that has the registry of backends
_REGISTRY: Final = "joblib.parallel"
_NAME: Final = "concurrent_nb"


class JoblibFinder(importlib.abc.MetaPathFinder):
    """Calls `loaded` with joblib's module of backends as soon as that has been imported."""

    def __init__(self, loaded: Callable[[types.ModuleType], object]) -> None:
        self._loaded = loaded

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find that module as Python does, and have its loader call back. None for all others."""
        if fullname != _REGISTRY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                call(log, "registering the joblib backend has raised", self._loaded, module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def make_backend(**options: Any) -> Any:
    """Return a backend. For joblib."""
    return import_module("concurrent_nb.joblib").make_backend(**options)


def _register(module: types.ModuleType) -> None:
    module.__dict__["BACKENDS"].setdefault(_NAME, make_backend)


_FINDER: Final = JoblibFinder(_register)


def register() -> None:
    """Register the backend now if joblib is there, else when it is imported."""
    if (module := sys.modules.get(_REGISTRY)) is not None:
        _register(module)
    elif _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def unregister() -> None:
    """Do not register it any more. A registered one stays: a name of joblib's registry cannot be taken back."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
