"""Changes a module of others as soon as it has been imported."""

import importlib.machinery
import types
from collections.abc import Callable, Sequence


class ImportHook:
    """A finder for `sys.meta_path` that calls `imported` with one module when Python has run it.

    Args:
        name: full name of the module.
        imported: gets the module. What it raises, the import raises.
    """

    def __init__(self, name: str, imported: Callable[[types.ModuleType], object]) -> None:
        self._name = name
        self._imported = imported

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find that module as Python does, and have its loader call `imported`. None for all others."""
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                self._imported(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
