"""The `__main__` of a task: a module for each function, with the objects of `__main__` that travelled with it.

    worker:    enter(module); loads(function)   --> its globals are the module's, so `__main__.name` is its `name`
               loads(arguments)                 --> their objects of `__main__` are in the module, too
               leave(module)                    --> ... and are removed from it
    elsewhere: no module is entered, and functions get globals of their own

So code that looks up names in `__main__` works as without a cluster: pickle, and so multiprocessing in a task,
`typing.get_type_hints`, dataclasses with annotations as text. Jobs do not see each other's names.
"""

import builtins
import dis
import sys
import threading
import types
from typing import Any, Final

MAIN: Final = "__main__"


class _CurrentMain(threading.local):
    """The `__main__` of each thread that runs tasks."""

    module: types.ModuleType | None = None  #: None: this is not a worker
    is_loading_function: bool = False  #: else arguments are being unpickled
    argument_names: tuple[str, ...] = ()  #: names that came with arguments


CURRENT: Final = _CurrentMain()

#: globals that the initializer of this worker has assigned; every function of `__main__` gets them
_INITIALIZED: Final[dict[str, Any]] = {}


def record_initialized(function: Any) -> None:
    """Record the globals that an initializer of `__main__` has assigned."""
    code = getattr(function, "__code__", None)
    if isinstance(code, types.CodeType) and function.__module__ == MAIN:
        own = function.__globals__
        _INITIALIZED.update({name: own[name] for name in _assigned(code) if name in own})


def _assigned(code: types.CodeType) -> set[str]:
    names = {it.argval for it in dis.get_instructions(code) if it.opname == "STORE_GLOBAL"}
    return names.union(*(_assigned(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def apply_initialized(names: dict[str, Any]) -> None:
    """Replace names by those that the initializer has assigned."""
    if _INITIALIZED:
        names.update(_INITIALIZED)


def new_module() -> types.ModuleType:
    """Make an empty module."""
    module = types.ModuleType(MAIN)
    module.__dict__["__builtins__"] = builtins
    return module


def enter(module: types.ModuleType, *, is_loading_function: bool = False) -> None:
    """Make `module` the `__main__` of this thread's tasks."""
    CURRENT.module = module
    CURRENT.is_loading_function = is_loading_function
    if not isinstance(sys.modules.get(MAIN), _ThreadMain):
        sys.modules[MAIN] = module


def enter_new() -> types.ModuleType:
    """Return a new module for one call, with the names of its arguments. In a worker it becomes `__main__`."""
    module = new_module()
    if (before := CURRENT.module) is not None:
        for name in CURRENT.argument_names:
            module.__dict__[name] = before.__dict__.pop(name, None)
        enter(module, is_loading_function=True)
    return module


def end_function_load() -> None:
    """Note that the function is unpickled: what follows are arguments."""
    CURRENT.is_loading_function = False


def globals_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the globals of functions that are unpickled and were defined in `__main__`.

    Args:
        given: `__name__`, `__file__` and the like.
    """
    if CURRENT.module is None or not CURRENT.is_loading_function:
        return given
    own_globals = CURRENT.module.__dict__
    own_globals.update(given)
    return own_globals


def register(name: str, thing: Any) -> None:
    """Add an unpickled object to the module under the name that it has in its own `__main__`."""
    if CURRENT.module is None:
        return
    own_globals = CURRENT.module.__dict__
    if CURRENT.is_loading_function:
        own_globals[name] = thing
    elif name not in own_globals or name in CURRENT.argument_names:
        own_globals[name] = thing
        CURRENT.argument_names = tuple({*CURRENT.argument_names, name})


def leave(module: types.ModuleType) -> None:
    """Remove the names that came with the arguments of a task; make `module` the `__main__` again."""
    for name in CURRENT.argument_names:
        if CURRENT.module is not None:
            CURRENT.module.__dict__.pop(name, None)
    CURRENT.argument_names = ()
    enter(module)


def defined_names() -> dict[str, Any]:
    """Return the names that a worker's function has added to `__main__`."""
    own_globals = CURRENT.module.__dict__ if CURRENT.module is not None else {}
    return {name: thing for name, thing in own_globals.items() if not (name.startswith("__") and name.endswith("__"))}


def lookup(name: str) -> Any:
    """Return the object of that name in `__main__`, or None."""
    return getattr(sys.modules.get(MAIN), name, None)


def main_globals() -> dict[str, Any] | None:
    """Return the globals of `__main__`."""
    return getattr(sys.modules.get(MAIN), "__dict__", None)


def use_one_per_thread() -> None:
    """Give each thread of this process that runs tasks a `__main__` of its own."""
    sys.modules[MAIN] = _ThreadMain(MAIN)


class _ThreadMain(types.ModuleType):
    """A module that forwards to the `__main__` of the calling thread."""

    def __getattribute__(self, name: str) -> Any:
        module = CURRENT.module
        return super().__getattribute__(name) if module is None else getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        module = CURRENT.module
        if module is None:
            super().__setattr__(name, value)
        else:
            setattr(module, name, value)

    def __delattr__(self, name: str) -> None:
        module = CURRENT.module
        if module is None:
            super().__delattr__(name)
        else:
            delattr(module, name)
