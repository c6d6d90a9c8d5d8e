"""A JSON-RPC client by other people talks to our control channel and finds what the specification promises."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pjrpc.client.backend.httpx import Client
from pjrpc.client.exceptions import JsonRpcError
from pjrpc.common import Request

from tests.serving import TOKENS, Serving, serving


@pytest.fixture
def running() -> Iterator[Serving]:
    with serving() as server:
        yield server


@pytest.fixture
def client(running: Serving) -> Iterator[Client]:
    headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
    with httpx.Client(headers=headers, trust_env=False) as http:
        yield Client(f"{running.endpoints[0]}/api/1", http_client=http)


def test_positional_and_named_parameters(client: Client) -> None:
    assert client.call("add", 1, 2) == 3
    assert client.call("add", a=1, b=2) == 3
    assert client.call("add", a=1) == 2
    assert client.call("echo", value={"nested": [1, None, "ü"]}) == {"nested": [1, None, "ü"]}


def test_the_proxy_style(client: Client) -> None:
    assert client.proxy.add(a=4, b=5) == 9


def test_a_method_without_parameters_and_the_introspection(client: Client) -> None:
    api: Any = client.call("api")
    assert api["api_version"] == 1
    assert api["methods"]["add"]["doc"] == "Add two numbers."


def test_notifications(client: Client, running: Serving) -> None:
    client.notify("note", "one")
    client.notify("note", text="two")
    assert running.sample.notes == ["one", "two"]


def test_ids_of_both_kinds_come_back(client: Client) -> None:
    for request_id in (0, 12345678901, "text", ""):
        response = client.send(Request(method="add", params=[1, 2], id=request_id))
        assert response is not None
        assert (response.id, response.unwrap_result()) == (request_id, 3)


def test_a_batch_with_notifications_and_errors(client: Client, running: Serving) -> None:
    with client.batch() as batch:
        batch.call("add", 1, 2)
        batch.notify("note", "in a batch")
        batch.call("add", a=3, b=4)
    assert batch.get_results() == [3, 7]
    assert running.sample.notes == ["in a batch"]


def test_a_batch_of_notifications_only(client: Client, running: Serving) -> None:
    with client.batch() as batch:
        batch.notify("note", "a")
        batch.notify("note", "b")
    assert running.sample.notes == ["a", "b"]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("nowhere", {}, -32601),
        ("unmarked", {}, -32601),
        ("add", {"a": "x"}, -32602),
        ("add", {}, -32602),
        ("fail", {"kind": "bug"}, -32603),
        ("fail", {"kind": "refused"}, -32000),
    ],
)
def test_errors_have_the_codes_of_the_specification(
    client: Client, method: str, params: dict[str, str], code: int
) -> None:
    with pytest.raises(JsonRpcError) as caught:
        client.call(method, **params)
    assert caught.value.code == code


def test_an_error_of_ours_tells_its_class(client: Client) -> None:
    with pytest.raises(JsonRpcError) as caught:
        client.call("fail", kind="large")
    assert caught.value.data == {"type": "TooLarge", "size_bytes": 10, "limit_bytes": 5}
