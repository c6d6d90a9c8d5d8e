"""Generate valid messages, and odd values for every field of every message, from the messages' types.

    message type -> msgspec.inspect -> valid(...)       a message that a good peer could send
                                    -> odd_values(...)  all values that a bad peer could put into a field

A new message needs no code here. `MEANINGS` lists what a field of bytes names; a field that is missing there raises
`NoOddValues`, and so does an unknown type.
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

#: what a field of bytes names, by the name of the field
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
#: length of a huge list
HUGE: Final = 3000
#: bytes of buffers that are sent with a message, at most
BUFFERS_MAX_BYTES: Final = 12 * 1024 * 1024
#: a buffer that is too large for one envelope
LARGE_BYTES: Final = 5 * 1024 * 1024
_FIELDS: Final[dict[type[Any], tuple[inspect.Field, ...]]] = {}  # a cache: inspection takes longer than all else


class NoOddValues(Exception):
    """A field or a type has no odd values here."""


@dataclass(slots=True)
class KnownNames:
    """The names that a bad peer may use: its own, those of others, and those that do not exist."""

    own: dict[str, list[bytes]] = field(default_factory=dict)
    others: dict[str, list[bytes]] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)  #: that a good peer could name
    odd_slices: list[Slice] = field(default_factory=list)  #: behind the end, of other peers, enormous
    handles: list[tuple[bytes, int, int, int]] = field(default_factory=list)  #: segment, pid, fd, size
    refs: list[m.TaskRef] = field(default_factory=list)  #: attempts that it was assigned
    functions: list[m.Function] = field(default_factory=list)  #: with bodies in the header
    indexes: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    def add(self, meaning: str, name: bytes) -> None:
        """Add one of its own names."""
        self.own.setdefault(meaning, []).append(name)


def members(union: Any) -> tuple[type[Any], ...]:
    """Return the types of a union, or the single type."""
    return get_args(union) or (union,)


def fields_of(kind: type[Any]) -> tuple[inspect.Field, ...]:
    """Return the fields of a struct's type."""
    if (known := _FIELDS.get(kind)) is not None:
        return known
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    _FIELDS[kind] = info.fields
    return info.fields


