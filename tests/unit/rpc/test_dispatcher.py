"""From the bytes of a call to the bytes of its answer."""

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.errors import ConfigurationError, RemoteError
from concurrent_nb.rpc import Caller, Dispatcher, Registry, remote
from concurrent_nb.wire import jsonrpc

ADMIN = Caller("admin", "127.0.0.1", "127.0.0.2")
CLIENT = Caller("client")


class Master:
    def __init__(self) -> None:
        self.stopped = 0

    @remote(roles=["admin", "client"])
    def subtract(self, minuend: int, subtrahend: int) -> int:
        return minuend - subtrahend

    @remote(roles=["admin"])
    def stop(self) -> None:
        """Stop."""
        self.stopped += 1

    @remote(roles=["client"])
    async def later(self, caller: Caller, value: Any = None) -> Any:
        await asyncio.to_thread(bool)  # a real suspension
        return [caller.role, caller.local_host, caller.remote_host, value]

    @remote(roles=["admin"])
    def refuse(self) -> None:
        raise RemoteError("it broke", task="ab/1", type_name="Odd")

    @remote(roles=["admin"])
    async def break_down(self) -> None:
        raise KeyError("the secret of the house")

    @remote(roles=["admin"])
    def unwritable(self, kind: str) -> Any:
        return {"object": object(), "surrogate": "\ud800", "keys": {(1, 2): 3}}[kind]

    @remote(roles=["admin"])
    def text(self, length: int) -> str:
        return "x" * length

    def unmarked(self) -> None: ...


@pytest.fixture
def master() -> Master:
    return Master()


