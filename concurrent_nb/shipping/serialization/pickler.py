"""cloudpickle's pickler with what it lacks: the one that is used for everything that is not provably plain.

- What the standard library pickles by name, and `__main__` defines, travels by value: cached functions, new types, ...
- What would be pickled silently, but wrongly, is refused: open files, views of memory, parts of this process
(`refusals`).
- Exceptions are rebuilt without calling an `__init__` of their own.
- Code keeps the name of its file, and the lines of its notebook cell travel with it, for tracebacks.
- What is found in `__main__` by name is found there by name where it is unpickled (`task_main`).

An object that defines its own pickling is pickled by that, so it may hold what its pickle leaves out.

This module imports cloudpickle, which takes 60 ms, so it is imported only where it is needed.
"""

import copyreg
import dataclasses
import functools
import io
import itertools
import pickle
import random
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from cloudpickle import cloudpickle

from concurrent_nb.shipping.serialization import (
    enum_classes,
    manager_proxies,
    random_streams,
    struct_classes,
    task_main,
)
from concurrent_nb.shipping.serialization.annotation_types import named_types
from concurrent_nb.shipping.serialization.references import is_importable_module, location_of, registered_reduction
from concurrent_nb.shipping.serialization.refusals import Refused, is_refused_type
from concurrent_nb.shipping.serialization.source_lines import keep_lines, text_of

#: returns what `__reduce_ex__` returns, or NotImplemented, which leaves it to cloudpickle and pickle
Reduction = Callable[["Pickler", Any], Any]

