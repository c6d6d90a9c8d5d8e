"""Odd values for every field of every message, made from the messages' types: what a fuzzer sends.

    message type -> msgspec.inspect -> sane(...)  a message that a good peer could send
                                    -> odd(...)   all values of a field that a bad one could put in its place

A new message gets its odd values by itself. What a field of bytes names is looked up in `MEANINGS` by the field's name;
one that is not there raises `NoOddValues`, and so does a type that is not known here.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import encode_error, function_digest, size_of
from concurrent_nb.wire.messages import Slice

#: what a field of bytes names, by its name
MEANINGS: Final[dict[str, str]] = {
    "job": "job",
    "segment": "segment",
    "segments": "segment",
    "digest": "digest",
    "digests": "digest",
    "function": "digest",
    "body": "payload",
    "data": "payload",
    "exception": "payload",
}
INTEGERS: Final = (0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))
FLOATS: Final = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 5e-324, 1e308, 0.001)
TEXTS: Final = ("", "x", "x" * 100_000, "\0", "\x1b[31m\u202e", "two\nlines", "../../etc/passwd", "\U0001f4a3")
WRONG_TYPES: Final[tuple[Any, ...]] = (None, True, -1, 1.5, "text", b"bytes", [], [[]], {}, {"a": 1})
#: members of a huge list
HUGE: Final = 3000
#: buffers that are really sent with a message are no longer than this in all
BUFFERS_MAX_BYTES: Final = 12 * 1024 * 1024
#: a buffer that is too large for one envelope
LARGE_BYTES: Final = 5 * 1024 * 1024
_FIELDS: Final[dict[type[Any], tuple[inspect.Field, ...]]] = {}  # to ask for them anew takes longer than all else


class NoOddValues(Exception):
    """A field or a type of which is not known what could be odd about it."""


@dataclass(slots=True)
class Known:
    """What a bad peer knows and may name: what is its own first, then what is others', then what is nobody's."""

    own: dict[str, list[bytes]] = field(default_factory=dict)
    others: dict[str, list[bytes]] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)  #: that a good peer could name
    odd_slices: list[Slice] = field(default_factory=list)  #: behind the end, of others, enormous
    handles: list[tuple[bytes, int, int, int]] = field(default_factory=list)  #: segment, pid, fd, size
    refs: list[m.TaskRef] = field(default_factory=list)  #: attempts that it was assigned
    functions: list[m.Function] = field(default_factory=list)  #: with bodies in the header
    indexes: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    def add(self, meaning: str, name: bytes) -> None:
        """Note one more of its own names."""
        self.own.setdefault(meaning, []).append(name)


def members(union: Any) -> tuple[type[Any], ...]:
    """List the types of a union, or a single one."""
    return get_args(union) or (union,)


def fields_of(kind: type[Any]) -> tuple[inspect.Field, ...]:
    """List the fields of a struct's type."""
    if (known := _FIELDS.get(kind)) is not None:
        return known
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    _FIELDS[kind] = info.fields
    return info.fields


