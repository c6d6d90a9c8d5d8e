"""Capture the names that a cell uses from the notebook: find, check, measure and pickle them, once per job.

Used by `cell_task`. Modules are sent by name. Values that tasks may share (constants, functions) are pickled apart from
values of which each task gets its own copy, so that only the latter are unpickled for each task. Large buffers are left
out of the pickles and not copied: they are the memory of live arrays until the cell is sent. The notebook is not
changed.
"""

import builtins
import difflib
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from concurrent_nb.errors import CaptureError, TooLarge
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickles import Buffer
from concurrent_nb.shipping.serialization.references import is_fixed, is_importable
from concurrent_nb.shipping.serialization.refusals import describe_failure, refusal
from concurrent_nb.shipping.serialization.sizes import measure_bytes, write_bytes
from concurrent_nb.shipping.serialization.source_lines import unwrapped

#: default of the maximum total size of the pickles of all captured names
LIMIT_BYTES: Final = 256 << 20
#: maximum total size of captured arrays, as a part of the free memory: they are copied once to shared memory
_PART_OF_FREE: Final = 1 / 2

#: globals of every module, of which a task has its own
_IMPLIED: Final = frozenset({"__name__", "__doc__", "__builtins__", "__builtin__"})
#: IPython's history: name -> description
_HISTORY: Final = {"_ih": "the list of inputs", "_oh": "the list of outputs", "_dh": "the list of folders"}


@dataclass(frozen=True, slots=True)
class Captured:
    """A name that is sent with a cell, as `--show-capture` lists it."""

    name: str
    kind: str  #: "module", "function", "class", "array", "value" or "setup"
    size_bytes: int  #: estimated; 0 for values that are sent by name
    draws: bool = False  #: it contains a random generator, of which each task has its own stream


@dataclass(frozen=True, slots=True)
class NameCapture:
    """The captured names of a cell, pickled."""

    names: tuple[Captured, ...] = ()
    imports: Mapping[str, str] = field(default_factory=dict)  #: name -> module
    submodules: tuple[str, ...] = ()  #: submodules that the cell uses as attributes of modules
    shared: bytes = b""  #: pickle of values that all tasks share
    per_task: bytes = b""  #: pickle of values of which each task gets a copy
    arrays: bytes = b""  #: used instead of `per_task` if these are only arrays: a task gets views of them
    buffers: tuple[Buffer, ...] = ()  #: the memory of arrays, left out of `per_task` or `arrays`
    per_worker_names: tuple[str, ...] = ()  #: names of which a worker has one copy for all its tasks
    per_worker: bytes = b""  #: pickle of their values
    per_worker_buffers: tuple[Buffer, ...] = ()  #: buffers left out of `per_worker`


def find(
    needed: Mapping[str, int],
    namespace: Mapping[str, Any],
    bound: Collection[str],
    hinted: Collection[str],
    setup_names: Collection[str] = (),
) -> dict[str, Any]:
    """Look up the names that a cell needs in the notebook.

    Args:
        needed: name -> line where it is read.
        bound: names that the cell binds as well, possibly too late, which is reported when it runs.
        hinted: names that are only in annotations, which Python may never evaluate.
        setup_names: names that exist in the workers, and need not exist in the notebook.

    Raises CaptureError for an unknown name, with a similar name as a suggestion.
    """
    found: dict[str, Any] = {}
    lost: list[str] = []
    for name, line in needed.items():
        if name in _IMPLIED:
            continue
        if name in namespace:
            if not _is_own_builtin(name, namespace[name]):
                found[name] = namespace[name]
        elif name in setup_names:
            continue
        elif hasattr(builtins, name):
            _check_builtin(name, line)
        elif name not in bound and name not in hinted:
            lost.append(name)
    if lost:
        message = "; ".join(
            f"line {needed[name]}: {_undefined(name, {*namespace, *bound, *setup_names})}" for name in lost
        )
        raise CaptureError(message, lost[0])
    return found


def _undefined(name: str, known: Iterable[str]) -> str:
    close: list[str] = []
    for words in (known, dir(builtins)):
        close = close or difflib.get_close_matches(name, [word for word in words if not word.startswith("_")], 1)
    return f"{name} is not defined in the notebook" + (f"; did you mean {close[0]}?" if close else "")