_NEW_TYPE: Final[Any] = typing.NewType  # as a function, not as a declaration
_ALIAS: Final = getattr(typing, "TypeAliasType", None)  # since Python 3.12


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what a worker cannot import by name."""

    def __init__(
        self,
        file: io.BytesIO,
        keep: Callable[[pickle.PickleBuffer], bool] | None = None,
        mode: random_streams.Mode = "keep",
    ) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self.mode = mode
        #: whether the pickle has a generator of random numbers, of which each task has a stream of its own
        self.uses_generators = False
        self._reductions: dict[type, Reduction | None] = {}
        self.files: set[str] = set()  #: files whose lines are in this pickle

    def reducer_override(self, thing: Any) -> Any:
        """Return how `thing` is pickled. Called for all objects but atoms and plain containers."""
        kind = type(thing)
        try:
            reduction = self._reductions[kind]
        except KeyError:
            reduction = self._reductions[kind] = _cached_reduction_of(kind)
        return NotImplemented if reduction is None else reduction(self, thing)

    def _function_getnewargs(self, function: types.FunctionType) -> Any:
        names = function.__globals__
        if id(names) not in self.globals_ref and names is task_main.main_globals():
            facts = ("__package__", "__name__", "__path__", "__file__")
            self.globals_ref[id(names)] = _MainGlobals({str(key): names[key] for key in facts if key in names})
        return super()._function_getnewargs(function)


def dumps(
    thing: object, keep: Callable[[pickle.PickleBuffer], bool] | None = None, mode: random_streams.Mode = "keep"
) -> bytes:
    """Pickle `thing`.

    Args:
        keep: returns whether a buffer stays in the pickle; None: all do.
        mode: how generators of random numbers are pickled.

    Raises Refused, and whatever an object's own pickling raises.
    """
    with io.BytesIO() as file:
        Pickler(file, keep, mode).dump(thing)
        return file.getvalue()


def uses_generators(thing: object) -> bool:
    """Return whether the pickle of `thing` has a generator of random numbers."""
    with io.BytesIO() as file:
        pickler = Pickler(file, mode="share")
        pickler.dump(thing)
        return pickler.uses_generators


_reductions: "weakref.WeakKeyDictionary[type, Reduction | None]" = weakref.WeakKeyDictionary()


def _cached_reduction_of(kind: type) -> Reduction | None:
    if kind in copyreg.dispatch_table and (registered := registered_reduction(kind)) is not None:
        if issubclass(kind, type):
            return lambda pickler, thing: _as_one_class(thing, registered(thing))
        return lambda pickler, thing: registered(thing)  # before cloudpickle's, which the user has replaced
    try:
        return _reductions[kind]
    except KeyError:
        reduction = _reductions[kind] = _reduction_of(kind)
        return reduction


def _reduction_of(kind: type) -> Reduction | None:
    if issubclass(kind, type):
        return _reduce_class
    if kind is types.FunctionType:
        return _reduce_function
    if (reduction := _REDUCTIONS.get(kind)) is not None:
        return reduction
    for family, reduction in _FAMILIES:
        if issubclass(kind, family):
            return reduction
    if is_refused_type(kind):
        return _refuse
    if (numpy := sys.modules.get("numpy")) is not None and kind is numpy.ndarray:
        return _reduce_array
    if (reduction := random_streams.reduction(kind)) is not None:
        return partial(_reduce_generator, reduction)
    managers = sys.modules.get("multiprocessing.managers")
    if managers is not None and issubclass(kind, managers.BaseProxy):
        return _reduce_proxy
    figures = sys.modules.get("matplotlib.figure")
    if figures is not None and issubclass(kind, figures.Figure):
        return _reduce_figure
    own = kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__
    if issubclass(kind, BaseException):
        return _reduce_exception if _is_rebuilt(kind) else _reduce_with_notes
    if kind in cloudpickle.Pickler._dispatch_table:
        return None
    if own:
        is_ours = isinstance(kind.__reduce_ex__, types.FunctionType) or isinstance(kind.__reduce__, types.FunctionType)
        return _reduce_by_itself if is_ours else None
    own_access = (getattr(kind, "__getattr__", None), kind.__setattr__)
    if any(isinstance(it, types.FunctionType) for it in own_access) and not hasattr(kind, "__setstate__"):
        return _reduce_delegating
    return None


def _refuse(pickler: Pickler, thing: Any) -> Any:
    raise Refused(thing)


# ------------------------------------------------------------------------------------------------ functions and classes


class _MainGlobals(dict[str, Any]):
    """Stands for the globals of functions of `__main__` in a pickle."""


def _reduce_function(pickler: Pickler, function: types.FunctionType) -> Any:
    reduced = pickler._function_reduce(function)
    if reduced is NotImplemented or function.__module__ != task_main.MAIN:
        return reduced
    return (*reduced[:5], fill_main_function if task_main.lookup(function.__qualname__) is function else fill_function)


def fill_function(function: types.FunctionType, state: Any) -> None:
    """Fill a function that was unpickled."""
    cloudpickle._function_setstate(function, state)
    task_main.apply_initialized(function.__globals__)


def fill_main_function(function: types.FunctionType, state: Any) -> None:
    """Fill a function that was unpickled, and register it in `__main__`."""
    fill_function(function, state)
    task_main.register(function.__qualname__, function)


#: what msgspec keeps in a dataclass that it has decoded, which cannot be pickled
_CACHE: Final = "__msgspec_cache__"


def _reduce_class(pickler: Pickler, kind: type) -> Any:
    reduced = cloudpickle._class_reduce(kind)
    if reduced is NotImplemented or len(reduced) < 6:
        return reduced
    if reduced[0] is cloudpickle._make_skeleton_enum:
        reduced = enum_classes.reduce_enum(kind, reduced)
    elif struct_classes.is_struct(kind):
        reduced = struct_classes.reduce_struct(kind, reduced)
    else:
        reduced = _reduce_plain_class(kind, reduced)
    if task_main.lookup(kind.__qualname__) is not kind:
        return reduced
    make, args, state, *others, fill = reduced
    named = named_types(kind, task_main.main_globals() or {}, dumps)
    return make, args, (named, fill, state), *others, fill_main_class


def _reduce_plain_class(kind: type, reduced: Any) -> Any:
    if _CACHE in vars(kind):
        state, slots_state = reduced[2]
        state = {name: value for name, value in state.items() if name != _CACHE}
        reduced = (*reduced[:2], (state, slots_state), *reduced[3:])
    make = type(kind).__new__  # one in C makes the slots itself and accepts none
    is_plain = make is type.__new__ or isinstance(make, types.FunctionType)
    is_made = is_plain and reduced[0] is cloudpickle._make_skeleton_class
    if is_made and "__slots__" in vars(kind) and typing.NamedTuple not in reduced[1][2]:  # whose metaclass sets them
        reduced = _with_slots(kind, reduced)
    if is_made and any(map(_needs_arguments, kind.__mro__[1:])):
        reduced = (make_subclass, *reduced[1:])
    return reduced


def _needs_arguments(base: type) -> bool:
    """Return whether a class requires arguments of its subclasses, which are not known any more."""
    hook = getattr(vars(base).get("__init_subclass__"), "__func__", None)
    if not isinstance(hook, types.FunctionType):
        return False
    code = hook.__code__
    by_position = code.co_argcount - 1 - len(hook.__defaults__ or ())
    return by_position > 0 or code.co_kwonlyargcount > len(hook.__kwdefaults__ or ())


_making_subclass = threading.RLock()


def make_subclass(constructor: Any, name: str, bases: tuple[type, ...], *rest: Any) -> Any:
    """Make a class without calling the `__init_subclass__` of its bases: its effects are in the state that follows."""
    with _making_subclass:
        hooks = [
            (base, vars(base)["__init_subclass__"])
            for parent in bases
            for base in parent.__mro__
            if _needs_arguments(base)
        ]
        try:
            for base, _ in hooks:
                type.__setattr__(base, "__init_subclass__", classmethod(lambda cls: None))
            return cloudpickle._make_skeleton_class(constructor, name, bases, *rest)
        finally:
            for base, hook in hooks:
                type.__setattr__(base, "__init_subclass__", hook)


def _with_slots(kind: type, reduced: Any) -> Any:
    """Let unpickling make the slots of a class. cloudpickle makes a class whose objects have a `__dict__` instead.

    The state of such an object cannot be set in an object of the original class, which has none.
    """
    make, (constructor, name, bases, members, *rest), (state, slots_state), *others = reduced
    slots = vars(kind)["__slots__"]
    members = {**members, "__slots__": slots if isinstance(slots, str | dict) else tuple(slots)}
    state = {  # cloudpickle leaves the descriptors of private names
        name: value
        for name, value in state.items()
        if type(value) is not types.MemberDescriptorType or value.__objclass__ is not kind
    }
    return make, (constructor, name, bases, members, *rest), (state, slots_state), *others


def fill_main_class(kind: type, state: Any) -> None:
    """Fill a class that was unpickled, and register it in `__main__`, with what its annotations name."""
    named, fill, own_state = state
    for name, thing in named.items():
        task_main.register(name, thing)
    fill(kind, own_state)
    task_main.register(kind.__qualname__, kind)


def _as_one_class(kind: type, reduced: Any) -> Any:
    """Reduce a class that its metaclass has had registered, so that a process makes it once, however often it arrives.

    DEAP's metaclass makes a new class each time, and replaces the one of that name: results would be instances of
    classes of their own, and the user's class would be lost.
    """
    if not isinstance(reduced, tuple) or len(reduced) != 2:
        return reduced
    return _make_once, (cloudpickle._get_or_create_tracker_id(kind), kind.__name__, *reduced)


def _make_once(tracker_id: str, name: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if known is None:
        names = vars(sys.modules[make.__module__])
        before = names.get(name)
        known = cloudpickle._lookup_class_or_track(tracker_id, make(*args))
        if before is not None:
            names[name] = before
    assert isinstance(known, type)
    return known


def _reduce_code(pickler: Pickler, code: types.CodeType) -> tuple[Any, ...]:
    _, parts = cloudpickle._code_reduce(code)
    text = None
    if code.co_filename not in pickler.files:
        pickler.files.add(code.co_filename)
        text = text_of(code.co_filename)
    return _make_code, (code.co_filename, text, *parts)


def _make_code(filename: str, text: str | None, *parts: Any) -> types.CodeType:
    if text is not None:
        keep_lines({filename: text})
    return types.CodeType(*parts).replace(co_filename=filename)  # cloudpickle calls each file <dynamic-code>


def _reduce_module(pickler: Pickler, module: types.ModuleType) -> Any:
    if not is_importable_module(module):
        raise Refused(module)
    return NotImplemented


# -------------------------------------------------------------------------- what the standard library pickles by name


def _by_value(thing: Any, name: str, make: Callable[..., Any], args: tuple[Any, ...], state: Any = None) -> Any:
    """Reduce what is pickled as a name that a worker cannot import."""
    if location_of(thing, name) is not None:
        return NotImplemented
    main_name = name if task_main.lookup(name) is thing else None
    return make, args, (main_name, state), None, None, _fill_by_value


def _fill_by_value(thing: Any, state: tuple[str | None, Any]) -> None:
    # Not in `make`: an object that refers to itself is made twice, and only one of the two is kept.
    main_name, attributes = state
    set_state(thing, attributes)
    if main_name is not None:
        task_main.register(main_name, thing)


def _reduce_cached(pickler: Pickler, thing: Any) -> Any:
    parameters = thing.cache_parameters()
    state = {name: value for name, value in vars(thing).items() if name != "cache_parameters"}
    return _by_value(thing, thing.__qualname__, _make_cached, (thing.__wrapped__, *parameters.values()), state)


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_new_type(pickler: Pickler, thing: Any) -> Any:
    facts = (thing.__name__, thing.__supertype__, thing.__module__, thing.__qualname__)
    return _by_value(thing, thing.__qualname__, _make_new_type, facts)


def _make_new_type(name: str, of: Any, module: str, qualname: str) -> Any:
    made = _NEW_TYPE(name, of)
    made.__module__, made.__qualname__ = module, qualname
    return made


def _reduce_parameter(pickler: Pickler, thing: Any) -> Any:
    return _by_value(thing, thing.__name__, _make_parameter, (type(thing), thing.__name__, thing.__module__))


def _make_parameter(kind: Callable[[str], Any], name: str, module: str) -> Any:
    made = kind(name)
    made.__module__ = module
    return made


def _reduce_alias(pickler: Pickler, thing: Any) -> Any:
    facts = (type(thing), thing.__name__, thing.__value__, thing.__type_params__)
    return _by_value(thing, thing.__name__, _make_alias, facts)


def _make_alias(kind: Callable[..., Any], name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return kind(name, value, type_params=parameters)


def _reduce_forward_reference(pickler: Pickler, thing: Any) -> Any:
    """Leave out the type that was found by that name: it may be the class whose annotation this is."""
    attributes = (f"__forward_{name}__" for name in ("arg", "is_argument", "module", "is_class"))
    return _make_forward_reference, tuple(getattr(thing, name) for name in attributes)


def _make_forward_reference(name: str, is_argument: bool, module: Any, is_class: bool) -> typing.ForwardRef:
    return typing.ForwardRef(name, is_argument=is_argument, module=module, is_class=is_class)


def _reduce_by_itself(pickler: Pickler, thing: Any) -> Any:
    reduced = thing.__reduce_ex__(5)
    if type(reduced) is not str or getattr(thing, "__module__", None) != task_main.MAIN:
        return reduced
    # A name of `__main__`: a singleton, which must be one where it is unpickled, too.
    return _find_or_make, (reduced, type(thing)), thing.__getstate__(), None, None, _fill_named


def _find_or_make(name: str, kind: Any) -> Any:
    found = task_main.lookup(name)
    if type(found) is kind:
        return found
    made = kind.__new__(kind)
    task_main.register(name, made)
    return made


def _fill_named(thing: Any, state: Any) -> None:
    if not getattr(thing, "__dict__", None):
        set_state(thing, state)


# -------------------------------------------------------------------------------- objects with locks or weak references


def _reduce_cached_property(pickler: Pickler, thing: Any) -> Any:
    state = dict(vars(thing))
    return _make_cached_property, (type(thing), state.pop("lock", None) is not None), state


def _make_cached_property(kind: type, has_lock: bool) -> Any:
    made: Any = object.__new__(kind)
    if has_lock:  # until Python 3.12
        vars(made)["lock"] = threading.RLock()
    return made


def _reduce_weak_mapping(pickler: Pickler, thing: Any) -> Any:
    return type(thing), (), None, None, iter(list(thing.items()))


def _reduce_delegating(pickler: Pickler, thing: Any) -> Any:
    """Reduce an object whose state is set without its own `__getattr__` and `__setattr__`.

    Unpickling would call the first for `__setstate__` before the object has its state, and the second for its slots,
    which an immutable object refuses.
    """
    reduced = thing.__reduce_ex__(5)
    if not isinstance(reduced, tuple) or len(reduced) != 5 or reduced[2] is None:
        return reduced
    return (*reduced, set_state)


def set_state(thing: Any, state: Any) -> None:
    """Set the state of an object that has no `__setstate__`, as unpickling does."""
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    if attributes:
        thing.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(thing, name, value)


# ---------------------------------------------------------------------------------------------------------- exceptions


def _is_rebuilt(kind: type[BaseException]) -> bool:
    """Return whether unpickling would call the class's own `__init__` with arguments that it may not accept."""
    own = (kind.__init__, kind.__new__)
    own_reduction = (kind.__reduce_ex__, kind.__reduce__)
    is_own = any(isinstance(it, types.FunctionType) for it in own)
    return is_own and not any(isinstance(it, types.FunctionType) for it in own_reduction)