class Odd:
    """Make values for a peer that knows these names, by chance."""

    def __init__(self, chance: random.Random, known: Known) -> None:
        self.chance = chance
        self.known = known

    # ------------------------------------------------------------------------------------------------- what is right

    def sane(self, kind: type[Any]) -> Any:
        """Make a message, or a record in one, that a good peer could send."""
        if (special := _SANE.get(kind)) is not None:
            return special(self)
        return kind(*[self._sane(each.type, each.name) for each in fields_of(kind)])

    def _sane(self, type_: inspect.Type, name: str) -> Any:
        chance = self.chance
        match type_:
            case inspect.StructType():
                return self.sane(type_.cls)
            case inspect.UnionType():
                if name == "sizes":
                    return self.chance.choice(self.known.slices) if self.known.slices else 0
                return self._sane(chance.choice(type_.types), name)
            case inspect.ListType():
                count = max(type_.min_length or 0, chance.choice((0, 1, 1, 2)))
                return [self._sane(type_.item_type, name) for _ in range(count)]
            case inspect.VarTupleType():
                count = max(type_.min_length or 0, chance.choice((0, 0, 1, 2)))
                return tuple(self._sane(type_.item_type, name) for _ in range(count))
            case inspect.BytesType():
                return self._named(name)
            case inspect.IntType():
                return chance.randint(type_.ge or 0, min(type_.le or 5, 5))
            case inspect.FloatType():
                return chance.uniform(0.01, 5.0)
            case inspect.StrType():
                return chance.choice(("", "a name", "x" * 50))
            case inspect.BoolType():
                return chance.random() < 0.5
            case inspect.NoneType():
                return None
            case inspect.LiteralType():
                return chance.choice(type_.values)
        raise NoOddValues(f"field {name!r}: nothing is known of {type_}")

    def _named(self, name: str) -> bytes:
        meaning = _meaning(name)
        if meaning == "payload":
            return self.chance.choice((b"", b"p", b"payload", b"p" * 2000))
        own = self.known.own.get(meaning)
        return self.chance.choice(own) if own else self.chance.randbytes(16)

    # --------------------------------------------------------------------------------------------------- what is odd

    def odd(self, type_: inspect.Type, name: str) -> list[Any]:
        """List odd values of a field's type. Raises NoOddValues."""
        match type_:
            case inspect.StructType():
                return [value for position in range(len(type_.fields)) for value in self.changed(type_.cls, position)]
            case inspect.UnionType():
                slices = self.known.odd_slices if any(_is_slice(each) for each in type_.types) else []
                return [*slices, *(value for each in type_.types for value in self.odd(each, name))]
            case inspect.ListType():
                return self._odd_lists(type_.item_type, name)
            case inspect.VarTupleType():
                return [tuple(value) for value in self._odd_lists(type_.item_type, name)]
            case inspect.BytesType():
                return self._odd_names(name)
            case inspect.IntType():
                return [*INTEGERS, *(limit + step for limit in (type_.ge, type_.le) if limit for step in (-1, 1))]
            case inspect.FloatType():
                return [*FLOATS]
            case inspect.StrType():
                return [*TEXTS]
            case inspect.BoolType():
                return [False, True]
            case inspect.NoneType():
                return [None]
            case inspect.LiteralType():
                return [*type_.values, "none of them"]
        raise NoOddValues(f"field {name!r}: nothing is known of {type_}")

    def _odd_lists(self, item: inspect.Type, name: str) -> list[list[Any]]:
        sane = self._sane(item, name)
        return [[], [sane] * 2, [sane] * HUGE, *([value] for value in self.odd(item, name)), [None]]

    def _odd_names(self, name: str) -> list[bytes]:
        meaning = _meaning(name)
        if meaning == "payload":
            return [b"", b"\0", b"\xc1", b"x" * 40_000, b"\x80\x05N.", self.chance.randbytes(64)]
        named = [*self.known.own.get(meaning, ())[:3], *self.known.others.get(meaning, ())[:3]]
        return [*named, b"", b"x", bytes(16), bytes(15), bytes(17), bytes(32), self.chance.randbytes(16), b"x" * 5000]

    def changed(self, kind: type[Any], position: int) -> list[Any]:
        """List sane messages that have an odd value in the field at this position."""
        each = fields_of(kind)[position]
        sane = self.sane(kind)
        return [with_field(sane, position, value) for value in self.odd(each.type, each.name)]

    def message(self, kind: type[Any]) -> Any:
        """Make a message with some odd fields, mostly none or one."""
        chance = self.chance
        made = self.sane(kind)
        fields = fields_of(kind)
        for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 4)) if fields else 0):
            position = chance.randrange(len(fields))
            made = with_field(made, position, self._one_odd(fields[position].type, fields[position].name))
        return made

    def _one_odd(self, type_: inspect.Type, name: str) -> Any:
        """Choose an odd value, deep ones as likely as shallow ones."""
        chance = self.chance
        if chance.random() < 0.03:
            return chance.choice(WRONG_TYPES)
        match type_:
            case inspect.StructType():
                return self.message(type_.cls)
            case inspect.UnionType():
                if self.known.odd_slices and any(_is_slice(each) for each in type_.types) and chance.random() < 0.5:
                    return chance.choice(self.known.odd_slices)
                return self._one_odd(chance.choice(type_.types), name)
            case inspect.ListType() | inspect.VarTupleType():
                how = chance.random()
                if how < 0.1:
                    found: list[Any] = [self._sane(type_.item_type, name)] * chance.choice((2, HUGE))
                else:
                    count = chance.choice((0, 1, 1, 2, 3))
                    found = [self._one_odd(type_.item_type, name) for _ in range(count)]
                return tuple(found) if isinstance(type_, inspect.VarTupleType) else found
        return chance.choice(self.odd(type_, name))

    # ---------------------------------------------------------------------------------------- what a good peer does

    def payload(self) -> tuple[bytes, m.Sizes, list[bytes]]:
        """Make a body, its sizes, and the buffers that follow: in the header, in frames, or in shared memory."""
        chance = self.chance
        how = chance.random()
        if how < 0.5 or not self.known.slices:
            if how < 0.3:
                return chance.choice((b"p", b"payload" * 3, b"L large")), (), []
            sizes = [1, 100, 50_000] if chance.random() < 0.97 else [LARGE_BYTES]
            buffers = [b"b" * chance.choice(sizes) for _ in range(chance.choice((1, 2)))]
            return chance.choice((b"", b"head")), tuple(map(len, buffers)), buffers
        odd = bool(self.known.odd_slices) and chance.random() < 0.3
        places = self.known.odd_slices if odd else self.known.slices
        slices = tuple(chance.choice(places) for _ in range(chance.choice((1, 1, 2))))
        return chance.choice((b"", b"head")), slices, []

    def flow(self, *, client: bool) -> list[Any]:
        """Make messages that belong together, as a good peer says them, and what a good one would not say then."""
        chance, known = self.chance, self.known
        if not client:
            return [self.sane(chance.choice((m.Outcomes, m.Outcomes, m.Started, m.Returned, m.Output)))]
        function, job = self.sane(m.Function), known.own["job"][0]
        frames = [self.sane(m.TaskFrame) for _ in range(chance.choice((1, 2, 9)))]
        said = [m.OpenJob(job, "bad", False, False), function, m.Submit(job, function.digest, None, 0, frames)]
        after = (m.DropSegments(known.own.get("segment", [])), m.Cancel(job, None), m.CloseJob(job))
        return [*said, chance.choice(after)] if chance.random() < 0.5 else said


