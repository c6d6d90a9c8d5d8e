"""The worker's side of the user's modules: sets of modules sent by content, and the finder of the current set.

If any module differs from those of former sets, the whole set is imported anew, so versions never mix. Each set has
module objects of its own, which are in `sys.modules` while its tasks run.
"""

import importlib
import importlib.util
import linecache
import os
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from typing import Any, Final

from concurrent_nb.shipping.environment.modules import ModuleSource, finders_after, stamp_of
from concurrent_nb.shipping.environment.origin import is_compiled, is_users
from concurrent_nb.shipping.serialization.source_lines import lines_entry

#: seconds without a change after which another change of the same second is certain not to come
SETTLED_S: Final = 2.0

_codes: Final[dict[tuple[str, bytes], types.CodeType]] = {}
_lines: Final[dict[tuple[str, bytes], Any]] = {}


class _Loader(SourceFileLoader):
    """Runs a source that was sent; other files beside it are those of this machine."""

    def __init__(self, source: ModuleSource) -> None:
        super().__init__(source.name, source.filename)
        self._source = source
        self.travelled = source.text

    def get_data(self, path: str) -> bytes:
        """Return the contents of a file. Raises OSError."""
        return self._source.text if path == self.path else super().get_data(path)

    def get_code(self, fullname: str) -> types.CodeType:
        """Return the code: compiled once in this process, or Python's cached code of a file here with the same text.

        Raises SyntaxError.
        """
        key = self.path, self._source.text
        code = _codes.get(key)
        if code is None and self._may_be_cached():
            code = super().get_code(fullname)
        if code is None:
            code = compile(self._source.text, self.path, "exec", dont_inherit=True)
        _codes[key] = code
        return code

    def _may_be_cached(self) -> bool:
        """Return whether Python's cached code of the file here, if there is any, is that of this source.

        Python compares the size and the second of the last change, so code of a former text may seem right if the file
        was changed twice within a second: cached code of a file that has just changed is neither used nor written.
        """
        try:
            if not time.time() - os.stat(self.path).st_mtime > SETTLED_S:
                return False
            with open(self.path, "rb") as file:
                return file.read() == self._source.text
        except OSError:
            return False

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module, and register its lines for tracebacks."""
        keep_lines(self._source)
        super().exec_module(module)


def keep_lines(source: ModuleSource) -> None:
    """Register the lines that were sent, so that tracebacks show them and not those of this machine's file."""
    key = source.filename, source.text
    entry = _lines.get(key)
    if entry is None:
        entry = _lines[key] = lines_entry(source.filename, importlib.util.decode_source(source.text))
    linecache.cache[source.filename] = entry


class ModuleSet:
    """The user's modules of one version.

    Args:
        sources: modules that were sent by content; other modules of the user are found on this machine, by path.
    """

    def __init__(self, sources: Iterable[ModuleSource] = ()) -> None:
        self.sources = {source.name: source for source in sources}
        self.loaded: dict[str, types.ModuleType] = {}  #: while the set is not the current one
        self.by_path: list[
            tuple[str, tuple[int, int] | None]
        ] = []  #: files that were imported from this machine, with their stamps
        self.is_stale = False  #: such a file has changed, so the set is not used again

    def has_changed(self) -> bool:
        """Return whether a file that was imported by path has changed since; then the set is stale."""
        if self.by_path and any(stamp_of(path) != stamp for path, stamp in self.by_path):
            self.is_stale = True
        return self.is_stale