def _reduce_exception(pickler: Pickler, error: BaseException) -> Any:
    reduced = error.__reduce_ex__(5)
    if not isinstance(reduced, tuple):
        return reduced
    _, args, *state = reduced
    made_of = _parts_of_group(error) if isinstance(error, BaseExceptionGroup) else None
    return make_exception, (type(error), args, made_of), _full_state(error, *state), None, None, fill_exception


def _parts_of_group(error: BaseExceptionGroup[Any]) -> tuple[Any, ...]:
    return error.message, list(error.exceptions)


def _full_state(error: BaseException, state: Any = None) -> Any:
    """Return the state of an exception whose built-in base class calls no `__getstate__` of the user's."""
    if not isinstance(getattr(type(error), "__getstate__", None), types.FunctionType):
        return _with_values_of_slots(error, state)
    own: Any = error.__getstate__()  # those of attrs and of frozen dataclasses
    notes = getattr(error, "__notes__", None)
    return own if notes is None else _WithNotes(own, notes)


class _WithNotes(NamedTuple):
    state: Any
    notes: Any


def fill_exception(error: BaseException, state: Any) -> None:
    """Set the state of an exception that was unpickled, also if its class allows no changes of attributes."""
    if type(state) is _WithNotes:
        state, vars(error)["__notes__"] = state
    if type(error).__setstate__ is not BaseException.__setstate__:
        error.__setstate__(state)
        return
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    for name, value in {**(attributes or {}), **(slots or {})}.items():
        object.__setattr__(error, name, value)


