"""Make a task of a cell: a function that can be pickled, and the arguments of each call.

    notebook: cell_task(parse_cell(source), namespace, ...) -> CellTask(function, calls)
    worker:   the same function, unpickled; function(*call) for each task

Used by the notebook's magics to make a CellTask, and by workers, which unpickle the CellFunction and call it. Captured
values are a snapshot: each call works on its own copies, except for immutable values. The memory of large arrays is
shared by all calls; a worker restores it after each call (`restoring`).
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
    UntilClause,
    compile_cell,
    compile_until,
)
from concurrent_nb.shipping.cells.names import CellNames
from concurrent_nb.shipping.environment.modules import names_imported
from concurrent_nb.shipping.runtime.setup_runner import SetupNames
from concurrent_nb.shipping.serialization import pickles, task_inputs, task_main
from concurrent_nb.shipping.serialization.references import global_names, is_importable
from concurrent_nb.shipping.serialization.source_lines import codes_in, lines_entry


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell that is ready to run, here or on a cluster."""

    function: "CellFunction"
    calls: Sequence[tuple[Any, ...]]  #: arguments of each task
    captured: tuple[Captured, ...]  #: the names that are sent with the cell
    is_loop: bool  #: it has a --for, so its value is a list
    loop_names: tuple[str, ...]  #: the names that --for binds, in the order of the arguments
    until: bool  #: the function returns a Hit when the value satisfies --until
    has_value: bool  #: the cell's last line is an expression, whose value is shown


def cell_task(
    cell: Cell,
    namespace: dict[str, Any],
    *,
    loop: ForClause | None = None,
    until: UntilClause | None = None,
    per_worker_names: Sequence[str] = (),
    limit_bytes: int | None = None,
    setup_names: Collection[str] = (),
) -> CellTask:
    """Make a task of a cell. All errors in the cell and its options are found here, before anything starts.

    Args:
        namespace: the notebook's names. They are read, never changed.
        loop: the parsed --for: its iterable is evaluated here, once, and there is a task for each item.
        until: the parsed --until, which is evaluated where the task ran.
        per_worker_names: captured names of which each worker has one copy for all its tasks.
        limit_bytes: upper limit of the size of all captured names; None: see `capture`.
        setup_names: names that the application's setups have bound in workers; used where the notebook has none.

    Raises ConfigurationError, CaptureError, TooLarge, and what the iterable of --for raises.
    """
    targets = loop.targets if loop is not None else ()
    found = _find(cell, until, targets, namespace, setup_names)
    needed = cell.names.needed
    parts = [cell.names] if until is None else [cell.names, until.names]
    of_setups = _names_of_setups(parts, found, targets, setup_names)
    for name in per_worker_names:
        _check_per_worker(name, found, cell)
    assigned = tuple(sorted(name for name in found if name in needed and name in cell.names.bound))
    with task_inputs.collecting_any() as inputs:
        captured = capture(
            found,
            namespace,
            needed=needed,
            attributes={node.attr for node in ast.walk(cell.tree) if isinstance(node, ast.Attribute)},
            per_worker_names=per_worker_names,
            limit_bytes=limit_bytes,
        )
    code = compile_cell(cell, targets, assigned)
    function = CellFunction(
        name=cell.filename,
        code=code,
        until=compile_until(until, targets) if until is not None else None,
        assigned=tuple(name for name in assigned if name not in cell.names.global_names),
        captured=captured,
        sources=_own_sources(cell, until),
        imported_modules=frozenset(names_imported([code, *codes_in(found.values())])),
    )
    if inputs is not None:
        function.inputs = inputs.futures
    return CellTask(
        function=function,
        calls=[()] if loop is None else loop.calls(namespace),
        captured=(*captured.names, *of_setups),
        is_loop=loop is not None,
        loop_names=targets,
        until=until is not None,
        has_value=cell.has_value,
    )


