"""Classes of msgspec by value, which cloudpickle cannot make: their fields, defaults and options must be there at once.

Methods arrive later, as those of all classes, because they may refer to the class.
"""

import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from cloudpickle import cloudpickle

#: what `msgspec.Struct` takes as arguments of a class, besides `kw_only` and `rename`, which its fields tell
_OPTIONS: Final = (
    "frozen",
    "eq",
    "order",
    "array_like",
    "gc",
    "repr_omit_defaults",
    "omit_defaults",
    "forbid_unknown_fields",
    "weakref",
    "dict",
    "cache_hash",
    "tag",
    "tag_field",
)
#: members that msgspec makes
_MADE: Final = frozenset({"__annotations__", "__slots__"})

_post_inits: "weakref.WeakKeyDictionary[type, list[Callable[[Any], None]]]" = weakref.WeakKeyDictionary()


class StructParts(NamedTuple):
    """What a class is made from."""

    meta: Any
    name: str
    qualname: str
    module: str
    bases: tuple[type, ...]
    annotations: dict[str, Any]
    defaults: dict[str, Any]  #: of own fields; NODEFAULT: none, a `msgspec._core.Factory`: makes one
    encoded: dict[str, str]  #: names of own fields in messages, where they differ
    options: dict[str, Any]
    has_post_init: bool


def is_struct(kind: type) -> bool:
    """Return whether a class is one of msgspec."""
    return issubclass(kind, msgspec.Struct)


def reduce_struct(kind: Any, reduced: Any) -> Any:
    """Return how a class is pickled, whose reduction by cloudpickle is `reduced`."""
    _, (meta, name, bases, _, tracker_id, *_), (state, slots_state), *_ = reduced
    annotations = dict(vars(kind).get("__annotations__", {}))
    fields: tuple[str, ...] = kind.__struct_fields__
    own = [field for field in fields if field in annotations]
    values: tuple[Any, ...] = kind.__struct_defaults__
    defaults = dict.fromkeys(fields, msgspec.NODEFAULT) | dict(
        zip(fields[len(fields) - len(values) :], values, strict=True)
    )
    encoded = dict(zip(fields, kind.__struct_encode_fields__, strict=True))
    options = {option: getattr(kind.__struct_config__, option) for option in _OPTIONS}
    options["kw_only"] = bool(own) and not set(own) & set(kind.__match_args__)
    parts = StructParts(
        meta,
        name,
        kind.__qualname__,
        kind.__module__,
        bases,
        annotations,
        {field: _split(defaults[field]) for field in own},
        {field: encoded[field] for field in own if encoded[field] != field},
        {option: value for option, value in options.items() if value is not None},
        "__post_init__" in state,
    )
    state = {key: value for key, value in state.items() if key not in _MADE}
    return make_struct, (tracker_id, *parts), (state, slots_state), None, None, fill_struct


def _split(default: Any) -> tuple[str, Any]:
    """Return a default as an argument of `msgspec.field`, which can be pickled."""
    if default is msgspec.NODEFAULT:
        return "", None
    factory = getattr(default, "factory", None)
    return ("default_factory", factory) if type(default).__name__ == "Factory" else ("default", default)


def make_struct(tracker_id: str, *parts: Any) -> Any:
    """Make a class, which `fill_struct` fills; the same class for the same `tracker_id`."""
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if known is not None:
        return known
    it = StructParts(*parts)
    names: dict[str, Any] = {
        "__module__": it.module,
        "__qualname__": it.qualname,
        "__annotations__": it.annotations,
    }
    for field, (word, value) in it.defaults.items():
        given: dict[str, Any] = {word: value} if word else {}
        if field in it.encoded:
            given["name"] = it.encoded[field]
        if given:
            names[field] = msgspec.field(**given)
    called: list[Callable[[Any], None]] = []
    if it.has_post_init:  # msgspec keeps the function that is there now

        def __post_init__(struct: Any) -> None:
            called[0](struct)

        names["__post_init__"] = __post_init__
    made = cloudpickle._lookup_class_or_track(tracker_id, it.meta(it.name, it.bases, names, **it.options))
    if it.has_post_init:
        _post_inits[made] = called
    return made


def fill_struct(kind: Any, state: Any) -> None:
    """Fill a class that was unpickled."""
    cloudpickle._class_setstate(kind, state)
    if kind in _post_inits:
        _post_inits[kind][:] = [vars(kind)["__post_init__"]]