def with_field(struct: Any, position: int, value: Any) -> Any:
    """Copy a struct with another value in the field at this position."""
    values = [getattr(struct, name) for name in struct.__struct_fields__]
    values[position] = value
    return type(struct)(*values)


def buffers_of(message: Any) -> list[bytes]:
    """Make the buffers that a message announces, as far as that is possible."""
    return [buffer for buffers in item_buffers_of(message) for buffer in buffers]


def item_buffers_of(message: Any) -> list[list[bytes]]:
    """Make the buffers that a message announces, those of each item; none if that is not possible."""
    sizes = [[size for size in sizes if type(size) is int] for sizes in _sizes_in(message)]
    everything = [size for each in sizes for size in each]
    if any(size < 0 for size in everything) or sum(everything) > BUFFERS_MAX_BYTES:
        return []
    return [[b"b" * size for size in each] for each in sizes]


def _sizes_in(value: Any) -> Iterator[Sequence[Any]]:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            inner = getattr(value, name)
            if name == "sizes" and isinstance(inner, list | tuple):
                yield inner
            else:
                yield from _sizes_in(inner)
    elif isinstance(value, list) and len(value) <= HUGE:
        for inner in value:
            yield from _sizes_in(inner)


def _meaning(name: str) -> str:
    if name not in MEANINGS:
        raise NoOddValues(f"what bytes called {name!r} name is in none of {sorted(MEANINGS)}: add it to MEANINGS")
    return MEANINGS[name]


