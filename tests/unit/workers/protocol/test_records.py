"""The stream between slave and worker: what goes in comes out, however it is cut."""

import struct

import hypothesis.strategies as st
import psutil
import pytest
from hypothesis import given

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire.messages import BUFFERS_MAX, Sizes, Slice
from concurrent_nb.workers.protocol.records import (
    LARGE_BYTES,
    SPACE_BYTES,
    WORKER_HEADER_BYTES_MAX,
    ForgetFunctions,
    LoadFunction,
    RecordReader,
    Result,
    Results,
    RunTasks,
    SlaveRecord,
    decode_results,
    decode_slave_record,
    encode,
    pack,
    pack_results,
    unpack_unsent,
)
from concurrent_nb.workers.worker_side.task_loop import UNSENT_RESULT_BYTES_MAX


def feed(
    reader: "RecordReader[Results] | RecordReader[SlaveRecord]", data: bytes, cuts: list[int]
) -> list[tuple[object, list[bytes]]]:
    """Receive `data` in pieces of at most the given lengths, over and over."""
    got: list[tuple[object, list[bytes]]] = []
    at = turn = 0
    while at < len(data):
        get_buffer = reader.get_buffer()
        assert len(get_buffer) > 0
        count = min(len(get_buffer), cuts[turn % len(cuts)], len(data) - at)
        get_buffer[:count] = data[at : at + count]
        got += [(header, [bytes(buffer) for buffer in buffers]) for header, buffers in reader.buffer_updated(count)]
        at, turn = at + count, turn + 1
    return got


BUFFERS = st.lists(st.binary(max_size=50), max_size=3)
BODIES = st.binary(min_size=1, max_size=30)


@given(st.lists(st.tuples(BODIES, BUFFERS), max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=5))
def test_results_survive_any_cutting(items: list[tuple[bytes, list[bytes]]], cuts: list[int]) -> None:
    data, expected = b"", []
    for ticket, (body, buffers) in enumerate(items, 1):
        result = Result(ticket, 0, 0.5, body, tuple(map(len, buffers)), 3)
        data += pack_results([encode(result)]) + b"".join(buffers)
        expected.append(([result], buffers))
    assert feed(RecordReader(decode_results), data, cuts) == expected


@given(st.lists(st.tuples(BODIES, BUFFERS), min_size=1, max_size=8), st.lists(st.integers(1, 99), min_size=1))
def test_orders_survive_any_cutting(items: list[tuple[bytes, list[bytes]]], cuts: list[int]) -> None:
    tasks: list[tuple[int, bytes, Sizes, int, int]] = []
    for n, (body, buffers) in enumerate(items):
        tasks.append((n, body, tuple(map(len, buffers)), n, n % 5))
    run = RunTasks(b"f", 7, tasks)
    load = LoadFunction(b"f", b"", (3,))
    data = pack(encode(load)) + b"abc" + pack(encode(run))
    data += b"".join(buffer for _, buffers in items for buffer in buffers) + pack(encode(ForgetFunctions([b"f"])))
    got = feed(RecordReader(decode_slave_record), data, cuts)
    assert [header for header, _ in got] == [load, run, ForgetFunctions([b"f"])]
    assert got[0][1] == [b"abc"]
    assert got[1][1] == [buffer for _, buffers in items for buffer in buffers]


def test_a_large_buffer_is_received_into_its_own_memory() -> None:
    reader = RecordReader(decode_results)
    size = 4 * SPACE_BYTES
    head = pack_results([encode(Result(1, 0, 0.5, b"", (size,)))])
    assert feed(reader, head, [len(head)]) == []
    assert len(reader.get_buffer()) == size


def test_a_header_larger_than_the_room_makes_room() -> None:
    body = b"x" * (3 * SPACE_BYTES)
    data = pack_results([encode(Result(1, 0, 0.5, body))]) * 2
    results = feed(RecordReader(decode_results), data, [70_000])
    assert [header[0].body for header, _ in results if isinstance(header, Results)] == [body, body]


def test_an_empty_list_of_results_says_ready() -> None:
    assert feed(RecordReader(decode_results), pack_results([]), [1]) == [([], [])]


@pytest.mark.parametrize(
    "data",
    [
        pack(b"\xc1"),
        pack(b""),
        pack(encode([[1, 2]])),
        pack(encode({"a": 1})),
        pack_results([encode((1, 0, 0.5, b"", (-1,), 0))]),
        pack_results([encode((1, 0, 0.5, b"", (1 << 62,), 0))]),
        struct.pack("<I", WORKER_HEADER_BYTES_MAX + 1),
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 4096,
    ],
    ids=["no msgpack", "empty", "too short", "a map", "negative size", "huge size", "huge header", "another language"],
)
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(RecordReader(decode_results), data, [len(data)])