class ModuleFinder:
    """Finds modules of the current set; the first finder on `sys.meta_path` of a worker."""

    def __init__(self) -> None:
        self.current = ModuleSet()
        self._is_users: dict[str, tuple[int, bool]] = {}
        self._compiled: dict[str, tuple[int, int] | None] = {}  # those that this process has loaded, which stay loaded
        self._displaced: dict[str, types.ModuleType] = {}  # modules whose names the current set uses
        self.on_import: dict[str, Callable[[str], None]] = {}  #: module -> called with its name once it is imported

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of the current set. Raises ImportError for a compiled one of another version."""
        source = self.current.sources.get(fullname)
        callback = self.on_import.get(fullname)
        if source is None and callback is None:
            return None
        spec = self._spec(source) if source is not None else _spec_by_others(fullname, path, self)
        if callback is not None and spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = partial(_execute_and_call, execute, callback)  # type: ignore[method-assign]
        return spec

    def _spec(self, source: ModuleSource) -> ModuleSpec | None:
        folders = list(source.folders) if source.folders is not None else None
        if not source.filename:
            spec = ModuleSpec(source.name, None, is_package=True)
            spec.submodule_search_locations = folders
            return spec
        if is_compiled(source.filename):
            self._check_compiled(source)
            return importlib.util.spec_from_file_location(
                source.name, source.filename, loader=ExtensionFileLoader(source.name, source.filename)
            )
        spec_of_file = importlib.util.spec_from_file_location(
            source.name, source.filename, loader=_Loader(source), submodule_search_locations=folders
        )
        assert spec_of_file is not None
        spec_of_file.cached = None
        return spec_of_file

    def _check_compiled(self, source: ModuleSource) -> None:
        local_stamp = stamp_of(source.filename)
        if local_stamp is None:
            raise ImportError(
                f"{source.name} is a compiled module, which does not travel, and this host has no {source.filename}:"
                " install it here",
                name=source.name,
                path=source.filename,
            )
        if local_stamp != source.stamp:
            raise ImportError(
                f"{source.name} is a compiled module, and {source.filename} is another file here than when the"
                " notebook imported it: restart the kernel, so that both have the new one",
                name=source.name,
                path=source.filename,
            )

    def enter(self, modules: ModuleSet) -> None:
        """Replace the current set. Raises ImportError for a compiled module of another version."""
        if modules is self.current:
            return
        for source in modules.sources.values():
            if source.stamp is not None and self._compiled.get(source.name, source.stamp) != source.stamp:
                raise ImportError(
                    f"{source.name} is a compiled module that has changed, and this worker has loaded the former one,"
                    " which nothing can replace: restart the cluster (%concurrent stop, then run the cell again)",
                    name=source.name,
                    path=source.filename,
                )
        self._leave()
        self.current = modules
        for name, source in modules.sources.items():
            if name not in modules.loaded and name in sys.modules and not is_compiled(source.filename):
                self._displaced[name] = sys.modules.pop(name)
        sys.modules.update(modules.loaded)
        for name, module in modules.loaded.items():
            parent, _, child = name.rpartition(".")
            if parent and parent not in modules.loaded and parent in sys.modules:
                setattr(sys.modules[parent], child, module)
            shown = modules.sources.get(name)
            if shown is not None and shown.text:
                keep_lines(shown)
        modules.loaded = {}
        importlib.invalidate_caches()

    def _leave(self) -> None:
        current = self.current
        for name, module in self.user_modules():
            if is_compiled(str(getattr(module, "__file__", ""))):
                continue  # it cannot be loaded twice
            current.loaded[name] = module
            del sys.modules[name]
        for name, module in current.loaded.items():
            parent, _, child = name.rpartition(".")
            outer = sys.modules.get(parent)
            if outer is not None and vars(outer).get(child) is module:
                delattr(outer, child)
        sys.modules.update(self._displaced)
        self._displaced = {}

    def user_modules(self) -> list[tuple[str, types.ModuleType]]:
        """Return the names and objects of the user's imported modules."""
        known = self._is_users
        found = []
        for name, module in list(sys.modules.items()):
            entry = known.get(name)
            if entry is None or entry[0] != id(module):
                entry = known[name] = id(module), self._is_users_module(name, module)
            if entry[1]:
                found.append((name, module))
        return found

    def _is_users_module(self, name: str, module: Any) -> bool:
        return name in self.current.sources or is_users(name, getattr(module, "__spec__", None))

    def record_imports(self) -> None:
        """Record modules that were imported by path, because their files may change."""
        by_path = self.current.by_path
        seen = {path for path, _ in by_path}
        for name, module in self.user_modules():
            file = getattr(module, "__file__", None)
            if not isinstance(file, str):
                continue
            if is_compiled(file):
                self._compiled.setdefault(name, stamp_of(file))
            elif name not in self.current.sources and file not in seen:
                by_path.append((file, stamp_of(file)))


def _spec_by_others(fullname: str, path: Sequence[str] | None, without: object) -> ModuleSpec | None:
    """Find a module by all other finders."""
    for finder in finders_after(without):
        spec: ModuleSpec | None = finder.find_spec(fullname, path, None)
        if spec is not None:
            return spec
    return None


def _execute_and_call(
    execute: Callable[[types.ModuleType], None], callback: Callable[[str], None], module: types.ModuleType
) -> None:
    execute(module)
    callback(module.__name__)