def _is_slice(type_: inspect.Type) -> bool:
    return isinstance(type_, inspect.StructType) and type_.cls is Slice


# ------------------------------------------------------------------------- messages whose fields depend on each other


def _function(odd: Odd) -> m.Function:
    known = odd.known
    if known.functions and odd.chance.random() < 0.3:
        return odd.chance.choice(known.functions)
    body, sizes, buffers = odd.payload()
    body = body + odd.chance.randbytes(4) if body else body
    travelling = iter(buffers_of(m.Function(b"", body, sizes)) or buffers)
    parts = [size if isinstance(size, Slice) else next(travelling) for size in sizes]
    function = m.Function(function_digest([body, *parts]), body, sizes)
    known.add("digest", function.digest)
    return function


def _segment(odd: Odd) -> m.Segment:
    handles = odd.known.handles
    return m.Segment(*odd.chance.choice(handles)) if handles else m.Segment(odd.chance.randbytes(16), 1, 1, 1)


def _slice(odd: Odd) -> Slice:
    slices = odd.known.slices
    return odd.chance.choice(slices) if slices else Slice(odd.chance.randbytes(16), 0, 1, 1)


def _task_frame(odd: Odd) -> m.TaskFrame:
    body, sizes, _ = odd.payload()
    return m.TaskFrame(next(odd.known.indexes), 0, body, sizes)


def _content(odd: Odd) -> m.Content:
    slice_ = _slice(odd)
    count = min(size_of(slice_), 5000)
    if odd.chance.random() < 0.5:
        return m.Content(slice_.segment, slice_.offset, slice_.serial, b"c" * count, ())
    return m.Content(slice_.segment, slice_.offset, slice_.serial, b"", (count,))


def _ref(odd: Odd) -> m.TaskRef:
    refs = odd.known.refs
    return odd.chance.choice(refs) if refs else m.TaskRef(odd._named("job"), odd.chance.randint(0, 3), 1)


def _outcome(odd: Odd) -> m.OutcomeFrame:
    ref = _ref(odd)
    body, sizes, _ = odd.payload()
    return m.OutcomeFrame(ref.index, ref.attempt, odd.chance.choice((0, 0, 1, 2, 3)), 0.1, 7, body, sizes)


def _outcomes(odd: Odd) -> m.Outcomes:
    ref = _ref(odd)
    body, sizes, _ = odd.payload()
    if odd.chance.random() < 0.3:
        body, sizes = encode_error(odd.message(m.ErrorReport)), ()
    frame = m.OutcomeFrame(ref.index, ref.attempt, odd.chance.choice((0, 0, 1, 2, 99)), 0.1, 7, body, sizes)
    return m.Outcomes(ref.job, "slave", [frame])


def _capacity(odd: Odd) -> m.Capacity:
    slots = odd.chance.randint(0, 4)
    return m.Capacity(slots, slots + odd.chance.randint(0, 8))


def _output(odd: Odd) -> m.Output:
    return m.Output(_ref(odd), odd.chance.choice((1, 2, 3)), odd.chance.choice((b"text\n", b"x" * 500, b"\xff")))


_SANE: Final[dict[type[Any], Callable[[Odd], Any]]] = {
    m.Function: _function,
    m.Segment: _segment,
    Slice: _slice,
    m.TaskFrame: _task_frame,
    m.Content: _content,
    m.TaskRef: _ref,
    m.OutcomeFrame: _outcome,
    m.Outcomes: _outcomes,
    m.Capacity: _capacity,
    m.Output: _output,
}
