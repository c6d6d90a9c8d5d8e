"""Messages arrive as they were sent; bytes that PROTOCOL.md does not allow raise ProtocolError and nothing else."""

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import ProtocolError, VersionMismatch
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import (
    FRAME_BYTES,
    INLINE_BYTES,
    PART_BYTES,
    REFS,
    RUN_ITEMS,
    Envelope,
    decode,
    encode,
    pack_body,
    split,
    unpack_body,
)
from concurrent_nb.wire.session import Session
from tests.unit.wire.test_protocol import EXAMPLES

JOB = b"j" * 16
FUNCTION = b"f" * 32


def envelope(*body: m.Message, seq: int = 1, ack: int = 0, version: int = m.PROTOCOL_VERSION) -> Envelope:
    return Envelope(version, 7, seq, ack, list(body))


def submit(*frames: m.TaskFrame) -> m.Submit:
    return m.Submit(JOB, FUNCTION, None, 0, list(frames))


def tasks_of(message: m.AnyMessage) -> list[m.TaskFrame]:
    assert isinstance(message, m.Submit)
    return message.tasks


def test_a_run_of_small_tasks_is_one_frame() -> None:
    run = submit(*(m.TaskFrame(index, 0, b"x" * 20) for index in range(100)))
    frames = encode(envelope(run))
    assert len(frames) == 1
    head, received = decode(frames, "from_client")
    assert (head.seq, head.epoch) == (1, 7)
    assert [item.message for item in received] == [run]
    assert not received[0].buffers


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_large_buffers_are_frames_of_their_own_and_none_is_too_long(size: int) -> None:
    big, small = bytes(range(256)) * (size // 256) + b"y" * (size % 256), b"small"
    run = submit(m.TaskFrame(0, 0, b"a", (size, 5)), m.TaskFrame(1, 0, b"b"), m.TaskFrame(2, 0, b"", (5,)))
    frames = encode(envelope(m.Bye("x"), run), [big, small, small])
    assert max(len(frame) for frame in frames) <= FRAME_BYTES
    received = decode(frames, "from_client")[1][1]
    assert [[bytes(buffer) for buffer in item] for item in received.buffers] == [[big, small], [], [small]]


def test_a_long_body_becomes_the_first_buffer() -> None:
    body = b"z" * (INLINE_BYTES + 1)
    inline, sizes, buffers = pack_body(body, [b"buffer"])
    assert (inline, sizes) == (b"", (len(body), 6))
    assert unpack_body(inline, buffers) == (body, [b"buffer"])
    assert pack_body(b"short", []) == (b"short", (), ())


def test_another_version_is_refused_with_both_versions_named() -> None:
    with pytest.raises(VersionMismatch, match=rf"protocol 9.*uses {m.PROTOCOL_VERSION}"):
        decode(encode(envelope(version=9)), "from_client")
    with pytest.raises(VersionMismatch, match="protocol 7"):
        decode([b"\x93\x07\xa5hello\x01"], "from_slave")


def test_a_client_cannot_send_what_only_a_slave_may_send() -> None:
    frames = encode(envelope(m.Capacity(1, 1)))
    assert decode(frames, "from_slave")[1][0].message == m.Capacity(1, 1)
    with pytest.raises(ProtocolError):
        decode(frames, "from_client")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"GET / HTTP/1.1"],
        encode(envelope(submit(m.TaskFrame(0, 0, b"", (5,))))),
        [*encode(envelope(submit(m.TaskFrame(0, 0, b"x")))), b"extra"],
        [*encode(envelope(submit(m.TaskFrame(0, 0, b"", (5,))))), b"four"],
        [*encode(envelope(submit(m.TaskFrame(0, 0, b"", (-1,))))), b""],
        [*encode(envelope(submit(m.TaskFrame(0, 0, b"", (2**62,))))), b"x"],
        encode(envelope(submit(m.TaskFrame(0, 0, b"x", (), -1)))),
        encode(envelope(submit(m.TaskFrame(0, 0, b"x", (), len(m.TaskKind))))),
        encode(envelope(submit(m.TaskFrame(0, 0, b"x", (), "call")))),  # type: ignore[arg-type]
        encode(envelope(seq=-1)),
        encode(envelope(ack=-1)),
        [b"\x95\x01\x07\x01\x00" + b"\x91" * 100_000],
    ],
    ids=str,
)
def test_what_is_malformed_is_a_protocol_error(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(frames, "from_client")


@given(st.lists(st.binary(max_size=80), max_size=4), st.sampled_from(["from_client", "to_slave", "from_slave"]))
def test_no_bytes_do_more_harm_than_a_protocol_error(frames: list[bytes], said_by: str) -> None:
    try:
        decode(frames, said_by)
    except ProtocolError:
        return


GOOD = encode(envelope(submit(m.TaskFrame(0, 0, b"abc", (3,)), m.TaskFrame(5, 0, b"def"))), [b"xyz"])


@given(st.integers(0, len(GOOD[0]) * 8 - 1))
def test_a_flipped_bit_does_no_more_harm_than_a_protocol_error(bit: int) -> None:
    header = bytearray(GOOD[0])
    header[bit // 8] ^= 1 << bit % 8
    try:
        decode([bytes(header), *GOOD[1:]], "from_client")
    except ProtocolError:
        return


@given(st.integers(0, len(GOOD[0]) - 1))
def test_a_truncated_header_is_a_protocol_error(length: int) -> None:
    with pytest.raises(ProtocolError):
        decode([GOOD[0][:length], *GOOD[1:]], "from_client")


SEGMENT = b"s" * 16
SLICE = m.Slice(SEGMENT, 0, 1, 1)


def outcomes(*sizes: int | m.Slice) -> m.Outcomes:
    return m.Outcomes(JOB, "s", [m.OutcomeFrame(0, 1, 0, 0.0, 1, b"", sizes)])


@pytest.mark.parametrize(
    ("message", "said_by"),
    [
        (m.Content(SEGMENT, 0, 1, b"", ()), "from_client"),
        (m.Content(SEGMENT, 0, 1, b"x", (1,)), "from_client"),
        (m.Content(SEGMENT, 0, 1, b"", (1, 1)), "from_client"),
        (m.Content(SEGMENT, 0, 1, b"", (SLICE,)), "from_client"),
        (m.Content(SEGMENT, 0, 1, b"", (SLICE, 1)), "to_slave"),
        (m.Content(SEGMENT, 0, 1, b"", (0,)), "to_slave"),
        (m.Content(SEGMENT, -1, 1, b"x", ()), "to_slave"),
        (m.Content(SEGMENT, 0, -1, b"x", ()), "from_client"),
        (m.Content(SEGMENT, 2**63, 1, b"x", ()), "from_client"),
        (m.Content(b"short", 0, 1, b"x", ()), "from_client"),
        (m.Function(FUNCTION, b"", ()), "from_client"),
        (m.Function(FUNCTION[1:], b"x", ()), "to_slave"),
        (m.Function(FUNCTION, b"x", (-1,)), "from_client"),
        (m.Submit(JOB[1:], FUNCTION, None, 0, []), "from_client"),
        (m.Submit(JOB, FUNCTION + b"f", None, 0, []), "from_client"),
        (m.OpenJob(b"", "", False, False), "from_client"),
        (m.Cancel(JOB * 2, None), "from_client"),
        (m.Segment(SEGMENT + b"s", 1, 1, 1), "from_client"),
        (m.Segment(SEGMENT, -1, 1, 1), "from_slave"),
        (m.Segment(SEGMENT, 1, -1, 1), "to_client"),
        (m.Segment(SEGMENT, 1, 1, -1), "to_slave"),
        (m.DropSegments([SEGMENT, b""]), "from_client"),
        (m.DropFunctions([b"f"]), "to_slave"),
        (m.Part(()), "from_client"),
        (m.Part((-1,)), "to_client"),
        (m.Release([m.Slice(SEGMENT, 0, -1, 1)], True), "from_client"),
        (outcomes(m.Slice(SEGMENT, 0, 0, 1)), "from_slave"),
        (outcomes(m.Slice(SEGMENT, -1, 1, 1)), "from_slave"),
        (outcomes(m.Slice(SEGMENT, 2**64 - 1, 1, 1)), "to_client"),
        (outcomes(m.Slice(SEGMENT, 0, 2**63, 1)), "to_client"),
        (outcomes(m.Slice(SEGMENT, 0, 1, -1)), "from_slave"),
        (outcomes(m.Slice(SEGMENT[1:], 0, 1, 1)), "from_slave"),
        (outcomes(*[SLICE] * (m.BUFFERS_MAX + 1)), "from_slave"),
        (outcomes(*[0] * (m.BUFFERS_MAX + 1)), "from_slave"),
        (m.Started("s", [m.StartedTask(b"", 0, 1)]), "from_slave"),
    ],
    ids=str,
)
def test_what_no_message_may_contain_is_a_protocol_error(message: m.Message, said_by: str) -> None:
    frames = encode(envelope(message))
    for buffers in ([], [b"x"], [b"x", b"x"]):
        with pytest.raises(ProtocolError):
            decode([*frames, *buffers], said_by)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, PART_BYTES + 1, 2**62, 2**62 + 1, 2**63, 2**64 - 1, -(2**63)]),
    st.sampled_from([0.0, -1.0, float("nan"), float("inf")]),
    st.sampled_from(["", "x", "\x00", "\ud7ff", "pull_round_robin", "process", "system_host"]),
    st.sampled_from([b"", b"x", b"x" * 16, b"x" * 32, b"x" * 33, [], [0], [1, 1], [[b"x" * 16, 0, 1, 1]], {}]),
)
FIELDS = st.recursive(ODD, lambda inner: st.lists(inner, max_size=5), max_leaves=8)
TAGS = sorted(cls.__struct_config__.tag for cls in get_args(m.AnyMessage))


