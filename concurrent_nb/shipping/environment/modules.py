"""The sources of the user's modules, as they were when this process imported them.

The code that the process runs is sent, not that on disk: a file that was edited and not reloaded is sent as it was, and
after a reload as it is then. So the source is read when a module is imported or reloaded (`ImportWatcher`, first on
`sys.meta_path`). Modules that functions import and this process has not imported yet are read from their files, at each
comparison.
"""

import os
import re
import sys
import threading
import types
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final, NamedTuple

from concurrent_nb.shipping.environment.origin import is_compiled, is_users

_IMPORT: Final = re.compile(
    rb"^[ \t]*(?:from[ \t]+(?P<base>\.*[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|(?:[^\n\\;#]|\\\r?\n)*)"
    rb"|import[ \t]+(?P<modules>(?:[^\n\\;#]|\\\r?\n)*))",
    re.MULTILINE,
)
_COMMENT: Final = re.compile(rb"#[^\n]*")
_NAME: Final = re.compile(rb"[\w.]+")


class ModuleSource(NamedTuple):
    """The source of a module, as it travels."""

    name: str
    filename: str  #: "" of a namespace package
    folders: tuple[str, ...] | None  #: of a package
    text: bytes
    stamp: tuple[int, int] | None = None  #: of a compiled module, which does not travel: time of change and size


class ImportWatcher:
    """Reads the sources of the user's modules when they are imported, and counts imports."""

    def __init__(self) -> None:
        self.count = 0  #: of imports and reloads, successful or not
        self.read: dict[str, tuple[ModuleSpec, bytes]] = {}
        self._busy = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module by all other finders, and read its source if it is the user's."""
        self.count += 1
        for finder in finders_after(self):
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find is not None else None
            if spec is not None:
                if is_users(fullname, spec) and (text := read_source(spec)) is not None:
                    self.read[fullname] = spec, text
                return spec
        return None


def finders_after(finder: object) -> list[Any]:
    """Return the finders that Python calls after this one."""
    finders = list(sys.meta_path)
    return finders[finders.index(finder) + 1 :] if finder in finders else finders


def read_source(spec: Any) -> bytes | None:
    """Read the source of a module; None if it has none."""
    travelled: bytes | None = getattr(spec.loader, "travelled", None)  # in a worker
    if travelled is not None:
        return travelled
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str) or is_compiled(origin) or not spec.has_location:
        return None
    try:
        with open(origin, "rb") as file:
            return file.read()
    except OSError:
        get_data = getattr(spec.loader, "get_data", None)  # in an archive
        try:
            return bytes(get_data(origin)) if get_data is not None else None
        except OSError:
            return None


def stamp_of(path: str) -> tuple[int, int] | None:
    """Return a file's time of change and size; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def imported_by(text: bytes, package: str) -> set[str]:
    """Return the absolute names of modules that a source may import, at any level; rather too many than too few.

    Args:
        package: the base of relative imports.
    """
    found: set[str] = set()
    for match in _IMPORT.finditer(text):
        if (modules := match["modules"]) is not None:
            for part in modules.split(b","):
                if name := _NAME.match(part.strip(b" \t\\\r\n")):
                    found.add(name[0].decode("utf-8", "replace"))
            continue
        base = match["base"].decode("utf-8", "replace")
        level = len(base) - len(base.lstrip("."))
        if level:
            parents = package.split(".")
            if not package or level > len(parents):
                continue
            base = ".".join([*parents[: len(parents) - level + 1], *([base[level:]] if base[level:] else [])])
        found.add(base)
        names = _COMMENT.sub(b"", match["names"]).strip(b"() \t\r\n")
        for part in names.split(b","):
            if name := _NAME.match(part.strip(b" \t\\\r\n")):
                found.add(f"{base}.{name[0].decode('utf-8', 'replace')}")
    return found


def find_unloaded(name: str) -> ModuleSpec | None:
    """Find a module that is not imported, without importing it or its packages. Raises what other finders raise."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        whole = ".".join(parts[:end])
        loaded = sys.modules.get(whole)
        spec: Any = getattr(loaded, "__spec__", None)
        if spec is None:
            spec = _find_spec(whole, path)
        if spec is None:
            return None
        if end == len(parts):
            return spec  # type: ignore[no-any-return]
        path = getattr(loaded, "__path__", None) or spec.submodule_search_locations
        if path is None:
            return None
        path = list(path)
    return None


def _find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    if path is not None:
        try:
            return PathFinder.find_spec(name, path)
        except KeyError:  # a folder without __init__.py in a package that is not imported, which its spec needs
            return None
    for finder in list(sys.meta_path):
        find = getattr(finder, "find_spec", None)
        if find is None or isinstance(finder, ImportWatcher):
            continue
        spec: ModuleSpec | None = find(name, None, None)
        if spec is not None:
            return spec
    return None


def source_of(name: str, spec: Any, text: bytes) -> ModuleSource:
    """Return the source of a module as it travels."""
    folders = spec.submodule_search_locations
    filename = os.path.abspath(spec.origin) if isinstance(spec.origin, str) and spec.has_location else ""
    stamp = stamp_of(filename) if is_compiled(filename) else None
    return ModuleSource(
        name, filename, tuple(map(os.path.abspath, folders)) if folders is not None else None, text, stamp
    )


def code_of(module: types.ModuleType) -> list[types.CodeType]:
    """Return the code of a module's own functions and methods, by which changes in place are noticed."""
    name = module.__name__
    found: list[types.CodeType] = []
    for value in list(vars(module).values()):
        if type(value) is types.FunctionType:
            if value.__module__ == name:
                found.append(value.__code__)
        elif isinstance(value, type) and value.__module__ == name:
            for part in list(vars(value).values()):
                function = getattr(part, "__func__", getattr(part, "fget", part))
                if type(function) is types.FunctionType:
                    found.append(function.__code__)
    return found


def runs_source(module: types.ModuleType, text: bytes) -> bool:
    """Return whether the functions of an imported module are those of a source, as far as can be seen."""
    try:
        code = compile(text, getattr(module, "__file__", None) or "<source>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    written: dict[str, list[tuple[Any, ...]]] = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            written.setdefault(constant.co_name, []).append(_essence(constant))
    for name, value in list(vars(module).items()):
        is_own = type(value) is types.FunctionType and value.__module__ == module.__name__
        if is_own and value.__code__.co_name == name and _essence(value.__code__) not in written.get(name, ()):
            return False
    return True


def _essence(code: types.CodeType) -> tuple[Any, ...]:
    return code.co_code, code.co_consts, code.co_names


def names_imported(codes: Iterable[types.CodeType]) -> set[str]:
    """Return the names of modules that code imports, nested functions included."""
    import dis  # here, because importing it takes time and most code imports nothing

    found: set[str] = set()
    todo = list(codes)
    while todo:
        code = todo.pop()
        todo += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        name = ""
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                name = str(instruction.argval)
                found.add(name)
            elif instruction.opname == "IMPORT_FROM":
                found.add(f"{name}.{instruction.argval}")
    return found
