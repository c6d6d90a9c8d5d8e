"""What stands for `__main__` in a task: a module of its own for each function, with what came with it by value.

    worker:    enter(module); loads(function)   --> its globals are the module's, so `__main__.name` is its `name`
               loads(arguments)                 --> what of them was defined in `__main__` is there for the task, too
               leave(module)                    --> ... and not for the next one
    elsewhere: nothing is entered, and functions get globals of their own

What looks names up there finds them as it would without a cluster: pickle, and so multiprocessing in a task,
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
    """Of each thread that runs tasks."""

    module: types.ModuleType | None = None  #: None: no worker
    is_loading_function: bool = False  #: else it is arguments
    argument_names: tuple[str, ...] = ()  #: names that came with arguments


CURRENT: Final = _CurrentMain()

#: globals that the initializer of this worker has assigned: every function that comes from `__main__` finds them
_INITIALIZED: Final[dict[str, Any]] = {}


def record_initialized(function: Any) -> None:
    """Take note of the globals that an initializer has assigned, if it came from `__main__`."""
    code = getattr(function, "__code__", None)
    if isinstance(code, types.CodeType) and function.__module__ == MAIN:
        own = function.__globals__
        _INITIALIZED.update({name: own[name] for name in _assigned(code) if name in own})


def _assigned(code: types.CodeType) -> set[str]:
    names = {it.argval for it in dis.get_instructions(code) if it.opname == "STORE_GLOBAL"}
    return names.union(*(_assigned(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def apply_initialized(names: dict[str, Any]) -> None:
    """Put what the initializer has assigned in the place of what has travelled."""
    if _INITIALIZED:
        names.update(_INITIALIZED)


def new_module() -> types.ModuleType:
    """Make an empty one."""
    module = types.ModuleType(MAIN)
    module.__dict__["__builtins__"] = builtins
    return module


def enter(module: types.ModuleType, *, is_loading_function: bool = False) -> None:
    """Let `module` be `__main__` for the tasks of this thread."""
    CURRENT.module = module
    CURRENT.is_loading_function = is_loading_function
    if not isinstance(sys.modules.get(MAIN), _ThreadMain):
        sys.modules[MAIN] = module


def enter_new() -> types.ModuleType:
    """Give a new module for one call, with what came with its arguments. In a worker it is `__main__` from now on."""
    module = new_module()
    if (before := CURRENT.module) is not None:
        for name in CURRENT.argument_names:
            module.__dict__[name] = before.__dict__.pop(name, None)
        enter(module, is_loading_function=True)
    return module


def end_function_load() -> None:
    """Take what is unpickled from now on for something else than the function."""
    CURRENT.is_loading_function = False


def globals_of(given: dict[str, Any]) -> dict[str, Any]:
    """Give the globals of functions that are unpickled and were defined in `__main__`.

    Args:
        given: `__name__`, `__file__` and the like.
    """
    if CURRENT.module is None or not CURRENT.is_loading_function:
        return given
    own_globals = CURRENT.module.__dict__
    own_globals.update(given)
    return own_globals


def register(name: str, thing: Any) -> None:
    """Take note of what was unpickled and has that name in the `__main__` that it comes from."""
    if CURRENT.module is None:
        return
    own_globals = CURRENT.module.__dict__
    if CURRENT.is_loading_function:
        own_globals[name] = thing
    elif name not in own_globals or name in CURRENT.argument_names:
        own_globals[name] = thing
        CURRENT.argument_names = tuple({*CURRENT.argument_names, name})


def leave(module: types.ModuleType) -> None:
    """Forget what came with the arguments of a task; let `module` be `__main__` again."""
    for name in CURRENT.argument_names:
        if CURRENT.module is not None:
            CURRENT.module.__dict__.pop(name, None)
    CURRENT.argument_names = ()
    enter(module)


def defined_names() -> dict[str, Any]:
    """Give the names that a worker's function has brought into `__main__` so far."""
    own_globals = CURRENT.module.__dict__ if CURRENT.module is not None else {}
    return {name: thing for name, thing in own_globals.items() if not (name.startswith("__") and name.endswith("__"))}


def lookup(name: str) -> Any:
    """Give what has that name in `__main__`, or None."""
    return getattr(sys.modules.get(MAIN), name, None)


def main_globals() -> dict[str, Any] | None:
    """Give the globals of `__main__`."""
    return getattr(sys.modules.get(MAIN), "__dict__", None)


def use_one_per_thread() -> None:
    """Let each thread of this process that runs tasks see its own `__main__`."""
    sys.modules[MAIN] = _ThreadMain(MAIN)


class _ThreadMain(types.ModuleType):
    """Stands for the `__main__` of the thread that looks."""

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