def dispatch(master: Master, body: Any, caller: Caller = ADMIN) -> Any:
    """Return the answer to a body, as Python values; `silence` for none."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = asyncio.run(Dispatcher(Registry(master)).dispatch(data, caller))
    return "silence" if answer is None else json.loads(answer)


def call(method: str, params: Any = (), call_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params or [], "id": call_id}


def note(method: str, params: Any = ()) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params or []}


def result(value: Any, call_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "result": value}


def test_the_examples_of_the_specification(master: Master) -> None:
    assert dispatch(master, call("subtract", [42, 23])) == result(19)
    assert dispatch(master, call("subtract", [23, 42], 2)) == result(-19, 2)
    assert dispatch(master, call("subtract", {"subtrahend": 23, "minuend": 42}, 3)) == result(19, 3)
    assert dispatch(master, call("foobar", call_id="1"))["error"]["code"] == -32601
    assert dispatch(master, b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]')["id"] is None
    batch = [
        call("subtract", [3, 1], "1"),
        note("stop"),
        {"foo": "boo"},
        call("foo.get", {"name": "myself"}, "5"),
        call("stop", call_id="9"),
    ]
    answers = dispatch(master, batch)
    assert [answer["id"] for answer in answers] == ["1", None, "5", "9"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32600, -32601, None]
    assert master.stopped == 2


def test_a_notification_is_carried_out_and_not_answered(master: Master) -> None:
    assert dispatch(master, note("stop")) == "silence"
    assert dispatch(master, [note("stop"), note("stop")]) == "silence"
    assert master.stopped == 3


@pytest.mark.parametrize("method", ["nonsense", "refuse", "break_down", "unmarked"])
def test_a_notification_that_fails_is_not_answered_either(master: Master, method: str) -> None:
    assert dispatch(master, note(method)) == "silence"


def test_a_method_may_be_a_coroutine_and_may_take_its_caller(master: Master) -> None:
    caller = Caller("client", "10.0.0.1", "10.0.0.2")
    assert dispatch(master, call("later", ["x"]), caller)["result"] == ["client", "10.0.0.1", "10.0.0.2", "x"]


def test_a_call_cannot_claim_its_caller(master: Master) -> None:
    assert dispatch(master, call("later", {"caller": {"role": "admin"}}), CLIENT)["error"]["code"] == -32602
    assert dispatch(master, call("later", [{"role": "admin"}]), CLIENT)["result"][0] == "client"


def test_a_role_that_a_method_does_not_name_is_refused(master: Master) -> None:
    error = dispatch(master, call("stop"), CLIENT)["error"]
    assert error["data"]["type"] == "AccessRefused"
    assert error["message"] == "stop needs a token of role admin; this one is of role client"
    assert dispatch(master, note("stop"), CLIENT) == "silence"
    assert master.stopped == 0


@pytest.mark.parametrize("role", ["", "nobody", "Admin", "admin "])
def test_a_role_that_no_method_names_may_call_nothing(master: Master, role: str) -> None:
    for name in Registry(master).names():
        assert dispatch(master, call(name), Caller(role))["error"]["data"]["type"] == "AccessRefused"


@pytest.mark.parametrize("name", ["__class__", "__init__", "_private", "a.b.c", "rpc.api", "unmarked", "", "x" * 10**6])
def test_an_unmarked_method_cannot_be_called(master: Master, name: str) -> None:
    error = dispatch(master, call(name))["error"]
    assert error["code"] == -32601
    assert len(error["message"]) < 200


def test_a_concurrent_error_is_sent_with_its_class(master: Master) -> None:
    error = dispatch(master, call("refuse"))["error"]
    assert error["message"] == "it broke"
    assert error["data"] == {"type": "RemoteError", "task": "ab/1", "slave": "", "worker": 0, "type_name": "Odd"}


def test_an_unexpected_error_is_logged_under_a_number(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = dispatch(master, call("break_down"))
    assert answer["error"]["code"] == -32603
    incident = answer["error"]["data"]["incident"]
    assert incident in answer["error"]["message"]
    assert "secret" not in json.dumps(answer)
    assert "Traceback" not in json.dumps(answer)
    (record,) = caplog.records
    assert incident in record.getMessage()
    assert "the secret of the house" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("kind", ["object", "surrogate", "keys"])
def test_a_result_that_json_cannot_represent_fails_its_own_call_only(master: Master, kind: str) -> None:
    first, second = dispatch(master, [call("unwritable", [kind]), call("subtract", [2, 1], 2)])
    assert first["error"]["code"] == -32603
    assert second == result(1, 2)


@pytest.mark.parametrize("calls", [2, 3, 100])
def test_the_answers_of_a_batch_are_limited_and_further_calls_are_refused(
    master: Master, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(jsonrpc, "MAX_ANSWER_BYTES", 1500)
    call = {"jsonrpc": "2.0", "method": "text", "params": [1000]}
    answers = dispatch(master, [{**call, "id": number} for number in range(calls)])
    assert [answer["id"] for answer in answers] == list(range(calls))
    assert len(answers[0]["result"]) == 1000
    assert {answer["error"]["data"]["type"] for answer in answers[1:]} == {"TooLarge"}
    assert "more than 1500 bytes (MAX_ANSWER_BYTES)" in answers[1]["error"]["message"]
    stop = {"jsonrpc": "2.0", "method": "stop", "id": 9}
    filled = {**call, "params": [1498], "id": 1}
    (_, refused) = dispatch(master, [filled, stop])
    assert "not carried out" in refused["error"]["message"]
    assert master.stopped == 0


def test_the_introspection_is_open_to_every_role(master: Master) -> None:
    for role in ("admin", "client"):
        described = dispatch(master, call("api"), Caller(role))["result"]
        assert described["api_version"] == 1
        assert described["methods"]["stop"] == {"doc": "Stop.", "params": {}, "roles": ["admin"]}


def test_cancelling_the_dispatch_is_not_an_error_of_the_method() -> None:
    started = asyncio.Event()

    class Waiter:
        @remote(roles=["admin"])
        async def wait(self) -> None:
            started.set()
            await asyncio.Event().wait()

    async def run() -> None:
        body = json.dumps(call("wait")).encode()
        waiting = asyncio.ensure_future(Dispatcher(Registry(Waiter())).dispatch(body, ADMIN))
        await started.wait()
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


@given(st.binary(max_size=200) | st.builds(lambda name: json.dumps(call(name)).encode(), st.text()))
def test_every_body_has_an_answer(body: bytes) -> None:
    answer = dispatch(Master(), body)
    assert answer == "silence" or "error" in answer or "result" in answer


def test_a_registry_that_cannot_be_described_is_refused_when_built() -> None:
    class Odd:
        @remote(roles=["admin"])
        def odd(self, value: Any = object()) -> None:  # noqa: B008
            """Have a default that JSON cannot represent."""

    with pytest.raises(ConfigurationError):
        Registry(Odd())
