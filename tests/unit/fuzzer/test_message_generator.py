"""Every message and every field has odd values, also those that do not exist yet."""

import random
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from concurrent_nb.wire import codec
from concurrent_nb.wire import messages as m
from concurrent_nb.workers.protocol import records
from tests.fuzzer.message_generator import (
    HUGE,
    INTEGERS,
    KnownNames,
    MessageGenerator,
    NoOddValues,
    buffers_of,
    fields_of,
    item_buffers_of,
    members,
    with_field,
)

EVERYTHING = sorted({*members(m.AnyMessage), *members(records.WorkerRecord), records.Result}, key=str)


def generator() -> MessageGenerator:
    return MessageGenerator(
        random.Random(1), KnownNames(own={"job": [b"j" * 16]}, slices=[m.Slice(b"s" * 16, 0, 10, 1)])
    )


@pytest.mark.parametrize("kind", EVERYTHING, ids=lambda kind: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}")
def test_every_field_of_every_message_has_odd_values(kind: type[Any]) -> None:
    maker = generator()
    for position, field in enumerate(fields_of(kind)):
        values = maker.odd_values(field.type, field.name)
        least = 2 if isinstance(field.type, inspect.BoolType) else 4
        assert len(values) >= least, f"{kind.__name__}.{field.name} has only {values}"
        for value in values:
            assert type(with_field(maker.valid(kind), position, value)) is kind


@pytest.mark.parametrize("kind", [m.FromClient, m.FromSlave, m.ToClient, m.ToSlave], ids=str)
def test_valid_messages_can_be_encoded_and_decoded(kind: Any) -> None:
    maker = generator()
    sent = {m.FromClient: "from_client", m.FromSlave: "from_slave", m.ToClient: "to_client", m.ToSlave: "to_slave"}
    for message_kind in members(kind):
        for _ in range(20):
            message = maker.valid(message_kind)
            envelope = codec.Envelope(m.PROTOCOL_VERSION, 7, 1, 0, [message])
            _, (received,) = codec.decode(codec.encode(envelope, buffers_of(message)), sent[kind])
            assert received.message == message


def test_a_field_of_bytes_without_a_meaning_is_an_error() -> None:
    class Parcel(m.Message, tag=99, frozen=True):
        contents_of_a_new_kind: bytes

    with pytest.raises(NoOddValues, match=r"contents_of_a_new_kind.*add it to MEANINGS"):
        generator().message(Parcel)


def test_an_unknown_type_is_an_error() -> None:
    class Parcel(m.Message, tag=99, frozen=True):
        when: complex

    with pytest.raises(NoOddValues, match="when"):
        generator().odd_values(fields_of(Parcel)[0].type, "when")


def test_a_new_message_has_odd_values_by_itself() -> None:
    class Parcel(m.Message, tag=99, frozen=True):
        job: bytes
        weight: int
        parts: list[m.TaskRef]

    maker = generator()
    assert {made.weight for made in maker.changed(Parcel, 1)} == set(INTEGERS)
    assert max(len(made.parts) for made in maker.changed(Parcel, 2)) == HUGE
    assert all(isinstance(maker.message(Parcel), Parcel) for _ in range(100))


def test_odd_values_come_in_records_within_messages_too() -> None:
    made = generator().changed(m.Outcomes, 2)
    elapsed = [item.elapsed_s for message in made for item in message.items if isinstance(item, m.OutcomeFrame)]
    assert any(value != value for value in elapsed)  # not a number
    assert -1.0 in elapsed


def test_buffers_are_made_as_a_message_announces_them() -> None:
    frames = [m.TaskFrame(0, 0, b"", (3, m.Slice(b"s" * 16, 0, 9, 1), 2)), m.TaskFrame(1, 0, b"", (1,))]
    assert [len(buffer) for buffer in buffers_of(m.Submit(b"j", b"f", None, 0, frames))] == [3, 2, 1]
    assert [len(each) for each in item_buffers_of(m.Submit(b"j", b"f", None, 0, frames))] == [2, 1]
    assert buffers_of(m.Content(b"s", 0, 0, b"", (-1,))) == []
    assert buffers_of(m.Content(b"s", 0, 0, b"", (2**40,))) == []


def test_what_cannot_be_encoded_is_an_error_of_msgspec() -> None:
    with pytest.raises((OverflowError, TypeError, ValueError, msgspec.MsgspecError)):
        codec.encode(codec.Envelope(2, 7, 1, 0, [m.Capacity(2**64, 1)]))