def _is_own_builtin(name: str, value: Any) -> bool:
    """Return whether this is IPython's replacement of a builtin, such as `open`. A task has the original."""
    if not hasattr(builtins, name) or not isinstance(value, types.FunctionType):
        return False
    return str(value.__globals__.get("__name__")).startswith("IPython.")


def _check_builtin(name: str, line: int) -> None:
    if name == "display":
        return  # tasks have their own
    value = getattr(builtins, name)
    module = str(getattr(type(value) if isinstance(value, types.MethodType) else value, "__module__", ""))
    if module.startswith("IPython") or refusal(value) is not None:
        raise CaptureError(
            f"line {line}: {name} is part of the notebook's shell, which a task does not have: leave it out", name
        )


def capture(
    found: Mapping[str, Any],
    namespace: dict[str, Any],
    *,
    needed: Mapping[str, int] | None = None,
    attributes: Collection[str] = (),
    per_worker_names: Collection[str] = (),
    limit_bytes: int | None = None,
) -> NameCapture:
    """Check and pickle the names that `find` has found.

    Args:
        namespace: the notebook's namespace; functions of it keep sharing their globals.
        needed: name -> line, for messages.
        attributes: all attributes that the cell uses, by which submodules are recognised.
        per_worker_names: names of which each worker has one copy for all its tasks, which see each other's changes.
        limit_bytes: maximum total size of the names; None: 256 MiB of pickles, and arrays up to half the free memory.

    Raises CaptureError for values that cannot be sent, and TooLarge, if possible before anything is pickled.
    """
    for name, value in found.items():
        _check(name, value, namespace, (needed or {}).get(name, 0))
    sizes = {name: 0 if _by_name(value) else measure_bytes(value) for name, value in found.items()}
    most_bytes, most_left_out = _limits(sum(sizes.values()), limit_bytes)
    _check_sizes(sizes, most_bytes + most_left_out, sizes)
    imports: dict[str, str] = {}
    shared: dict[str, Any] = {}
    per_worker: dict[str, Any] = {}
    per_task: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, types.ModuleType):
            imports[name] = value.__name__
        elif name in per_worker_names:
            per_worker[name] = value
        elif _is_plain_array(value):
            arrays[name] = sys.modules["numpy"].ascontiguousarray(
                value
            )  # only contiguous memory can be left out of the pickle
        else:
            (shared if is_fixed(value) else per_task)[name] = value
    lines = needed or {}
    draws = _that_draw(per_task) | _that_draw(per_worker)
    own, buffers = b"", list[memoryview]()
    for_workers, per_worker_buffers = b"", list[memoryview]()
    body, _ = (
        _pickled(shared, lines, lambda values: pickles.dumps(values, "spawn", sys.maxsize)) if shared else (b"", 0)
    )
    if per_task:  # which may refer to the arrays
        own, buffers = _pickled({**per_task, **arrays}, lines, lambda values: _dumps_with(values, namespace))
    elif arrays:
        own, buffers = _pickled(arrays, lines, lambda values: pickles.dumps(values, least_bytes=1))
    if per_worker:
        for_workers, per_worker_buffers = _pickled(per_worker, lines, lambda values: _dumps_with(values, namespace))
    left_out = sum(buffer.nbytes for buffer in (*buffers, *per_worker_buffers))
    # Values that were expected outside of the pickles, such as strings in a table, may be inside.
    pickled = len(body) + len(own) + len(for_workers)
    most_bytes, most_left_out = _limits(pickled + left_out, limit_bytes)
    _check_sizes({"pickles": pickled}, most_bytes, sizes)
    _check_sizes({"pickles": pickled, "arrays": left_out}, most_bytes + most_left_out, sizes)
    return NameCapture(
        names=tuple(Captured(name, _kind(value), sizes[name], name in draws) for name, value in found.items()),
        imports=imports,
        submodules=tuple(_submodules(imports.values(), attributes)),
        shared=body,
        per_task=own if per_task else b"",
        arrays=b"" if per_task else own,
        buffers=tuple(buffers),
        per_worker_names=tuple(per_worker),
        per_worker=for_workers,
        per_worker_buffers=tuple(per_worker_buffers),
    )


def _check(name: str, value: Any, namespace: Mapping[str, Any], line: int) -> None:
    where = f"line {line}: " if line else ""
    for key, what in _HISTORY.items():
        if value is namespace.get(key):
            raise CaptureError(
                f"{where}{name} is {what} of this notebook, which a task does not have: leave it out", name
            )
    if (found := refusal(value)) is not None:
        raise CaptureError(f"{where}{name} is {found[0]}: {found[1]}", name)