def setup_cell(
    cell: Cell,
    namespace: dict[str, Any],
    *,
    limit_bytes: int | None = None,
    setup_names: Collection[str] = (),
) -> "tuple[SetupCell, tuple[Captured, ...]]":
    """Return a function that runs a cell and returns the names that it binds, and what is sent with it.

    Arguments and errors are those of `cell_task`.
    """
    found = _find(cell, None, (), namespace, setup_names)
    captured = capture(found, namespace, needed=cell.names.needed, limit_bytes=limit_bytes)
    code = compile(cell.tree, cell.filename, "exec", cell.flags, True)
    function = SetupCell(
        name=cell.filename,
        code=code,
        until=None,
        assigned=tuple(sorted(cell.names.bound)),
        captured=captured,
        sources=_own_sources(cell, None),
        imported_modules=frozenset(names_imported([code, *codes_in(found.values())])),
    )
    return function, (*captured.names, *_names_of_setups([cell.names], found, (), setup_names))


def _names_of_setups(
    parts: Sequence[CellNames], found: Mapping[str, Any], targets: tuple[str, ...], setup_names: Collection[str]
) -> list[Captured]:
    """Return the names of a cell that are bound by setups."""
    needed = {name for names in parts for name in names.needed}
    return [Captured(name, "setup", 0) for name in sorted(needed.intersection(setup_names) - {*found, *targets})]


def _find(
    cell: Cell,
    until: UntilClause | None,
    targets: tuple[str, ...],
    namespace: dict[str, Any],
    setup_names: Collection[str],
) -> dict[str, Any]:
    names = cell.names
    outside = {name: line for name, line in names.needed.items() if name not in targets}
    found = find(outside, namespace, names.bound, names.hinted, setup_names)
    if until is None:
        return found
    if "result" in targets:
        raise ConfigurationError("--until uses the name `result` for the value of a task: choose another name in --for")
    own = {name: line for name, line in until.names.needed.items() if name not in ("result", *targets)}
    for name in own:
        if name in names.bound and name not in namespace:
            raise CaptureError(
                f"--until: {name} is a variable of the cell, but --until can only use `result`, the names of --for and"
                " the notebook's names",
                name,
            )
    try:
        return {**found, **find(own, namespace, ("result", *targets), (), setup_names)}
    except CaptureError as error:
        raise CaptureError(f"--until: {str(error).removeprefix('line 1: ')}", error.name) from None


def _check_per_worker(name: str, found: Mapping[str, Any], cell: Cell) -> None:
    if name not in found:
        raise ConfigurationError(f"--shared {name}: the cell does not use a variable {name} of the notebook")
    if name in cell.names.bound:
        raise ConfigurationError(
            f"--shared {name}: the cell assigns {name}, so each task has its own variable: change its content"
            f" (as in `{name}[key] = ...`), or remove --shared"
        )


def _own_sources(cell: Cell, until: UntilClause | None) -> dict[str, str]:
    sources = {cell.filename: cell.source if cell.header is None else f"{cell.header}\n{cell.source}"}
    if until is not None:
        sources[UNTIL] = f"{until.text}\n"
    return sources