@settings(max_examples=1000)
@given(
    st.lists(st.tuples(st.sampled_from([*TAGS, 0, -1, 99]), st.lists(FIELDS, max_size=9)), max_size=3),
    st.lists(st.binary(max_size=4), max_size=4),
    st.sampled_from(["from_client", "from_slave", "to_client", "to_slave"]),
    st.integers(0, 3),
)
def test_no_field_of_any_message_does_more_harm_than_a_protocol_error(
    messages: list[tuple[int, list[Any]]], buffers: list[bytes], said_by: str, seq: int
) -> None:
    body = [[tag, *fields] for tag, fields in messages]
    frames = [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, seq, 0, body]), *buffers]
    try:
        Session(7, said_by).receive(frames, 0.0)
    except ProtocolError:
        return


@given(st.sampled_from(sorted(EXAMPLES, key=str)), st.data())
def test_a_good_message_with_one_odd_field_does_no_more_harm_than_a_protocol_error(
    example: list[Any], data: st.DataObject
) -> None:
    odd = [*example]
    odd[data.draw(st.integers(1, max(1, len(odd) - 1))) % len(odd)] = data.draw(FIELDS)
    frames = [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 0, [odd, example]])]
    for said_by in ("from_client", "from_slave", "to_client", "to_slave"):
        for buffers in ([], [b"abcde"]):
            with contextlib.suppress(ProtocolError):
                Session(7, said_by).receive([*frames, *buffers], 0.0)