def _reduce_with_notes(pickler: Pickler, error: BaseException) -> Any:
    reduced = error.__reduce_ex__(5)
    notes = getattr(error, "__notes__", None)
    if isinstance(reduced, tuple) and len(reduced) in (2, 3) and isinstance(reduced[0], type):
        state = reduced[2] if len(reduced) == 3 else None
        if (full := _with_values_of_slots(error, state)) is not state:
            if notes and len(reduced) == 2:
                full = {**full, "__notes__": notes}
            return (*reduced[:2], full)
    if notes and isinstance(reduced, tuple) and len(reduced) == 2:  # its own `__reduce__` leaves them out
        return (*reduced, {"__notes__": notes})
    return reduced


def _with_values_of_slots(error: BaseException, state: Any) -> Any:
    """Return the state of an exception with the values of its slots, which exceptions leave out."""
    if type(error).__setstate__ is not BaseException.__setstate__:
        return state  # its own one expects a state of its own
    own = object.__getstate__(error)
    if type(own) is not tuple or not (state is None or type(state) is dict):
        return state
    return {**(state or {}), **own[1]}  # exceptions set what is in their state as attributes


def make_exception(
    kind: type[BaseException], args: tuple[Any, ...], made_of: tuple[Any, ...] | None = None
) -> BaseException:
    """Make an exception by its built-in base class, without calling its own `__init__`.

    Args:
        args: its `args`.
        made_of: arguments of the built-in class, if they are not `args`.
    """
    built_in: Any = kind
    while built_in.__module__ != "builtins":
        built_in = built_in.__base__
    arguments = args if made_of is None else made_of
    made: BaseException = built_in.__new__(kind, *arguments)
    try:
        built_in.__init__(made, *arguments)
    except TypeError:
        made.args = args  # its own `__init__` does not call the built-in one
    if made_of is not None:
        made.args = args
    return made