class CellFunction:
    """The function that a worker calls: runs the cell once, on its own copies of the captured values.

    Returns the cell's value, or a `Hit` with the value if it satisfies --until.
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
        self.imported_modules = imported_modules  #: modules that its code and the captured functions import
        self.inputs: tuple[Any, ...] = ()  #: futures among the captured values: each task needs their values
        self._shared: dict[str, Any] | None = None
        self._arrays: dict[str, Any] = {}
        self._names: Mapping[str, Any] = {}  # bound by setups in this worker
        self._lines = {name: lines_entry(name, text) for name, text in sources.items()}

    def __call__(self, *values: Any) -> Any:
        """Run the cell; `values` are those of the names of --for."""
        self.keep_lines()  # another cell of the same name may have run here meanwhile
        namespace = self._namespace()
        assigned = [namespace[name] for name in self._assigned]
        result = types.FunctionType(self._code, namespace)(*values, *assigned)
        if self._until is not None and types.FunctionType(self._until, namespace)(result, *values):
            return Hit(result)
        return result

    def use_names(self, names: Mapping[str, Any]) -> None:
        """Make these names available to the cell and the notebook's functions that it uses, unless they have them."""
        self._names = names

    def keep_lines(self) -> None:
        """Register the cell's lines in `linecache`, for tracebacks and for the sources of functions that it defines."""
        linecache.cache.update(self._lines)

    def load(self) -> dict[str, Any]:
        """Import and unpickle the values that all calls share. Raises ModuleNotFoundError and errors of unpickling."""
        captured = self._captured
        for module in captured.submodules:
            importlib.import_module(module)
        imported = {name: importlib.import_module(module) for name, module in captured.imports.items()}
        shared: dict[str, Any] = {}
        if captured.shared:
            shared.update(pickles.loads(captured.shared))
        if captured.arrays:
            self._arrays = pickles.loads(captured.arrays, captured.buffers)
        if captured.per_worker:
            # Writable copies, because changes by tasks must persist.
            loaded = pickles.loads(captured.per_worker, [bytearray(buffer) for buffer in captured.per_worker_buffers])
            found = loaded if isinstance(loaded, dict) else loaded.__globals__
            shared.update({name: found[name] for name in captured.per_worker_names})
        # Classes that were sent with it are in `__main__` as well, so that pickle finds them in a task.
        shared = {**task_main.defined_names(), **imported, **shared}
        self._shared = shared
        return shared

    def _namespace(self) -> dict[str, Any]:
        shared = self._shared if self._shared is not None else self.load()
        namespace: dict[str, Any] = task_main.enter_new().__dict__
        namespace.update({name: array.view() for name, array in self._arrays.items()})
        if self._captured.per_task:
            try:
                loaded = pickles.loads(self._captured.per_task, self._captured.buffers)
            except Exception as error:
                read = [it for it in global_names(self._code)[0] if it not in shared and not hasattr(builtins, it)]
                error.add_note(
                    f"raised where a value was unpickled for the task: {', '.join(sorted({*self._assigned, *read}))}"
                )
                raise
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
        # Large buffers are sent outside of the pickle, without copies.
        bodies = [
            pickle.PickleBuffer(body)
            for body in (captured.shared, captured.per_task, captured.arrays, captured.per_worker)
        ]
        buffers = [
            [pickle.PickleBuffer(buffer) for buffer in left_out]
            for left_out in (captured.buffers, captured.per_worker_buffers)
        ]
        codes = [marshal.dumps(code) if code is not None else None for code in (self._code, self._until)]
        rest = (dict(captured.imports), captured.submodules, captured.per_worker_names, dict(self._sources))
        return _load_cell, (type(self), self.__name__, *codes, self._assigned, bodies, *buffers, *rest)


class SetupCell(CellFunction):
    """A setup cell: its names stay in the worker. A call returns them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that the cell binds."""
        return self._assigned

    def __call__(self, *values: Any) -> SetupNames:
        """Run the cell; return the names that it has bound."""
        self.keep_lines()
        namespace = self._namespace()
        exec(self._code, namespace)
        return SetupNames({name: namespace[name] for name in self._assigned if name in namespace})


def _load_cell(
    kind: type[CellFunction],
    name: str,
    code: bytes,
    until: bytes | None,
    assigned: tuple[str, ...],
    bodies: list[Any],
    buffers: list[Any],
    per_worker_buffers: list[Any],
    imports: dict[str, str],
    submodules: tuple[str, ...],
    per_worker_names: tuple[str, ...],
    sources: dict[str, str],
) -> CellFunction:
    """Unpickle a CellFunction and load its shared values, so that a missing module is reported immediately."""
    shared, per_task, arrays, per_worker = bodies
    captured = NameCapture(
        (),
        imports,
        submodules,
        shared,
        per_task,
        arrays,
        (*buffers,),
        per_worker_names,
        per_worker,
        (*per_worker_buffers,),
    )
    condition = marshal.loads(until) if until is not None else None
    function = kind(name, marshal.loads(code), condition, assigned, captured, sources)
    function.load()
    return function
