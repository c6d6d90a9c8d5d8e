"""Why an object cannot be pickled, and which part of it is the reason.

When the pickler has failed, `find_unpicklable` pickles the parts of the object to find the one that made it fail, and
returns a `Culprit`, whose `text` is the middle of an error message.
"""

import functools
import inspect
import pickle
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.references import ATOMS, attribute_of, is_importable, references
from concurrent_nb.shipping.serialization.refusals import a_or_an, refusal

#: how many levels deep a culprit is searched for
DEPTH: Final = 12


@dataclass(frozen=True, slots=True)
class Culprit:
    """The part of an object that keeps it from travelling."""

    path: tuple[tuple[str, str], ...]  #: (kind, label) of each step from the object to the part
    what: str  #: "an open file"
    advice: str  #: what to do

    def text(self, name: str, inside: str | None = None) -> str:
        """Return a text about its place and kind: `f uses g, which uses settings['out'], an open file`.

        Args:
            inside: the name of the object where its parts are named.
        """
        first, *clauses = self._clauses(name if inside is None else inside, inside is not None)
        if inside is not None:
            first = name
        if not clauses:
            return f"{first} is {self.what}"
        return f"{first} uses {', which uses '.join(clauses)}, {self.what}"

    def _clauses(self, name: str, is_argument: bool) -> list[str]:
        clauses = [name]
        for kind, label in self.path:
            if kind == "name":
                clauses.append(label)
            elif label == ".__class__":
                clauses.append(f"the class of {clauses.pop()}")
            else:
                clauses[-1] += label
        if clauses[0] != name and (len(clauses) == 1 or is_argument):
            return [name, *clauses]
        return clauses


def find_unpicklable(thing: Any, error: BaseException) -> Culprit:
    """Find the part that makes `thing` fail to pickle, by pickling its parts; `error` is what pickling it raised."""
    path: list[tuple[str, str]] = []
    by_value = thing if isinstance(thing, type) else None  # a class on the path
    seen = {id(thing)}
    while len(path) < DEPTH and refusal(thing) is None:
        for kind, label, child in _parts(thing):
            if type(child) in ATOMS or id(child) in seen or is_importable(child):
                continue
            seen.add(id(child))
            if (failure := _failure(child)) is not None:
                thing, error = child, failure
                by_value = child if isinstance(child, type) else by_value
                path.append((kind, label))
                break
        else:
            break
    found = refusal(thing)
    if found is not None and by_value is not None:
        # Some classes, of libraries with a registry for example, cannot travel otherwise.
        what, advice = found
        found = what, f"{advice}; or put the class {by_value.__qualname__} into a module that workers can import"
    if found is not None:
        return Culprit(tuple(path), *found)
    kind_of = type(thing)
    what = a_or_an(f"{kind_of.__module__}.{kind_of.__qualname__}".removeprefix("builtins."))
    return Culprit(tuple(path), what, f"it cannot be pickled ({_one_line(error)})")


_AS_REFERRED: Final = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinMethodType,
    types.ModuleType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
)


def _parts(thing: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the parts that pickling visits, one level deep, as `references` does; none behind one that raises."""
    parts = _found_parts(thing)
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except Exception:  # noqa: BLE001  (an object's own code may raise anything, and it cannot be looked into then)
            return
        yield part


def _found_parts(thing: Any) -> Iterator[tuple[str, str, Any]]:
    if isinstance(thing, _AS_REFERRED):
        yield from references(thing)
        return
    if isinstance(wrapped := attribute_of(thing, "__wrapped__"), types.FunctionType):
        yield "part", "", wrapped
    try:
        reduced = thing.__reduce_ex__(5)
    except Exception:  # noqa: BLE001  (an object's own pickling may raise anything: then the object is the culprit)
        return
    if not isinstance(reduced, tuple):
        return
    _, args, state, listed, keyed = (*reduced, None, None, None)[:5]
    names = {id(value): f".{name}" for name, value in getattr(thing, "__dict__", {}).items()}
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    for part in (attributes, slots):
        if isinstance(part, dict):
            yield from (("part", f".{name}", value) for name, value in part.items())
        elif part is not None:
            yield "part", names.get(id(part), ""), part
    for arg in args:
        yield "part", ".__class__" if arg is type(thing) else names.get(id(arg), ""), arg
    yield from (("item", f"[{number}]", item) for number, item in enumerate(listed or ()))
    yield from (("item", f"[{key!r:.40}]", value) for key, value in keyed or ())


def _failure(thing: Any) -> Exception | None:
    try:
        pickles.dumps(thing)
    except Exception as error:  # noqa: BLE001  (an object's own pickling may raise anything; the error is the result)
        return error
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = "" if isinstance(error, pickle.PicklingError) else f"{type(error).__name__}: "
    return f"{name}{text}"[:300]


def describe_failure(name: str, thing: Any, error: BaseException) -> str:
    """Return the error message for `thing`, called `name`, that could not be pickled."""
    culprit = find_unpicklable(thing, error)
    return f"{culprit.text(name)}: {culprit.advice}"


def describe_arguments(
    fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException
) -> str:
    """Return which argument of a call could not be pickled, and why: `argument 2 (log) is an open file: ...`."""
    try:
        parameters = inspect.signature(fn).parameters.values() if fn is not None else ()
        names = [it.name for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):  # compiled code often has no signature
        names = []
    for number, arg in enumerate(args):
        if (failure := _failure(arg)) is not None:
            culprit = find_unpicklable(arg, failure)
            inside = names[number] if number < len(names) else None
            label = f"argument {number + 1}" + (f" ({inside})" if inside else "")
            return f"{culprit.text(label, inside)}: {culprit.advice}"
    for name, arg in kwargs.items():
        if (failure := _failure(arg)) is not None:
            culprit = find_unpicklable(arg, failure)
            return f"{culprit.text(f'argument {name}', name)}: {culprit.advice}"
    return _one_line(error)