#: limits of an exception that cannot travel as it is: number of arguments and notes, characters of each
ARGUMENTS_MAX: Final = 100
TEXT_MAX: Final = 64 * 1024


def reduced_to_what_travels(error: BaseException) -> Any:
    """Return an object that unpickles as the exception without the parts that cannot travel, which its notes name.

    Long texts are cut, and of many arguments only the first are kept.
    """
    return _Trimmed(error)


def _is_long(thing: Any) -> bool:
    return type(thing) in (str, bytes) and len(thing) > TEXT_MAX


class _Trimmed:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        error = self._error
        args = error.args[:ARGUMENTS_MAX]
        cut = [f"argument {n} has {len(arg):,}" for n, arg in enumerate(args, 1) if _is_long(arg)]
        args = tuple([arg[:TEXT_MAX] if _is_long(arg) else arg for arg in args])
        lost = [f"argument {n}" for n, arg in enumerate(args, 1) if not _travels(arg)]
        state = dict(vars(error))
        for name in [name for name, value in state.items() if not _travels(value)]:
            lost.append(name)
            del state[name]
        own_notes = itertools.islice(getattr(error, "__notes__", ()), ARGUMENTS_MAX)
        notes = [note[:TEXT_MAX] for note in own_notes if isinstance(note, str)]
        if lost:
            notes.append(f"{', '.join(lost)} of this exception could not be pickled, and stayed with the task")
        if cut:
            notes.append(f"this exception is too large: {', '.join(cut)} characters, of which {TEXT_MAX:,} are here")
        if len(error.args) > ARGUMENTS_MAX:
            notes.append(f"this exception has {len(error.args):,} arguments, of which {ARGUMENTS_MAX} are here")
        args = tuple(arg if _travels(arg) else repr(arg)[:TEXT_MAX] for arg in args)
        made_of = None
        if isinstance(error, BaseExceptionGroup):
            message, errors = _parts_of_group(error)
            made_of = message[:TEXT_MAX], [it if _travels(it) else _Trimmed(it) for it in errors]
        return (
            make_exception,
            (type(error), args, made_of),
            {**state, "__notes__": notes},
            None,
            None,
            fill_exception,
        )


