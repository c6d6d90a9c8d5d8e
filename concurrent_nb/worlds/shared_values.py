"""Data that all members of a world read, and the rules by which what they write is merged when a step ends.

    shared_array(array, merge="sum"), shared_value(value, merge="max")     what the user declares
    group:   Contribution: what its members have written, in their order
    driver:  SharedStore.merge(contributions of all groups) --> a change: the parts that are new
    group:   SharedStore.apply(change)

Contributions are merged one after another in the order of the members, so sums of floats are the same for any groups.
"""

import sys
import types
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, Final, NamedTuple

import numpy as np

from concurrent_nb.errors import ConfigurationError, NotPicklable, WorldError
from concurrent_nb.shipping.serialization import separate_pickles
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure

#: named rules
RULES: Final = ("last", "sum", "min", "max", "concat")
#: a rule: a name, a function of the old value and the written ones, or None: at most one member writes in a step
Rule = str | Callable[..., Any] | None
#: what is new, by name: a whole value, or a `Cells`
Change = Mapping[str, Any]

_AT: Final = {"sum": np.add, "min": np.minimum, "max": np.maximum}


class Cells(NamedTuple):
    """New values of some cells of an array."""

    at: np.ndarray[Any, Any]  #: flat indexes
    values: np.ndarray[Any, Any]


def size_bytes_of(new: Any) -> int:
    """Return about how much a part of a change takes; of a container how much its references take."""
    if isinstance(new, Cells):
        return int(new.at.nbytes + new.values.nbytes)
    if isinstance(new, np.ndarray):
        return int(new.nbytes)
    if isinstance(new, str | bytes | bytearray):
        return len(new)
    return 64 + (8 * len(new) if isinstance(new, Sized) else 0)


class Contribution(NamedTuple):
    """What the members of a group have written to one datum, in their order."""

    writers: np.ndarray[Any, Any]  #: ids of members, one for each value
    values: Any  #: of an array: an array; else a list: bytes are pickles
    at: np.ndarray[Any, Any] | None  #: flat indexes, of an array
    table: separate_pickles.Table | None = None  #: of the pickles

    def opened(self) -> list[Any]:
        """Return the values, if they are not those of an array."""
        table = self.table or {}
        return [separate_pickles.loads(each, table) if type(each) is bytes else each for each in self.values]


class SharedDatum:
    """A declared datum: a value and the rule that merges what members write to it.

    Args:
        is_array: whether its cells are written one by one.
    """

    def __init__(self, value: Any, merge: Rule, is_array: bool = False) -> None:
        self.value = value
        self.merge = merge
        self.is_array = is_array  # also if a rule makes an array of a value later, it is none


def shared_array(array: Any, merge: Rule = None) -> SharedDatum:
    """Declare a numpy array that members read, and whose cells they write.

    >>> import numpy as np
    >>> class Painter:
    ...     def step(self, ctx):
    ...         ctx.add("canvas", (ctx.id, slice(None)), 1.5)
    >>> canvas = concurrent_nb.shared_array(np.zeros((2, 3)), merge="sum")
    >>> world = app.world([Painter(), Painter()], shared={"canvas": canvas})
    >>> world.run(2).number
    2
    >>> world.shared["canvas"].tolist()
    [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]

    Args:
        array: the first content; it is copied.
        merge: what becomes of several writes to one cell in a step: "sum" adds them to it, "min" and "max" keep the
            least or largest of it and them, "last" keeps the one of the last member. A function is called with a copy
            of the array, the flat indexes and the values in the order of the members, and returns the new array. None:
            two members that write to one cell in a step are an error.

    Raises ConfigurationError for another rule, or an array of objects.
    """
    array = np.array(array, order="C")  # cells are numbered in this order
    if array.dtype.hasobject:
        raise ConfigurationError("a shared array has numbers, not objects: use shared_value for objects")
    if merge == "concat":
        raise ConfigurationError('merge="concat" is for a shared_value: an array keeps its size')
    return SharedDatum(array, checked_rule(merge), is_array=True)


