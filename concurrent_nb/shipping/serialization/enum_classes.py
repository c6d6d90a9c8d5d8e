"""Enumerations by value: each member arrives with its value, its data and its attributes, and all names are there.

cloudpickle makes the members anew from their values, without the `__new__` and `__init__` of the user's class, and
leaves out aliases and names of combined flags. Here a class is made from members that are ready: unpickling calls no
code of the user's class.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cloudpickle import cloudpickle

#: attributes that the standard library sets in each member
_OF_EVERY_MEMBER: Final = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
#: classes that are defined in Python have it among their `__flags__`
_HEAP_TYPE: Final = 1 << 9


class MemberParts(NamedTuple):
    """What a member is made from."""

    value: Any
    data: tuple[Any, ...]  #: arguments of the `__new__` of its built-in type, for example `int`


def reduce_enum(kind: type[enum.Enum], reduced: Any) -> Any:
    """Return how a class is pickled, whose reduction by cloudpickle is `reduced`."""
    _, (bases, name, qualname, _, module, tracker_id, *_), (state, slots_state), *_ = reduced
    members: dict[str, MemberParts] = {}
    for label, it in kind.__members__.items():
        if (data := _data_of(kind, it)) is None:
            return reduced
        members[label] = MemberParts(it._value_, data)
    attributes = {
        label: {key: value for key, value in vars(it).items() if key not in _OF_EVERY_MEMBER}
        for label, it in kind.__members__.items()
        if it._name_ == label and hasattr(it, "__dict__")
    }
    state = {key: value for key, value in state.items() if key not in members}
    args = (bases, name, qualname, members, module, tracker_id)
    filled = {label: own for label, own in attributes.items() if own}
    return make_enum, args, (state, slots_state, filled), None, None, fill_enum


def _solid_base(kind: Any) -> Any:
    """Return the built-in type that a member's data belongs to."""
    return next(base for base in kind._member_type_.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _data_of(kind: type[enum.Enum], member: enum.Enum) -> tuple[Any, ...] | None:
    """Return the arguments from which the built-in type makes a member; None if it does not give them."""
    base = _solid_base(kind)
    if base is object:
        return ()
    if (own := getattr(base, "__getnewargs__", None)) is not None:
        return tuple(own(member))
    make, args, *_ = base.__reduce__(member)
    return args if make is kind else None


def make_enum(
    bases: tuple[type, ...],
    name: str,
    qualname: str,
    members: Mapping[str, MemberParts],
    module: str,
    tracker_id: str,
) -> Any:
    """Make a class with its members, which `fill_enum` fills; the same class for the same `tracker_id`."""
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if known is not None:
        return known
    meta = type(bases[-1])
    names: Any = meta.__prepare__(name, bases)
    names["__new__"] = _make_member
    names["__init__"] = _leave
    for label, parts in members.items():
        names[label] = [parts]  # not a tuple, which would be several arguments, nor a descriptor, which is no member
    made: Any = meta.__new__(meta, name, bases, names)
    del made.__init__
    made.__module__, made.__qualname__ = module, qualname
    return cloudpickle._lookup_class_or_track(tracker_id, made)


def _make_member(kind: Any, parts: list[MemberParts]) -> Any:
    ((value, data),) = parts
    made = _solid_base(kind).__new__(kind, *data)
    made._value_ = value
    return made


def _leave(member: Any, parts: list[MemberParts]) -> None:
    """Do nothing, in place of an `__init__` that a base class may have."""


def fill_enum(kind: Any, state: Any) -> None:
    """Fill a class that was unpickled, and its members."""
    own_state, slots_state, attributes = state
    cloudpickle._class_setstate(kind, (own_state, slots_state))
    if "__new_member__" not in own_state and "__new_member__" in vars(kind):
        del kind.__new_member__
    for label, own in attributes.items():
        vars(kind.__members__[label]).update(own)