def _travels(thing: Any) -> bool:
    try:
        pickle.loads(dumps(thing))
    except Exception:  # noqa: BLE001  (whatever its own pickling raises, it cannot travel)
        return False
    return True


# -------------------------------------------------------------------------------------------------------------- streams


def _reduce_stream(pickler: Pickler, stream: Any) -> Any:
    for name in ("stdout", "stderr"):
        if stream is getattr(sys, name):
            return _attribute, ("sys", name)
    if type(stream) is io.TextIOWrapper:  # cloudpickle sends its contents
        raise Refused(stream)
    kind = type(stream)
    if isinstance(kind.__reduce_ex__, types.FunctionType):
        return stream.__reduce_ex__(5)
    # Since Python 3.13 the built-in class has a `__reduce_ex__` that only raises.
    return stream.__reduce__() if isinstance(kind.__reduce__, types.FunctionType) else NotImplemented


def _reduce_generator(reduction: Callable[[Any, bool], Any], pickler: Pickler, generator: Any) -> Any:
    if pickler.mode == "keep":
        return NotImplemented if type(generator) is not random.SystemRandom else reduction(generator, False)
    pickler.uses_generators = True
    return reduction(generator, pickler.mode == "spawn")


def _reduce_array(pickler: Pickler, array: Any) -> Any:
    if not (array.flags.forc or array.dtype.hasobject):
        array = sys.modules["numpy"].ascontiguousarray(array)  # only contiguous memory can leave the pickle
    return array.__reduce_ex__(5)


def _reduce_figure(pickler: Pickler, figure: Any) -> Any:
    make, args, state, *rest = figure.__reduce_ex__(5)
    # Otherwise pyplot opens it where it is unpickled, and it is shown as if the task had drawn it.
    return make, args, {name: value for name, value in state.items() if name != "_restore_to_pylab"}, *rest


def _reduce_proxy(pickler: Pickler, proxy: Any) -> Any:
    return manager_proxies.reduce_proxy(proxy)


def _attribute(module: str, name: str) -> Any:
    return getattr(cloudpickle.subimport(module), name)


def _attribute_of(module: str, name: str) -> Reduction:
    return lambda pickler, thing: (_attribute, (module, name))


_REDUCTIONS: Final[Mapping[type, Reduction]] = {
    _MainGlobals: lambda pickler, names: (task_main.globals_of, (dict(names),)),
    types.CodeType: _reduce_code,
    type(functools.lru_cache(len)): _reduce_cached,
    typing.NewType: _reduce_new_type,
    typing.ForwardRef: _reduce_forward_reference,
    typing.ParamSpec: _reduce_parameter,
    typing.TypeVarTuple: _reduce_parameter,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
    **({_ALIAS: _reduce_alias} if _ALIAS is not None else {}),
    # Singletons, which are compared by identity.
    **{
        type(getattr(dataclasses, name)): _attribute_of("dataclasses", name)
        for name in ("MISSING", "_HAS_DEFAULT_FACTORY", "KW_ONLY")
    },
}
_FAMILIES: Final[tuple[tuple[type, Reduction], ...]] = (
    (types.ModuleType, _reduce_module),
    (functools.cached_property, _reduce_cached_property),
    (io.TextIOBase, _reduce_stream),
)
