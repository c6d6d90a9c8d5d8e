"""The references of an object, as pickling by value follows them, and which of them are immutable.

Used by `pickled_functions` (is a pickle still valid?), `pickling_failures` (which part cannot travel?) and
`captured_names` (what is loaded once, what anew for each task?). It never pickles, calls or changes an object.
"""

import copyreg
import dis
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

#: types whose objects are immutable and hold no others
ATOMS: Final = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range})
#: stands for an undefined name or an empty cell of a closure
MISSING: Final = object()
#: further items of a container are not visited, to limit the time
ITEMS: Final = 1000
#: attributes that Python sets in each class; the last two since 3.13
OF_EVERY_CLASS: Final = frozenset(
    {"__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"}
)

_LOADS: Final = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL"})
_STORES: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
#: travels as the function that it wraps; a name, because its class belongs to a higher layer
_TASK_FUNCTION: Final = "concurrent_nb.task_functions.TaskFunction"
#: and the class of what its methods are in a task, which never change
_METHOD_IN_TASK: Final = "concurrent_nb.shipping.functions.functions_in_tasks.MethodInTask"
#: the package that pickles exceptions with their tracebacks
_TBLIB: Final = "tblib"
_BY_REFERENCE: Final = (types.FunctionType, types.BuiltinFunctionType, type)

#: (kind, label, object): kind "name" for what a function uses, "item" and "part" for what a container or object holds
Reference = tuple[str, str, Any]

_names_of_code: "weakref.WeakKeyDictionary[types.CodeType, tuple[tuple[str, ...], bool]]" = weakref.WeakKeyDictionary()


def attribute_of(thing: Any, name: str, default: Any = None) -> Any:
    """Return an attribute, without calling the own `__getattr__` of the object, which may raise anything."""
    lookup = type.__getattribute__ if isinstance(thing, type) else object.__getattribute__
    try:
        return lookup(thing, name)
    except Exception:  # noqa: BLE001  (a property may raise anything; the object then has no such attribute for us)
        return default


def text_attribute_of(thing: Any, name: str) -> str:
    """Return an attribute that is a text; "" if it has none."""
    text = attribute_of(thing, name)
    return text if isinstance(text, str) else ""


def global_names(code: types.CodeType) -> tuple[tuple[str, ...], bool]:
    """Return the global names that code and the functions in it use, and whether it assigns any of them."""
    found = _names_of_code.get(code)
    if found is None:
        names: dict[str, None] = {}
        stores = False
        for instruction in dis.get_instructions(code):
            if instruction.opname in _LOADS:
                names[instruction.argval] = None
                stores = stores or instruction.opname in _STORES
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                inner, inner_stores = global_names(constant)
                names.update(dict.fromkeys(inner))
                stores = stores or inner_stores
        found = _names_of_code[code] = tuple(names), stores
    return found


def never_changes(thing: Any) -> bool:
    """Return whether the class of `thing` declares that its pickle never changes and refers to nothing else."""
    return getattr(type(thing), "never_changes", False) is True


def is_importable(thing: Any) -> bool:
    """Return whether a worker can import a function or class by its name.

    It cannot import what `__main__` defines, what is defined inside a function, and what belongs to a module that was
    registered with `cloudpickle.register_pickle_by_value`.
    """
    if isinstance(thing, types.BuiltinMethodType) and not isinstance(thing.__self__, (types.ModuleType, type)):
        return thing.__self__ is None and location_of(thing) is not None  # a method, as `random.random` is
    return isinstance(thing, _BY_REFERENCE) and location_of(thing) is not None


def location_of(thing: Any, qualname: str | None = None) -> tuple[Any, str] | None:
    """Return the module or class in which a function or class is found, and the name in it; None if it is not found."""
    module_name = getattr(thing, "__module__", None)
    if not isinstance(module_name, str) or module_name in ("__main__", "__mp_main__"):
        return None
    home: Any = sys.modules.get(module_name)
    *path, name = (thing.__qualname__ if qualname is None else qualname).split(".")
    for part in path:
        home = getattr(home, part, None)
    return (home, name) if getattr(home, name, None) is thing and not is_by_value(module_name) else None