def shared_value(value: Any, merge: Rule = None) -> SharedDatum:
    """Declare a value that members read and write.

    >>> class Bidder:
    ...     def step(self, ctx):
    ...         ctx.write("best", ctx.read("best") + ctx.id)
    >>> world = app.world([Bidder(), Bidder()], shared={"best": concurrent_nb.shared_value(1, merge="max")})
    >>> world.run(3).number
    3
    >>> world.shared["best"]
    4

    Args:
        value: the first value; the world gets a copy of it.
        merge: what becomes of what members write in a step: "sum" adds it to the value, "min" and "max" keep the least
            or largest of it and the value, "last" keeps what the last member has written, "concat" appends each to the
            value, a list. A function is called with a copy of the value and the list of what was written in the order
            of the members, and returns the new value. None: two members that write it in a step are an error.

    Raises ConfigurationError for another rule.
    """
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return shared_array(value, merge)
    if merge == "concat" and not isinstance(value, list):
        raise ConfigurationError(f'merge="concat" appends to a list, and this value is a {type(value).__name__}')
    return SharedDatum(value, checked_rule(merge))


def checked_rule(merge: Rule) -> Rule:
    """Return a rule. Raises ConfigurationError if there is no such rule."""
    if merge is None or callable(merge) or merge in RULES:
        return merge
    raise ConfigurationError(f"merge={merge!r} is no rule: {', '.join(map(repr, RULES))}, a function, or None")


def declared(shared: Mapping[str, Any] | None) -> dict[str, SharedDatum]:
    """Return declarations by name, with copies of the values; arrays and values without one have no rule.

    Raises ConfigurationError, and NotPicklable for a value or rule that cannot be sent.
    """
    found: dict[str, SharedDatum] = {}
    if not isinstance(shared, Mapping | None):
        raise ConfigurationError(f"shared data are in a dictionary by name, not in a {type(shared).__name__}")
    for name, value in (shared or {}).items():
        if not isinstance(name, str):
            raise ConfigurationError(f"shared data have names, and {name!r:.50} is not a string")
        datum = value if isinstance(value, SharedDatum) else shared_value(value)
        copied(name, datum.merge)
        found[name] = SharedDatum(copied(name, datum.value), datum.merge, datum.is_array)
    return found


def copied(name: str, value: Any) -> Any:
    """Return a copy of a value of a datum. Raises NotPicklable if it cannot be sent."""
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return np.array(value, order="C")
    try:
        return separate_pickles.copy_of(value)
    except Exception as error:  # the object's own pickling may raise anything
        raise NotPicklable(describe_failure(f"shared data {name!r}", value, error)) from error