def _limits(size_bytes: int, limit_bytes: int | None) -> tuple[int, int]:
    """Return the maximum sizes of pickles and of arrays, for names with an estimated total of `size_bytes`."""
    if limit_bytes is not None:
        return limit_bytes, 0
    if size_bytes <= LIMIT_BYTES:
        return LIMIT_BYTES, LIMIT_BYTES
    import psutil  # here, because most cells need no check of the memory

    return LIMIT_BYTES, int(psutil.virtual_memory().available * _PART_OF_FREE)


def _check_sizes(found: Mapping[str, int], limit_bytes: int, sizes: Mapping[str, int]) -> None:
    """Raise TooLarge, with the largest names, if the total is above the limit."""
    total = sum(found.values())
    if total <= limit_bytes:
        return
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    named = ", ".join(f"{name} ({write_bytes(sizes[name])})" for name in largest if sizes[name] * 20 > total)
    raise TooLarge(
        f"the names that the cell uses take {write_bytes(total)}{' pickled' * ('pickles' in found)}, but the limit is"
        f" {write_bytes(limit_bytes)}: {named or ', '.join(largest)}. Load the data in the task, pass each task a part"
        " of it with --for, pass the result of `app.put` to a task function, or raise the limit:"
        " %config ConcurrentMagics.capture_limit_bytes = ...",
        total,
        limit_bytes,
    )


def _by_name(value: Any) -> bool:
    return isinstance(value, types.ModuleType) or is_importable(value)


def _is_plain_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray and not value.dtype.hasobject


def _kind(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, type):
        return "class"
    if isinstance(unwrapped(value), (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return "function"
    return "array" if _is_plain_array(value) else "value"


def _pickled(
    values: dict[str, Any], lines: Mapping[str, int], dumps: Callable[[Any], Any]
) -> tuple[bytes, list[memoryview]]:
    try:
        body, buffers = dumps(values)
    except Exception as error:  # an object's own pickling may raise anything
        for name, value in values.items():
            try:
                pickles.dumps(value)
            except Exception as failure:
                where = f"line {lines[name]}: " if lines.get(name) else ""
                raise CaptureError(where + describe_failure(name, value, failure), name) from failure
        message = f"{', '.join(values)} cannot be pickled together: {type(error).__name__}: {error}"
        raise CaptureError(message, next(iter(values))) from error
    return body, buffers


def _dumps_with(values: dict[str, Any], namespace: dict[str, Any]) -> tuple[bytes, list[memoryview]]:
    """Pickle values of a notebook together; return the pickle and the large buffers that were left out.

    Functions of a notebook share their globals, also after cloudpickle has sent them in one pickle. The cell must share
    them too: if `f` assigns a global, the cell sees it. So the values are pickled as the globals of a small function of
    the same namespace.
    """
    buffers: list[memoryview] = []
    keep = pickles.keeping(buffers)
    if pickles.is_plain(values):
        return pickle.dumps(values, 5, buffer_callback=keep), buffers
    from concurrent_nb.shipping.serialization import pickler  # here, because it takes 60 ms

    code = compile(f"lambda: ({', '.join(values)},)", "<names>", "eval").co_consts[0]
    return pickler.dumps(types.FunctionType(code, namespace), keep, "spawn"), buffers


def _that_draw(values: dict[str, Any]) -> set[str]:
    """Return the names of values that use random generators."""
    if not values or pickles.is_plain(values):
        return set()
    from concurrent_nb.shipping.serialization import pickler  # here, because it takes 60 ms

    try:
        return {name for name, value in values.items() if not pickles.is_plain(value) and pickler.draws(value)}
    except Exception:  # noqa: BLE001  (an object's own pickling may raise anything; it will again, and is reported then)
        return set()


def _submodules(modules: Iterable[str], attributes: Collection[str]) -> Iterable[str]:
    """Yield the imported submodules that the cell may use as `package.module`, as cloudpickle finds them."""
    for module in modules:
        prefix = f"{module}."
        for name in sorted(sys.modules):
            if name.startswith(prefix) and set(name[len(prefix) :].split(".")) <= set(attributes):
                yield name