class MessageGenerator:
    """Generates random values for a peer that uses these names."""

    def __init__(self, chance: random.Random, known: KnownNames) -> None:
        self.chance = chance
        self.known = known

    # ------------------------------------------------------------------------------------------------- valid values

    def valid(self, kind: type[Any]) -> Any:
        """Return a message, or a record in one, that a good peer could send."""
        if (special := _VALID.get(kind)) is not None:
            return special(self)
        return kind(*[self._valid(each.type, each.name) for each in fields_of(kind)])

    def _valid(self, type_: inspect.Type, name: str) -> Any:
        chance = self.chance
        match type_:
            case inspect.StructType():
                return self.valid(type_.cls)
            case inspect.UnionType():
                if name == "sizes":
                    return self.chance.choice(self.known.slices) if self.known.slices else 0
                return self._valid(chance.choice(type_.types), name)
            case inspect.ListType():
                count = max(type_.min_length or 0, chance.choice((0, 1, 1, 2)))
                return [self._valid(type_.item_type, name) for _ in range(count)]
            case inspect.VarTupleType():
                count = max(type_.min_length or 0, chance.choice((0, 0, 1, 2)))
                return tuple(self._valid(type_.item_type, name) for _ in range(count))
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
        raise NoOddValues(f"field {name!r}: type {type_} has no values here")

    def _named(self, name: str) -> bytes:
        meaning = _meaning(name)
        if meaning == "payload":
            return self.chance.choice((b"", b"p", b"payload", b"p" * 2000))
        own = self.known.own.get(meaning)
        return self.chance.choice(own) if own else self.chance.randbytes(16)

    # --------------------------------------------------------------------------------------------------- odd values

    def odd_values(self, type_: inspect.Type, name: str) -> list[Any]:
        """Return odd values of a field's type. Raises NoOddValues."""
        match type_:
            case inspect.StructType():
                return [value for position in range(len(type_.fields)) for value in self.changed(type_.cls, position)]
            case inspect.UnionType():
                slices = self.known.odd_slices if any(_is_slice(each) for each in type_.types) else []
                return [*slices, *(value for each in type_.types for value in self.odd_values(each, name))]
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
        raise NoOddValues(f"field {name!r}: type {type_} has no values here")

    def _odd_lists(self, item: inspect.Type, name: str) -> list[list[Any]]:
        valid = self._valid(item, name)
        return [[], [valid] * 2, [valid] * HUGE, *([value] for value in self.odd_values(item, name)), [None]]

    def _odd_names(self, name: str) -> list[bytes]:
        meaning = _meaning(name)
        if meaning == "payload":
            return [b"", b"\0", b"\xc1", b"x" * 40_000, b"\x80\x05N.", self.chance.randbytes(64)]
        named = [*self.known.own.get(meaning, ())[:3], *self.known.others.get(meaning, ())[:3]]
        return [*named, b"", b"x", bytes(16), bytes(15), bytes(17), bytes(32), self.chance.randbytes(16), b"x" * 5000]

    def changed(self, kind: type[Any], position: int) -> list[Any]:
        """Return valid messages with an odd value in the field at this position, one for each value."""
        each = fields_of(kind)[position]
        valid = self.valid(kind)
        return [with_field(valid, position, value) for value in self.odd_values(each.type, each.name)]

    def message(self, kind: type[Any]) -> Any:
        """Return a message with some odd fields, mostly none or one."""
        chance = self.chance
        made = self.valid(kind)
        fields = fields_of(kind)
        for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 4)) if fields else 0):
            position = chance.randrange(len(fields))
            made = with_field(made, position, self._one_odd(fields[position].type, fields[position].name))
        return made

    def _one_odd(self, type_: inspect.Type, name: str) -> Any:
        """Return an odd value; nested ones are as likely as others."""
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
                    found: list[Any] = [self._valid(type_.item_type, name)] * chance.choice((2, HUGE))
                else:
                    count = chance.choice((0, 1, 1, 2, 3))
                    found = [self._one_odd(type_.item_type, name) for _ in range(count)]
                return tuple(found) if isinstance(type_, inspect.VarTupleType) else found
        return chance.choice(self.odd_values(type_, name))

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
        is_odd = bool(self.known.odd_slices) and chance.random() < 0.3
        places = self.known.odd_slices if is_odd else self.known.slices
        slices = tuple(chance.choice(places) for _ in range(chance.choice((1, 1, 2))))
        return chance.choice((b"", b"head")), slices, []

    def flow(self, *, client: bool) -> list[Any]:
        """Return messages that belong together, as a good peer sends them, and one that does not follow them."""
        chance, known = self.chance, self.known
        if not client:
            return [self.valid(chance.choice((m.Outcomes, m.Outcomes, m.Started, m.Returned, m.Output)))]
        function, job = self.valid(m.Function), known.own["job"][0]
        frames = [self.valid(m.TaskFrame) for _ in range(chance.choice((1, 2, 9)))]
        messages = [m.OpenJob(job, "bad", False, False), function, m.Submit(job, function.digest, None, 0, frames)]
        if chance.random() < 0.3:  # tasks that need one another, and some that do not exist
            indexes = [*[frame.index for frame in frames], 10**6]
            needed = [m.JobTasks(job, [max(0, chance.choice(indexes)) for _ in range(2)])]
            messages[2:2] = [m.TaskInputs(job, max(0, frame.index), needed) for frame in frames[:3]]
        after = (m.DropSegments(known.own.get("segment", [])), m.Cancel(job, None), m.CloseJob(job))
        return [*messages, chance.choice(after)] if chance.random() < 0.5 else messages


def with_field(struct: Any, position: int, value: Any) -> Any:
    """Return a copy of a struct with another value in the field at this position."""
    values = [getattr(struct, name) for name in struct.__struct_fields__]
    values[position] = value
    return type(struct)(*values)


def buffers_of(message: Any) -> list[bytes]:
    """Return the buffers that a message announces, as far as possible."""
    return [buffer for buffers in item_buffers_of(message) for buffer in buffers]


def item_buffers_of(message: Any) -> list[list[bytes]]:
    """Return the buffers that a message announces, by item; an empty list if that is not possible."""
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
        raise NoOddValues(f"field {name!r} of bytes has no meaning among {sorted(MEANINGS)}: add it to MEANINGS")
    return MEANINGS[name]