class SharedStore:
    """The shared data of a world at one moment.

    Args:
        data: by name. An array is copied only before cells of it are written here, so it must not change elsewhere.
    """

    def __init__(self, data: Mapping[str, SharedDatum]) -> None:
        self._data = {name: SharedDatum(datum.value, datum.merge, datum.is_array) for name, datum in data.items()}
        self._borrowed = {name for name, datum in data.items() if datum.is_array}  # arrays that others have, too
        self._read_only: dict[str, Any] = {}
        # Of values that cannot be made read-only, when they were first read.
        self._pickles: dict[str, tuple[bytes, separate_pickles.Table]] = {}
        self._indexes: dict[str, np.ndarray[Any, Any]] = {}

    @property
    def data(self) -> Mapping[str, SharedDatum]:
        """The data by name."""
        return self._data

    def copy(self) -> "SharedStore":
        """Return a copy that changes by itself."""
        self._borrowed |= {name for name, datum in self._data.items() if datum.is_array}
        return SharedStore(self._data)

    # ------------------------------------------------------------------------------------------------- for members

    def read(self, name: str) -> Any:
        """Return a datum, read-only as far as its type allows that. Raises WorldError if there is none."""
        try:
            return self._read_only[name]
        except KeyError:
            datum = self.find(name)
            value = read_only(datum.value)
            self._pickles.pop(name, None)
            if not datum.is_array and not is_protected(value):
                self._pickles[name] = _pickle_of(datum.value)
            self._read_only[name] = value
            return value

    def is_guarded(self, name: str) -> bool:
        """Return whether readers of a datum, which has been read, can change it, so that `restore` must be called."""
        return name in self._pickles

    def find(self, name: str) -> SharedDatum:
        """Return a datum. Raises WorldError if there is none of that name."""
        try:
            return self._data[name]
        except KeyError:
            names = ", ".join(map(repr, self._data)) or "none"
            raise WorldError(f"this world shares no {name!r}; it shares {names}") from None

    def flat(self, name: str, at: Any) -> Any:
        """Return the flat indexes of a part of an array. Raises IndexError as indexing it would."""
        indexes = self._indexes.get(name)
        if indexes is None:
            array = self._data[name].value
            indexes = self._indexes[name] = np.arange(array.size).reshape(array.shape)
        return indexes[at]

    def restore(self, name: str) -> bool:
        """Undo a change of a value that readers have made; return whether they have made one.

        For values of classes whose objects cannot be made read-only; those were pickled when they were first read.
        """
        if name not in self._pickles or _pickle_of(self._data[name].value) == self._pickles[name]:
            return False
        self._data[name].value = separate_pickles.loads(*self._pickles[name])
        self._read_only.pop(name, None)
        return True

    # --------------------------------------------------------------------------------------------------- for drivers

    def merge(self, contributions: Sequence[Mapping[str, Contribution]]) -> Change:
        """Merge what groups have written, in their order; return what is new.

        Raises WorldError for two writers of a datum without a rule, and with what a rule raises as its cause.
        """
        change: dict[str, Any] = {}
        for name, datum in self._data.items():
            written = [each[name] for each in contributions if name in each]
            if not written:
                continue
            try:
                change[name] = _merged_array(name, datum, written) if datum.is_array else _merged(name, datum, written)
            except WorldError:
                raise
            except Exception as error:  # of the user's rule, or of the written values
                writers = list(dict.fromkeys(int(writer) for each in written for writer in each.writers))
                who = ", ".join(map(str, writers[:3])) + (", ..." if len(writers) > 3 else "")
                rule = f'"{datum.merge}"' if isinstance(datum.merge, str) else "of its own"
                raise WorldError(
                    f"what members {who} have written to {name!r} could not be merged by its rule {rule}:"
                    f" {type(error).__name__}: {error}"
                ) from error
        self.apply(change)
        return change

    def apply(self, change: Change) -> None:
        """Take over what is new."""
        for name, new in change.items():
            datum = self._data[name]
            if name in self._borrowed:
                datum.value = np.array(datum.value if isinstance(new, Cells) else new, order="C")
                self._borrowed.discard(name)
                self._read_only.pop(name, None)
            elif datum.is_array and (view := self._read_only.pop(name, None)) is not None:
                if _references(datum, view) > _REFERENCES:  # a reader keeps it, and it must stay as it was
                    datum.value = np.array(datum.value if isinstance(new, Cells) else new, order="C")
                else:
                    self._read_only[name] = view
            if isinstance(new, Cells):
                datum.value.reshape(-1)[new.at] = new.values
            elif datum.is_array:
                datum.value[...] = new
            else:
                datum.value = new
                self._read_only.pop(name, None)


def _pickle_of(value: Any) -> tuple[bytes, separate_pickles.Table]:
    pickler = separate_pickles.SeparatePickler()
    return pickler.dumps(value), pickler.table