@pytest.mark.parametrize(
    "result",
    [
        (1, -1, 0.5, b"x"),
        (1, 13, 0.5, b"x"),
        (1, 0, float("nan"), b"x"),
        (1, 0, float("inf"), b"x"),
        (1, 0, -0.5, b"x"),
        (1, 0, 0.5, b"x", (), 4),
        (1, 0, 0.5, b"x", ((b"s", -1, 1, 1),)),
        (1, 0, 0.5, b"x", (True,)),
        ("1", 0, 0.5, b"x"),
    ],
)
def test_a_result_with_odd_values_is_an_error(result: tuple[object, ...]) -> None:
    data = pack_results([encode(result)])
    with pytest.raises(ProtocolError):
        feed(RecordReader(decode_results), data, [len(data)])


@pytest.mark.parametrize(
    "data",
    [
        pack(b"\xc1"),
        pack_results([encode((1, 0, 0.5, b"", (1 << 60,)))]),
        struct.pack("<I", WORKER_HEADER_BYTES_MAX + 1),
    ],
    ids=["no msgpack", "huge size", "huge header"],
)
def test_a_reader_that_has_failed_stays_failed(data: bytes) -> None:
    good = pack_results([encode(Result(1, 0, 0.5, b"x"))])
    reader = RecordReader(decode_results, buffer_bytes_max=1 << 30)
    # given: good records, and then none, in one piece: what is good is given
    assert feed(reader, good + data, [1 << 20]) == [([Result(1, 0, 0.5, b"x")], [])]
    # then
    for _ in range(2):
        with pytest.raises(ProtocolError):
            reader.get_buffer()
        with pytest.raises(ProtocolError):
            reader.buffer_updated(0)


def test_what_is_only_announced_takes_no_memory() -> None:
    reader = RecordReader(decode_results)
    head = pack_results([encode(Result(1, 0, 0.5, b"", (1 << 30,)))])
    before = resident_bytes()
    assert feed(reader, head, [len(head)]) == []
    assert len(reader.get_buffer()) == 1 << 30
    # then: of a gigabyte, nothing; and of a header of which only the length has come, no more than the room
    assert resident_bytes() - before < 1 << 24
    reader = RecordReader(decode_results)
    assert feed(reader, struct.pack("<I", WORKER_HEADER_BYTES_MAX), [4]) == []
    assert len(reader.get_buffer()) < SPACE_BYTES


def test_many_buffers_that_are_only_announced_take_no_memory() -> None:
    head = pack_results([encode(Result(1, 0, 0.5, b"", (SPACE_BYTES,) * BUFFERS_MAX))])
    reader = RecordReader(decode_results)
    before = resident_bytes()
    assert feed(reader, head, [len(head)]) == []
    assert resident_bytes() - before < 1 << 24


def test_what_exceeds_the_limit_of_buffers_is_told_with_its_setting() -> None:
    reader = RecordReader(decode_results, buffer_bytes_max=1000, over_limit=" (setting it)")
    data = pack_results([encode(Result(1, 0, 0.5, b"", (600, 401)))])
    with pytest.raises(ProtocolError, match=r"announces buffers of 1001 bytes, more than 1000 \(setting it\)"):
        feed(reader, data, [len(data)])


def test_the_largest_result_that_a_worker_gives_fits_into_a_header() -> None:
    slices = (Slice(b"s" * 16, 1 << 62, 1 << 62, 1 << 62),) * BUFFERS_MAX
    kept = [encode(Result(n, 2, 0.123, b"x" * (UNSENT_RESULT_BYTES_MAX - 100))) for n in range(1, 5)]
    last = encode(Result(1 << 60, 0, 0.123, b"x" * (LARGE_BYTES - 1), slices, 3, True))
    assert len(pack_results([*kept, last])) <= WORKER_HEADER_BYTES_MAX


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def test_results_in_a_page_are_read_like_those_in_the_stream() -> None:
    results = [Result(n, 0, 0.5, b"x", (), 0) for n in range(300)]
    assert unpack_unsent(300, b"".join(map(encode, results))) == results
    assert unpack_unsent(0, b"") == []
    with pytest.raises(ProtocolError):
        unpack_unsent(2, encode(results[0]))
    with pytest.raises(ProtocolError):
        unpack_unsent(1 << 40, b"")
