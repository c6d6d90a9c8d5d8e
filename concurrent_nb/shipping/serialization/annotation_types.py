"""The types that a class of `__main__` names in annotations that are text.

`typing.get_type_hints`, and with it msgspec, cattrs and others, evaluate such text in the module of the class. So these
types travel with the class, although nothing else of it refers to them.
"""

import ast
import functools
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

#: what an annotation may name, apart from what `typing` has
_TYPES: Final = (type, types.ModuleType, types.GenericAlias, types.UnionType)
_MODULES_OF_TYPES: Final = frozenset({"typing", "typing_extensions"})


class _Looking(threading.local):
    """Whether this thread pickles a type only to see whether that is possible."""

    is_on: bool = False


_LOOKING: Final = _Looking()
_sendable: "weakref.WeakKeyDictionary[type, bool]" = weakref.WeakKeyDictionary()


def named_types(kind: type, namespace: Mapping[str, Any], pickle: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the types that annotations of a class name as text, by name, without the class itself.

    Args:
        namespace: the globals of the class's module; names that are not there are left out.
        pickle: pickles a type; types for which it raises are left out.
    """
    if _LOOKING.is_on:
        return {}
    names = {name for annotation in _annotations(kind) for name in _names(annotation)}
    found = {name: namespace[name] for name in sorted(names) if name in namespace}
    return {name: it for name, it in found.items() if it is not kind and _is_type(it) and _is_sendable(it, pickle)}


def _annotations(kind: type) -> Iterator[Any]:
    annotations = vars(kind).get("__annotations__")
    if isinstance(annotations, Mapping):
        yield from annotations.values()


def _names(annotation: Any) -> Iterator[str]:
    if isinstance(annotation, str):
        yield from _names_in(annotation)
    elif isinstance(annotation, typing.ForwardRef):
        yield from _names_in(annotation.__forward_arg__)
    else:
        for part in typing.get_args(annotation):
            yield from _names(part)


@functools.lru_cache(1024)
def _names_in(text: str) -> frozenset[str]:
    try:
        parsed = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):  # Python could not evaluate it either
        return frozenset()
    names = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name)}
    texts = (node.value for node in ast.walk(parsed) if isinstance(node, ast.Constant))  # as in List["Node"]
    return frozenset(names.union(*(_names_in(text) for text in texts if isinstance(text, str))))


def _is_type(thing: Any) -> bool:
    return isinstance(thing, _TYPES) or type(thing).__module__ in _MODULES_OF_TYPES


def _is_sendable(thing: Any, pickle: Callable[[Any], Any]) -> bool:
    if not isinstance(thing, type):
        return _can_be_pickled(thing, pickle)
    known = _sendable.get(thing)
    if known is None:
        known = _sendable[thing] = _can_be_pickled(thing, pickle)
    return known


def _can_be_pickled(thing: Any, pickle: Callable[[Any], Any]) -> bool:
    _LOOKING.is_on = True
    try:
        pickle(thing)
    except Exception:  # noqa: BLE001  (whatever its own pickling raises; a task that needs it gets a NameError)
        return False
    finally:
        _LOOKING.is_on = False
    return True
