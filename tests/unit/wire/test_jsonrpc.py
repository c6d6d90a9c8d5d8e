"""JSON-RPC envelopes: every example of the specification, every bad body we could think of, and random bytes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb import errors
from concurrent_nb.errors import (
    AccessRefused,
    ClusterError,
    ConcurrentError,
    ConfigurationError,
    ProtocolError,
    RemoteError,
    TaskTimeout,
    TooLarge,
)
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire.jsonrpc import Answer, Call, Fault, RpcError

PARSE_ERROR, INVALID_REQUEST = jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST


def body_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def call(**changes: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 1} | changes


def refusal_of(body: bytes) -> Fault:
    """Give the fault of a body that is refused as a whole, or of the one call in it."""
    (item,) = jsonrpc.parse(body).items
    assert isinstance(item, Answer), f"accepted: {item}"
    assert isinstance(item.error, Fault)
    return item.error


def test_a_call_with_positional_parameters() -> None:
    request = jsonrpc.parse(body_of(call()))
    assert request.items == [Call("add", [1, 2], 1, wants_answer=True)]
    assert not request.batch


def test_a_call_with_named_parameters() -> None:
    assert jsonrpc.parse(body_of(call(params={"a": 1}))).items == [Call("add", {"a": 1}, 1, wants_answer=True)]


def test_a_call_without_parameters() -> None:
    body = b'{"jsonrpc": "2.0", "method": "status", "id": "x"}'
    assert jsonrpc.parse(body).items == [Call("status", {}, "x", wants_answer=True)]


def test_without_an_id_it_is_a_notification_and_with_a_null_id_it_is_not() -> None:
    notification, question = jsonrpc.parse(
        b'[{"jsonrpc": "2.0", "method": "f"}, {"jsonrpc": "2.0", "method": "f", "id": null}]'
    ).items
    assert notification == Call("f", {}, None, wants_answer=False)
    assert question == Call("f", {}, None, wants_answer=True)


@pytest.mark.parametrize("call_id", [0, -1, 2**63 - 1, -(2**63), "", "é", "x" * 1000, None])
def test_an_id_comes_back_as_it_was(call_id: object) -> None:
    (item,) = jsonrpc.parse(body_of(call(id=call_id))).items
    assert isinstance(item, Call)
    assert item.id == call_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        b"\xef\xbb\xbf" + body_of(call()),
        json.dumps(call()).encode("utf-16"),
        json.dumps(call()).encode("utf-32-le"),
        body_of(call()) + b"x",
        body_of(call()) + body_of(call()),
        body_of(call()).replace(b"[1, 2]", b"[NaN]"),
        body_of(call()).replace(b"[1, 2]", b"[Infinity]"),
        body_of(call()).replace(b"[1, 2]", b"[-Infinity]"),
        body_of(call()).replace(b"[1, 2]", b"[1e999]"),
        body_of(call()).replace(b"[1, 2]", b"[-1e999]"),
        body_of(call()).replace(b"[1, 2]", b"[" + b"1" * 5000 + b"]"),
        body_of(call()).replace(b"[1, 2]", b"[01]"),
        body_of(call()).replace(b"[1, 2]", b"[1,]"),
        body_of(call()).replace(b"[1, 2]", b'["\\ud800"]'),
        body_of(call()).replace(b"[1, 2]", b'["\xed\xa0\x80"]'),
        body_of(call()).replace(b"[1, 2]", b'["\xff"]'),
        body_of(call()).replace(b"[1, 2]", b'["a\x00"]'),
        body_of(call()).replace(b'"', b"'"),
    ],
)
def test_what_is_not_json_is_a_parse_error(body: bytes) -> None:
    assert refusal_of(body).code == PARSE_ERROR


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        None,
        True,
        {},
        {"foo": "boo"},
        call(jsonrpc="1.0"),
        call(jsonrpc=2.0),
        call(jsonrpc=None),
        {"method": "add", "params": [], "id": 1},
        call(method=1),
        call(method=None),
        call(method=["add"]),
        call(params=1),
        call(params="bar"),
        call(params=None),
        call(id=True),
        call(id=1.0),
        call(id=1.5),
        call(id=[1]),
        call(id={}),
        call(id=2**63),
        call(id=10**30),
        call(extra=1),
    ],
)
def test_json_that_is_no_call_is_an_invalid_request(value: object) -> None:
    assert refusal_of(body_of(value)).code == INVALID_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc": "2.0", "method": "f", "method": "g", "id": 1}',
        b'{"jsonrpc": "2.0", "method": "f", "m\\u0065thod": "g", "id": 1}',
        b'{"jsonrpc": "2.0", "method": "f", "params": {"a": {"b": 1, "b": 1}}, "id": 1}',
        b'[{"jsonrpc": "2.0", "method": "f", "id": 1, "id": 1}]',
    ],
)
def test_the_same_key_twice_is_refused(body: bytes) -> None:
    fault = refusal_of(body)
    assert (fault.code, fault.message) == (INVALID_REQUEST, "an object has the same key twice")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_limited(opening: str, closing: str) -> None:
    def body(depth: int) -> bytes:
        # The call and its params are two levels.
        nested = opening * (depth - 2) + "1" + closing * (depth - 2)
        return body_of(call()).replace(b"[1, 2]", f"[{nested}]".encode())

    assert isinstance(jsonrpc.parse(body(32)).items[0], Call)
    for depth in (33, 200, 100_000):
        fault = refusal_of(body(depth))
        assert (fault.code, fault.message) == (INVALID_REQUEST, "nested deeper than 32 levels")


def test_size_is_limited() -> None:
    body = body_of(call())
    assert isinstance(jsonrpc.parse(body.ljust(jsonrpc.MAX_BODY_BYTES)).items[0], Call)
    fault = refusal_of(body.ljust(jsonrpc.MAX_BODY_BYTES + 1))
    assert fault.code == INVALID_REQUEST
    assert str(jsonrpc.MAX_BODY_BYTES) in fault.message


@pytest.mark.parametrize("size", [0, 101, 1000])
def test_a_batch_of_none_or_too_many_is_refused_with_one_answer(size: int) -> None:
    request = jsonrpc.parse(body_of([call()] * size))
    assert not request.batch
    assert refusal_of(body_of([call()] * size)).code == INVALID_REQUEST


@pytest.mark.parametrize("size", [1, 100])
def test_a_batch_stays_one(size: int) -> None:
    request = jsonrpc.parse(body_of([call()] * size))
    assert request.batch
    assert len(request.items) == size


def test_a_malformed_call_in_a_batch_is_refused_in_its_place() -> None:
    first, second, third = jsonrpc.parse(body_of([call(id=1), 7, call(id="b", params=3)])).items
    assert isinstance(first, Call)
    assert isinstance(second, Answer)
    assert second.id is None
    assert isinstance(third, Answer)
    assert third.id == "b", "its caller has to know which of its calls was refused"


def test_a_fault_does_not_repeat_a_long_text() -> None:
    fault = refusal_of(body_of({"jsonrpc": "x" * 500_000, "method": "f", "id": 1}))
    assert len(fault.message) < 3000


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_raise(body: bytes) -> None:
    encoded_answers(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.just("id"), inner, max_size=5),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "jsonrpc": st.just("2.0") | JSON,
            "method": st.just("f") | JSON,
            "params": JSON,
            "id": JSON,
            "extra": JSON,
        },
    ),
    st.booleans(),
)
def test_no_json_makes_the_parser_raise(value: dict[str, Any], batch: bool) -> None:
    encoded_answers(json.dumps([value, value] if batch else value).encode())


def encoded_answers(body: bytes) -> bytes | None:
    """Parse, answer every call with null, encode: it has to work for any body."""
    request = jsonrpc.parse(body)
    assert request.items
    answers = [item if isinstance(item, Answer) else Answer(id=item.id, result=None) for item in request.items]
    return jsonrpc.encode_answers(answers, request.batch)


# ------------------------------------------------------------------------------------------------------------- answers


def test_answers_are_written_as_the_specification_says() -> None:
    result = Answer(id=1, result=19)
    error = Answer(id=None, error=Fault(-32700, "Parse error"))
    assert json.loads(jsonrpc.encode_answers([result], batch=False) or b"") == {"jsonrpc": "2.0", "id": 1, "result": 19}
    assert json.loads(jsonrpc.encode_answers([result, error], batch=True) or b"") == [
        {"jsonrpc": "2.0", "id": 1, "result": 19},
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}},
    ]
    assert jsonrpc.encode_answers([], batch=True) is None


def test_a_client_reads_what_a_master_wrote() -> None:
    (item,) = jsonrpc.parse(jsonrpc.encode_call("add", {"a": 1}, 7)).items
    assert item == Call("add", {"a": 1}, 7, wants_answer=True)
    body = jsonrpc.encode_answers([Answer(id=7, result={"x": [1, None]})], batch=False)
    assert jsonrpc.read_answer(body or b"", 7) == {"x": [1, None]}


def test_a_result_of_null_is_a_result() -> None:
    assert jsonrpc.read_answer(b'{"jsonrpc": "2.0", "id": 1, "result": null}', 1) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"pong",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"jsonrpc": "1.0", "id": 1, "result": 1}',
        b'{"jsonrpc": "2.0", "id": 1}',
        b'{"jsonrpc": "2.0", "id": 1, "result": 1, "error": {"code": 1, "message": ""}}',
        b'{"jsonrpc": "2.0", "id": 2, "result": 1}',
        b'{"jsonrpc": "2.0", "id": null, "result": 1}',
        b'{"jsonrpc": "2.0", "id": "1", "result": 1}',
        b'{"jsonrpc": "2.0", "id": 1, "error": "bad"}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"message": "no code"}}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": "x", "message": ""}}',
    ],
)
def test_what_is_no_answer_to_the_call_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        jsonrpc.read_answer(body, 1)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise_anything_else(body: bytes) -> None:
    with pytest.raises(ConcurrentError):
        jsonrpc.read_answer(body, 1)


@given(JSON, JSON, JSON)
def test_no_error_object_makes_the_reader_raise_anything_else(code: object, message: object, data: object) -> None:
    value = {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message, "data": data}}
    with pytest.raises(ConcurrentError):
        jsonrpc.read_answer(json.dumps(value).encode(), 1)


# -------------------------------------------------------------------------------------------------------------- errors


def there_and_back(error: ConcurrentError) -> ConcurrentError:
    body = jsonrpc.encode_answers([Answer(id=1, error=jsonrpc.fault_of(error))], batch=False)
    with pytest.raises(ConcurrentError) as caught:
        jsonrpc.read_answer(body or b"", 1)
    return caught.value


CLASSES = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ConcurrentError)
]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_of_ours_arrives_as_the_class_that_it_was(cls: type[ConcurrentError]) -> None:
    arrived = there_and_back(cls("what happened"))
    assert type(arrived) is cls
    assert str(arrived) == "what happened"


def test_the_attributes_of_an_error_travel() -> None:
    large = there_and_back(TooLarge("too large", 10, 5))
    assert isinstance(large, TooLarge)
    assert (large.size_bytes, large.limit_bytes) == (10, 5)
    remote = there_and_back(RemoteError("x", "job/1", "east", 42, type_name="Odd"))
    assert isinstance(remote, RemoteError)
    assert (remote.task, remote.slave, remote.worker, remote.type_name) == ("job/1", "east", 42, "Odd")


def test_a_subclass_that_the_other_side_does_not_know_arrives_as_the_nearest_that_it_knows() -> None:
    class Late(TaskTimeout):
        pass

    assert type(there_and_back(Late("late"))) is TaskTimeout


def test_an_error_adds_nothing_to_our_objects() -> None:
    data = {"type": "TooLarge", "size_bytes": "many", "limit_bytes": 7, "args": [1], "__class__": "x", "foo": 1}
    with pytest.raises(TooLarge) as caught:
        jsonrpc.raise_fault(Fault(jsonrpc.CONCURRENT_ERROR, "m", data))
    assert vars(caught.value) == {"size_bytes": 0, "limit_bytes": 7}
    assert caught.value.args == ("m",)


@pytest.mark.parametrize("kind", ["SystemExit", "RemoteTraceback", "builtins.open", "", None, 1, ["x"]])
def test_only_errors_of_ours_can_be_named(kind: object) -> None:
    with pytest.raises(ConcurrentError) as caught:
        jsonrpc.raise_fault(Fault(jsonrpc.CONCURRENT_ERROR, "m", {"type": kind}))
    assert type(caught.value) is ConcurrentError


@pytest.mark.parametrize(
    ("code", "cls"), [(-32603, ClusterError), (-32601, ProtocolError), (-32602, ProtocolError), (5, ProtocolError)]
)
def test_other_faults_have_a_class_by_their_code(code: int, cls: type[ConcurrentError]) -> None:
    with pytest.raises(cls) as caught:
        jsonrpc.raise_fault(Fault(code, "m"))
    assert type(caught.value) is cls


def test_a_text_of_a_peer_cannot_write_over_a_terminal() -> None:
    arrived = there_and_back(AccessRefused("a\x1b]0;title\x07b\r\nc\tü"))
    assert str(arrived) == "a\ufffd]0;title\ufffdb\ufffd\nc\tü"


def test_a_text_with_surrogates_can_be_sent() -> None:
    fault = jsonrpc.fault_of(ConfigurationError("no file /tmp/\udcff"))
    assert json.loads(msgspec.json.encode(fault))["message"] == "no file /tmp/\ufffd"
    assert msgspec.json.encode(jsonrpc.fault_of(errors.CaptureError("m", "\udcff")))


def test_a_long_text_is_cut() -> None:
    assert len(str(there_and_back(ConfigurationError("x" * 100_000)))) < 3000


def test_a_refused_call_keeps_its_code() -> None:
    assert jsonrpc.fault_of(RpcError(-32602, "m", {"parameter": "a"})) == Fault(-32602, "m", {"parameter": "a"})