def test_a_run_with_many_slices_keeps_to_the_frame() -> None:
    """No header is too long for a frame, or the transport would cut the connection again and again."""
    slices = tuple(m.Slice(SEGMENT, 2**40 + at, 2**40, 2**40) for at in range(m.BUFFERS_MAX))
    run = m.Outcomes(JOB, "s", [m.OutcomeFrame(index, 1, 0, 0.0, 1, b"", slices) for index in range(3)])
    session = Session(7, "to_client")
    session.send(run)
    envelopes = session.flush(0.0)
    assert max(len(frame) for frames in envelopes for frame in frames) < FRAME_BYTES
    decoded = [item.message for frames in envelopes for item in decode(frames, "from_slave")[1]]
    assert [frame for message in decoded for frame in getattr(message, "items", ())] == run.items


def test_a_line_of_tasks_that_is_cut_names_for_each_part_the_task_before_it() -> None:
    frames = [m.TaskFrame(index, 2, b"b" * 5000) for index in range(300)]
    leader = m.TaskRef(JOB, 999, 1)
    parts = [part for part, _, _ in split(m.Assign(JOB, b"f" * 32, None, frames, None, leader))]
    assert len(parts) > 1
    before = leader
    for part in parts:
        assert isinstance(part, m.Assign)
        assert part.behind == before
        before = m.TaskRef(JOB, part.tasks[-1].index, part.tasks[-1].attempt)
    assert before.index == 299


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=1500), st.integers(0, 200))
def test_a_run_that_is_cut_keeps_every_task_and_its_buffers(sizes: list[int], every: int) -> None:
    frames, buffers = [], []
    for index, size in enumerate(sizes):
        has_buffer = every > 0 and index % every == 0
        frames.append(m.TaskFrame(index, 0, b"b" * size, (size,) if has_buffer else ()))
        buffers.append([b"B" * size] if has_buffer else [])
    parts = list(split(submit(*frames), buffers))
    tasks = [task for part, _, _ in parts for task in tasks_of(part)]
    assert tasks == frames
    for part, flat, size_bytes in parts:
        assert len(tasks_of(part)) <= RUN_ITEMS
        assert [len(buffer) for buffer in flat] == [size for task in tasks_of(part) for size in task.sizes]
        assert len(encode(envelope(part))[0]) <= size_bytes + 256


def test_long_lists_of_references_are_cut() -> None:
    indexes = list(range(2 * REFS + 1))
    parts = [part for part, _, _ in split(m.Cancel(JOB, indexes))]
    assert [index for part in parts for index in getattr(part, "indexes", ())] == indexes
    assert len(parts) == 3
    assert [part for part, _, _ in split(m.Cancel(JOB, None))] == [m.Cancel(JOB, None)]
    assert [part for part, _, _ in split(m.Cancel(JOB, []))] == [m.Cancel(JOB, [])]