def _is_slice(type_: inspect.Type) -> bool:
    return isinstance(type_, inspect.StructType) and type_.cls is Slice


# ------------------------------------------------------------------------- messages whose fields depend on each other


def _function(generator: MessageGenerator) -> m.Function:
    known = generator.known
    if known.functions and generator.chance.random() < 0.3:
        return generator.chance.choice(known.functions)
    body, sizes, buffers = generator.payload()
    body = body + generator.chance.randbytes(4) if body else body
    travelling = iter(buffers_of(m.Function(b"", body, sizes)) or buffers)
    parts = [size if isinstance(size, Slice) else next(travelling) for size in sizes]
    function = m.Function(function_digest([body, *parts]), body, sizes)
    known.add("digest", function.digest)
    return function


def _segment(generator: MessageGenerator) -> m.Segment:
    handles = generator.known.handles
    return (
        m.Segment(*generator.chance.choice(handles)) if handles else m.Segment(generator.chance.randbytes(16), 1, 1, 1)
    )


def _slice(generator: MessageGenerator) -> Slice:
    slices = generator.known.slices
    return generator.chance.choice(slices) if slices else Slice(generator.chance.randbytes(16), 0, 1, 1)


def _task_frame(generator: MessageGenerator) -> m.TaskFrame:
    body, sizes, _ = generator.payload()
    index = next(generator.known.indexes)
    return m.TaskFrame(index, 0, body, sizes, index % len(m.TaskKind))


def _content(generator: MessageGenerator) -> m.Content:
    slice_ = _slice(generator)
    count = min(size_of(slice_), 5000)
    if generator.chance.random() < 0.5:
        return m.Content(slice_.segment, slice_.offset, slice_.serial, b"c" * count, ())
    return m.Content(slice_.segment, slice_.offset, slice_.serial, b"", (count,))


def _ref(generator: MessageGenerator) -> m.TaskRef:
    refs = generator.known.refs
    return (
        generator.chance.choice(refs) if refs else m.TaskRef(generator._named("job"), generator.chance.randint(0, 3), 1)
    )


def _started_task(generator: MessageGenerator) -> m.StartedTask:
    ref = _ref(generator)
    return m.StartedTask(ref.job, ref.index, ref.attempt, generator.chance.choice((0, 7)))


def _outcome(generator: MessageGenerator) -> m.OutcomeFrame:
    ref = _ref(generator)
    body, sizes, _ = generator.payload()
    return m.OutcomeFrame(ref.index, ref.attempt, generator.chance.choice((0, 0, 1, 2, 3)), 0.1, 7, body, sizes)


def _outcomes(generator: MessageGenerator) -> m.Outcomes:
    ref = _ref(generator)
    body, sizes, _ = generator.payload()
    if generator.chance.random() < 0.3:
        body, sizes = encode_error(generator.message(m.ErrorReport)), ()
    frame = m.OutcomeFrame(ref.index, ref.attempt, generator.chance.choice((0, 0, 1, 2, 99)), 0.1, 7, body, sizes)
    return m.Outcomes(ref.job, "slave", [frame])


def _ran(generator: MessageGenerator) -> m.Ran:
    ref = _ref(generator)
    frame = m.OutcomeFrame(ref.index, max(1, ref.attempt), generator.chance.choice((0, 1, 2)), 0.1, 7, b"", ())
    return m.Ran(ref.job, generator._named("digest"), "name", [frame])


def _capacity(generator: MessageGenerator) -> m.Capacity:
    slots = generator.chance.randint(0, 4)
    return m.Capacity(slots, slots + generator.chance.randint(0, 8))


def _output(generator: MessageGenerator) -> m.Output:
    return m.Output(
        _ref(generator), generator.chance.choice((1, 2, 3)), generator.chance.choice((b"text\n", b"x" * 500, b"\xff"))
    )


_VALID: Final[dict[type[Any], Callable[[MessageGenerator], Any]]] = {
    m.Function: _function,
    m.Segment: _segment,
    Slice: _slice,
    m.TaskFrame: _task_frame,
    m.Content: _content,
    m.TaskRef: _ref,
    m.StartedTask: _started_task,
    m.OutcomeFrame: _outcome,
    m.Outcomes: _outcomes,
    m.Ran: _ran,
    m.Capacity: _capacity,
    m.Output: _output,
}
