"""A cell as a task: one function that can be pickled, and the arguments of each call.

    notebook: cell_task(source, namespace, ...) -> CellTask(function, calls)
    worker:   the same function, unpickled; function(*call) for each task

Used by the notebook's magics to make a CellTask, and by workers, which unpickle the CellFunction and call it. What was
captured is a snapshot: each call works on values of its own, except for what cannot be changed. The memory of large
arrays is the same in each call; a worker makes it what it was before (`restoring`).
"""

import ast
import builtins
import importlib
import linecache
import marshal
import pickle
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concurrent_nb.errors import CaptureError, ConfigurationError
from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.cells.captured_names import Captured, NameCapture, capture, find
from concurrent_nb.shipping.cells.cell_code import (
    UNTIL,
    Cell,
    ForClause,
    compile_cell,
    compile_until,
    parse_cell,
    parse_for,
    parse_until,
)
from concurrent_nb.shipping.cells.names import CellNames
from concurrent_nb.shipping.environment.modules import names_imported
from concurrent_nb.shipping.runtime.setup_runner import SetupNames as BoundNames
from concurrent_nb.shipping.serialization import pickles, task_main
from concurrent_nb.shipping.serialization.references import is_importable
from concurrent_nb.shipping.serialization.source_lines import codes_in, lines_entry


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell, ready to be run: here or on a cluster."""

    function: "CellFunction"
    calls: Sequence[tuple[Any, ...]]  #: arguments of each task
    captured: tuple[Captured, ...]  #: what is sent along
    is_loop: bool  #: there was a --for, so the value is a list
    until: bool  #: the function returns a Hit when the value satisfies --until
    has_value: bool  #: the cell's last line is an expression, to be shown


def cell_task(
    source: str,
    namespace: dict[str, Any],
    *,
    for_text: str | None = None,
    until_text: str | None = None,
    filename: str = "<cell>",
    header: str | None = None,
    kept: Sequence[str] = (),
    limit_bytes: int | None = None,
    elsewhere: Collection[str] = (),
) -> CellTask:
    """Make a task of a cell. Everything that can be wrong with it is found here, before anything starts.

    Args:
        namespace: the notebook's names. They are read, never changed.
        for_text: the middle of a comprehension; evaluated once, here. A task for each item.
        until_text: an expression over `result`, evaluated where the task ran.
        filename: what tracebacks call the cell.
        header: the cell's first line, if that is no part of `source` (the magic), so that line numbers count it.
        kept: captured names of which each worker has one copy for all its tasks.
        limit_bytes: what the captured names may take together; None: see `capture`.
        elsewhere: names that the application's setups have bound in workers; taken where the notebook has none.

    Raises SyntaxError, CellError, ConfigurationError, CaptureError, TooLarge, and what the iterable of --for raises.
    """
    loop = parse_for(for_text) if for_text is not None else None
    until = parse_until(until_text) if until_text is not None else None
    cell = parse_cell(source, filename, 1 if header is None else 2)
    targets = loop.targets if loop is not None else ()
    found = _find(cell, until, targets, namespace, elsewhere)
    needed = cell.names.needed
    lent = _lent([cell.names, *([until] if until is not None else [])], found, targets, elsewhere)
    for name in kept:
        _check_kept(name, found, cell)
    assigned = tuple(sorted(name for name in found if name in needed and name in cell.names.bound))
    captured = capture(
        found,
        namespace,
        needed=needed,
        attributes={node.attr for node in ast.walk(cell.tree) if isinstance(node, ast.Attribute)},
        kept=kept,
        limit_bytes=limit_bytes,
    )
    code = compile_cell(cell, targets, assigned)
    function = CellFunction(
        name=filename,
        code=code,
        until=compile_until(until_text, targets) if until_text is not None else None,
        assigned=tuple(name for name in assigned if name not in cell.names.shared),
        captured=captured,
        sources=_own_sources(source, filename, header, until_text),
        imported_modules=frozenset(names_imported([code, *codes_in(found.values())])),
    )
    calls = _calls(loop, namespace)
    return CellTask(function, calls, (*captured.names, *lent), loop is not None, until is not None, cell.has_value)


def setup_cell(
    source: str,
    namespace: dict[str, Any],
    *,
    filename: str = "<cell>",
    header: str | None = None,
    limit_bytes: int | None = None,
    elsewhere: Collection[str] = (),
) -> "tuple[SetupCell, tuple[Captured, ...]]":
    """Make a function of a cell that gives what the cell binds; give what is sent along, too. As `cell_task`."""
    cell = parse_cell(source, filename, 1 if header is None else 2)
    found = _find(cell, None, (), namespace, elsewhere)
    captured = capture(
        found,
        namespace,
        needed=cell.names.needed,
        limit_bytes=limit_bytes,
    )
    code = compile(cell.tree, filename, "exec", cell.flags, True)
    function = SetupCell(
        name=filename,
        code=code,
        until=None,
        assigned=tuple(sorted(cell.names.bound)),
        captured=captured,
        sources=_own_sources(source, filename, header, None),
        imported_modules=frozenset(names_imported([code, *codes_in(found.values())])),
    )
    return function, (*captured.names, *_lent([cell.names], found, (), elsewhere))


def _lent(
    parts: Sequence[CellNames], found: Mapping[str, Any], targets: tuple[str, ...], elsewhere: Collection[str]
) -> list[Captured]:
    """List the names that setups lend to a cell."""
    needed = {name for names in parts for name in names.needed}
    return [Captured(name, "setup", 0) for name in sorted(needed.intersection(elsewhere) - {*found, *targets})]


def _find(
    cell: Cell, until: CellNames | None, targets: tuple[str, ...], namespace: dict[str, Any], elsewhere: Collection[str]
) -> dict[str, Any]:
    names = cell.names
    outside = {name: line for name, line in names.needed.items() if name not in targets}
    found = find(outside, namespace, names.bound, names.hinted, elsewhere)
    if until is None:
        return found
    if "result" in targets:
        raise ConfigurationError("--until calls a task's value `result`: give the variable of --for another name")
    own = {name: line for name, line in until.needed.items() if name not in ("result", *targets)}
    for name in own:
        if name in names.bound and name not in namespace:
            raise CaptureError(
                f"--until: {name} is a variable of the cell. --until sees `result`, the names of --for and the"
                " notebook's names",
                name,
            )
    try:
        return {**found, **find(own, namespace, ("result", *targets), (), elsewhere)}
    except CaptureError as error:
        raise CaptureError(f"--until: {str(error).removeprefix('line 1: ')}", error.name) from None


def _check_kept(name: str, found: Mapping[str, Any], cell: Cell) -> None:
    if name not in found:
        raise ConfigurationError(f"--shared {name}: the cell uses no {name} of the notebook")
    if name in cell.names.bound:
        raise ConfigurationError(
            f"--shared {name}: the cell assigns {name}, so each task has a variable of its own: change what it holds"
            f" (as in `{name}[key] = ...`), or leave --shared out"
        )


def _own_sources(source: str, filename: str, header: str | None, until_text: str | None) -> dict[str, str]:
    sources = {filename: source if header is None else f"{header}\n{source}"}
    if until_text is not None:
        sources[UNTIL] = f"{until_text}\n"
    return sources


def _calls(loop: ForClause | None, namespace: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [()] if loop is None else loop.calls(namespace)


class CellFunction:
    """What a worker calls: runs the cell once, on its own copy of what was captured.

    Returns the cell's value, or `Hit` of it when it satisfies --until.
    """

    def __init__(
        self,
        name: str,
        code: types.CodeType,
        until: types.CodeType | None,
        assigned: tuple[str, ...],
        captured: NameCapture,
        sources: Mapping[str, str],
        imported_modules: frozenset[str] = frozenset(),
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self._code = code
        self._until = until
        self._assigned = assigned  #: captured names that are parameters of the code
        self._captured = captured
        self._sources = sources
        self.imported_modules = imported_modules  #: by its code, and by that of what it uses
        self._shared: dict[str, Any] | None = None
        self._arrays: dict[str, Any] = {}
        self._names: Mapping[str, Any] = {}  # that setups have bound in this worker
        self._lines = {name: lines_entry(name, text) for name, text in sources.items()}

    def __call__(self, *values: Any) -> Any:
        """Run the cell with the values of the names of --for."""
        self.keep_lines()  # another cell of the same name may have run here since
        namespace = self._namespace()
        assigned = [namespace[name] for name in self._assigned]
        result = types.FunctionType(self._code, namespace)(*values, *assigned)
        if self._until is not None and types.FunctionType(self._until, namespace)(result, *values):
            return Hit(result)
        return result

    def use_names(self, names: Mapping[str, Any]) -> None:
        """Let the cell, and the notebook's functions that it uses, find these names where they have none."""
        self._names = names

    def keep_lines(self) -> None:
        """Let tracebacks, and what travels with functions that the cell has made, find the cell's lines here."""
        linecache.cache.update(self._lines)

    def load(self) -> dict[str, Any]:
        """Import and unpickle what all calls share. Raises ModuleNotFoundError and whatever unpickling raises."""
        captured = self._captured
        for module in captured.submodules:
            importlib.import_module(module)
        imported = {name: importlib.import_module(module) for name, module in captured.imports.items()}
        shared: dict[str, Any] = {}
        if captured.shared:
            shared.update(pickles.loads(captured.shared))
        if captured.arrays:
            self._arrays = pickles.loads(captured.arrays, captured.buffers)
        if captured.once:
            # Copies, because what tasks change of these stays.
            loaded = pickles.loads(captured.once, [bytearray(buffer) for buffer in captured.once_buffers])
            found = loaded if isinstance(loaded, dict) else loaded.__globals__
            shared.update({name: found[name] for name in captured.kept})
        # What it brought with it is found in `__main__` as well, so that pickle in a task finds the class of an object.
        shared = {**task_main.defined_names(), **imported, **shared}
        self._shared = shared
        return shared

    def _namespace(self) -> dict[str, Any]:
        shared = self._shared if self._shared is not None else self.load()
        namespace: dict[str, Any] = task_main.enter_new().__dict__
        namespace.update({name: array.view() for name, array in self._arrays.items()})
        if self._captured.fresh:
            loaded = pickles.loads(self._captured.fresh, self._captured.buffers)
            if isinstance(loaded, dict):
                namespace.update(loaded)
            else:
                namespace = loaded.__globals__
        namespace.update(shared)
        task_main.apply_initialized(namespace)
        if self._names:
            functions = [value for value in namespace.values() if isinstance(value, types.FunctionType)]
            for own in [namespace, *(function.__globals__ for function in functions if not is_importable(function))]:
                for name, value in self._names.items():
                    own.setdefault(name, value)
        namespace["__name__"] = "__main__"
        namespace["__builtins__"] = builtins
        task_main.end_function_load()
        return namespace

    def __reduce__(self) -> tuple[Any, ...]:
        captured = self._captured
        # Large ones travel outside of the pickle, uncopied.
        bodies = [
            pickle.PickleBuffer(body) for body in (captured.shared, captured.fresh, captured.arrays, captured.once)
        ]
        buffers = [
            [pickle.PickleBuffer(buffer) for buffer in left_out]
            for left_out in (captured.buffers, captured.once_buffers)
        ]
        codes = [marshal.dumps(code) if code is not None else None for code in (self._code, self._until)]
        rest = (dict(captured.imports), captured.submodules, captured.kept, dict(self._sources))
        return _load_cell, (type(self), self.__name__, *codes, self._assigned, bodies, *buffers, *rest)


class SetupCell(CellFunction):
    """A cell whose names stay in the worker: what it returns when it is called there."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that it binds."""
        return self._assigned

    def __call__(self, *values: Any) -> BoundNames:
        """Run the cell; give what it has bound."""
        self.keep_lines()
        namespace = self._namespace()
        exec(self._code, namespace)
        return BoundNames({name: namespace[name] for name in self._assigned if name in namespace})


def _load_cell(
    kind: type[CellFunction],
    name: str,
    code: bytes,
    until: bytes | None,
    assigned: tuple[str, ...],
    bodies: list[Any],
    buffers: list[Any],
    once_buffers: list[Any],
    imports: dict[str, str],
    submodules: tuple[str, ...],
    kept: tuple[str, ...],
    sources: dict[str, str],
) -> CellFunction:
    """Unpickle a CellFunction, with all that its calls share, so that what is missing here is missed at once."""
    shared, fresh, arrays, once = bodies
    captured = NameCapture((), imports, submodules, shared, fresh, arrays, (*buffers,), kept, once, (*once_buffers,))
    condition = marshal.loads(until) if until is not None else None
    function = kind(name, marshal.loads(code), condition, assigned, captured, sources)
    function.load()
    return function