def _references(datum: SharedDatum, view: Any) -> int:
    """Return how many references there are to an array and to a view of it. Views of a view refer to the array."""
    return sys.getrefcount(datum.value) + sys.getrefcount(view)


def _references_without_readers() -> int:
    datum = SharedDatum(np.zeros(1), None, is_array=True)
    view = read_only(datum.value)
    return _references(datum, view)


def _merged_array(name: str, datum: SharedDatum, written: Sequence[Contribution]) -> Any:
    """Return the cells that are new, or all of the array if those are many."""
    at = np.concatenate([each.at for each in written if each.at is not None])
    values = np.concatenate([each.values for each in written])
    rule, array = datum.merge, datum.value
    if callable(rule):
        new = np.asarray(rule(array.copy(), at, values))
        if new.shape != array.shape:
            raise WorldError(
                f"the rule of {name!r} returned an array of shape {new.shape}, and the shared one has {array.shape}"
            )
        return new.astype(array.dtype, order="C")
    if rule is None:
        _refuse_second_writer(name, at, np.concatenate([each.writers for each in written]))
    cells, numbers = np.unique(at, return_inverse=True)
    new_values = array.reshape(-1)[cells]
    if rule in _AT:
        _AT[rule].at(new_values, numbers, values)  # one after another, so that sums are the same for any groups
    else:
        new_values[numbers] = values
    if cells.size * (cells.itemsize + array.itemsize) < array.nbytes:
        return Cells(cells, new_values)
    whole = np.array(array, order="C")
    whole.reshape(-1)[cells] = new_values
    return whole


def _refuse_second_writer(name: str, at: np.ndarray[Any, Any], writers: np.ndarray[Any, Any]) -> None:
    order = np.lexsort((writers, at))
    at, writers = at[order], writers[order]
    twice = np.flatnonzero((at[1:] == at[:-1]) & (writers[1:] != writers[:-1]))
    if twice.size:
        first = int(twice[0])
        raise WorldError(
            f"members {writers[first]} and {writers[first + 1]} write to the same cell ({at[first]}) of {name!r}: name"
            ' a rule for that, as in shared_array(..., merge="last")'
        )


def _merged(name: str, datum: SharedDatum, written: Sequence[Contribution]) -> Any:
    values = [value for each in written for value in each.opened()]
    rule, value = datum.merge, datum.value
    if callable(rule):
        return rule(separate_pickles.copy_of(value), values)
    if rule == "concat":
        return [*value, *values]
    if rule == "sum":
        for each in values:
            value = value + each
        return value
    if rule == "min":
        return min([value, *values])
    if rule == "max":
        return max([value, *values])
    if rule is None:
        writers = list(dict.fromkeys(int(writer) for each in written for writer in each.writers))
        if len(writers) > 1:
            raise WorldError(
                f"members {writers[0]} and {writers[1]} write {name!r} in the same step: name a rule for that, as in"
                ' shared_value(..., merge="last")'
            )
    return values[-1]


def is_protected(value: Any) -> bool:
    """Return whether what `read_only` has returned is read-only, with all of its parts."""
    kind = type(value)
    if kind is types.MappingProxyType:
        return all(map(is_protected, value.values()))
    if kind in (tuple, frozenset):
        return all(map(is_protected, value))
    if isinstance(value, np.ndarray):
        return kind is np.ndarray and not value.dtype.hasobject
    return kind in SMALL_ATOMS or kind is bytes or isinstance(value, np.generic | type | types.FunctionType)


def read_only(value: Any) -> Any:
    """Return a value, read-only if it is a container or an array. Other objects are returned as they are."""
    kind = type(value)
    if kind is dict:
        return types.MappingProxyType({key: read_only(item) for key, item in value.items()})
    if kind in (list, tuple):
        return tuple(map(read_only, value))
    if kind is set:
        return frozenset(value)
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    return value


#: references to an array, and to the view of it that is given to readers, if no reader keeps it
_REFERENCES: Final = _references_without_readers()