def is_by_value(module_name: str) -> bool:
    """Return whether a module, or a package that contains it, is registered to travel by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None or not (registered := cloudpickle.list_registry_pickle_by_value()):
        return False
    return any(module_name == name or module_name.startswith(f"{name}.") for name in registered)


def registered_reduction(kind: type) -> Callable[[Any], Any] | None:
    """Return the function that is registered with `copyreg` to pickle objects of a class.

    tblib's for exceptions are left out. dask has it register them for all classes of exceptions that there are. They
    rebuild an exception by its `__init__`, which may not accept its `args`, only where tblib is installed, and with a
    traceback of the other process in place of its own.
    """
    found = copyreg.dispatch_table.get(kind)
    if found is not None and issubclass(kind, BaseException) and _module_of(found).partition(".")[0] == _TBLIB:
        return None
    return found


def _module_of(function: Any) -> str:
    # tblib registers a partial of its function.
    module = getattr(getattr(function, "func", function), "__module__", None)
    return module if isinstance(module, str) else ""


def pickles_itself(kind: type) -> bool:
    """Return whether a class defines its own pickling, so that attributes of an object may not be in its pickle."""
    if registered_reduction(kind) is not None:
        return True
    own = (getattr(kind, name) is not getattr(object, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__"))
    return any(own) and kind is not types.SimpleNamespace


def is_importable_module(module: types.ModuleType) -> bool:
    """Return whether a worker can import the module by its name, as far as this process can know."""
    name = getattr(module, "__name__", "")
    if name in ("__main__", "__mp_main__") or sys.modules.get(name) is not module:
        return False
    return any(getattr(module, fact, None) is not None for fact in ("__spec__", "__file__", "__path__", "__loader__"))


def used_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield (name, object) of all that travels with a function: its closure, the globals that it uses, its defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, contents(cell)
    for name in global_names(function.__code__)[0]:
        yield name, function.__globals__.get(name, MISSING)
    for default in function.__defaults__ or ():
        yield "a default argument", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f"the default of {name}", default
    for name, value in function.__dict__.items():
        yield f"its attribute {name}", value


def contents(cell: types.CellType) -> Any:
    """Return the contents of a closure's cell, or MISSING."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def references(thing: Any) -> Iterator[Reference]:
    """Yield the references of `thing`, one level deep; none if it travels by name. Of many items only the first."""
    kind = type(thing)
    if kind in ATOMS or never_changes(thing):
        return
    if isinstance(thing, dict):
        for key, value in list(dict.items(thing))[:ITEMS]:
            yield "item", f"[{_short(key)}]", value
            yield "item", f"'s key {_short(key)}", key
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for number, value in enumerate(thing):
            if number >= ITEMS:
                return
            yield "item", f"[{number}]", value
    elif isinstance(thing, types.FunctionType):
        if not is_importable(thing):
            for name, value in used_by(thing):
                if value is not MISSING:
                    yield "name", name, value
    elif isinstance(thing, types.MethodType):
        yield "part", ".__self__", thing.__self__
        yield "part", ".__func__", thing.__func__
    elif isinstance(thing, types.BuiltinMethodType):
        if not is_importable(thing) and thing.__self__ is not None:
            yield "part", ".__self__", thing.__self__
    elif isinstance(thing, functools.partial):
        yield from (("part", part, getattr(thing, part[1:])) for part in (".func", ".args", ".keywords"))
    elif isinstance(thing, (staticmethod, classmethod)):
        yield "part", ".__func__", thing.__func__
    elif isinstance(thing, property):
        yield from (("part", f".{part}", getattr(thing, part)) for part in ("fget", "fset", "fdel"))
    elif isinstance(thing, type):
        if not is_importable(thing):
            for name, value in list(vars(thing).items()):
                if name not in OF_EVERY_CLASS:
                    yield "part", f".{name}", value
    elif not isinstance(thing, types.ModuleType):
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            for name, value in list(attributes.items())[:ITEMS]:
                yield "part", f".{name}", value
        if not is_importable(kind):
            yield "part", ".__class__", kind


def _short(key: Any) -> str:
    text = repr(key) if type(key) in ATOMS else f"a {type(key).__qualname__}"
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def is_constant(thing: Any) -> bool:
    """Return whether `thing` is immutable: atoms, tuples of them, importable modules, functions and classes."""
    kind = type(thing)
    if kind in ATOMS:
        return True
    if kind is tuple or kind is frozenset:
        return len(thing) <= ITEMS and all(map(is_constant, thing))
    if isinstance(thing, types.ModuleType):
        return is_importable_module(thing)
    return is_importable(thing) or _is_logger(thing) or f"{kind.__module__}.{kind.__qualname__}" == _METHOD_IN_TASK


def _is_logger(thing: Any) -> bool:
    """Return whether `thing` is a logger, which travels by name as modules do."""
    logging = sys.modules.get("logging")
    if logging is None or not isinstance(thing, logging.Logger):
        return False
    return type(thing).__reduce__ in (logging.Logger.__reduce__, logging.RootLogger.__reduce__)


def is_fixed(thing: Any) -> bool:
    """Return whether tasks that share `thing` cannot affect each other through it.

    True for constants, and for functions and classes of the notebook that assign no global and use only what is fixed,
    too. (A task could still set an attribute of a class, deliberately.)
    """
    return _is_fixed(thing, set())


def _is_fixed(thing: Any, seen: set[int]) -> bool:
    if is_constant(thing) or id(thing) in seen or never_changes(thing):
        return True
    kind = type(thing)
    if isinstance(thing, types.FunctionType):
        seen.add(id(thing))
        if global_names(thing.__code__)[1] or thing.__dict__ or _rebinds_closure(thing.__code__):
            return False
        return all(value is MISSING or _is_fixed(value, seen) for _, value in used_by(thing))
    if kind is type:
        seen.add(id(thing))
        return all(_is_fixed(value, seen) for _, _, value in references(thing)) and all(
            _is_fixed(base, seen) for base in thing.__bases__
        )
    if f"{kind.__module__}.{kind.__qualname__}" == _TASK_FUNCTION:
        return _is_fixed(thing.function, seen)
    if isinstance(thing, (staticmethod, classmethod, property, tuple, frozenset)):
        seen.add(id(thing))
        return all(_is_fixed(value, seen) for _, _, value in references(thing)) and not _is_cut(thing)
    # Descriptors that every class has.
    return isinstance(thing, (types.GetSetDescriptorType, types.MemberDescriptorType))


def _is_cut(thing: Any) -> bool:
    return isinstance(thing, (tuple, frozenset)) and len(thing) > ITEMS


def _rebinds_closure(code: types.CodeType) -> bool:
    """Return whether a function assigns a `nonlocal` name, so that its closure is mutable."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "DELETE_DEREF")}
    if own & set(code.co_freevars):
        return True
    return any(_rebinds_closure(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
