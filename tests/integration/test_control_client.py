"""The control client with a good master, with several endpoints, and with wrong arguments."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from concurrent_nb.errors import (
    AccessRefused,
    ClusterError,
    ConcurrentError,
    ConfigurationError,
    MasterUnreachable,
    ProtocolError,
    TooLarge,
    VersionMismatch,
)
from concurrent_nb.nodes.launchers.shortage import shortage
from concurrent_nb.transport import http_link
from concurrent_nb.transport.control_client import ControlClient
from tests import serving as server
from tests.serving import TOKENS, Serving, answers, peer, silence

TOKEN = TOKENS["admin"]


running = server.alone


@pytest.fixture
def closed_endpoint() -> str:
    """Return an endpoint without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


# ------------------------------------------------------------------------------------------------------- a good master


def test_results_of_every_kind_come_back(running: Serving) -> None:
    with running.client() as client:
        for value in (None, True, 0, -(2**63), 1.5, "", "ü😀\x00", [], [[1], {"a": None}], {}, {"": {"b": [1]}}):
            assert client.call("echo", value=value) == value


def test_a_parameter_may_have_any_name(running: Serving) -> None:
    with running.client() as client, pytest.raises(ProtocolError, match="'method' of add is not one of its parameters"):
        client.call("add", a=1, method=2)


@pytest.mark.parametrize(
    ("kind", "cls", "text"),
    [
        ("refused", AccessRefused, "that is not yours"),
        ("version", VersionMismatch, "we speak 2, you speak 1"),
        ("large", TooLarge, "too large: \ufffd[31mred"),
        ("bug", ClusterError, "internal error"),
    ],
)
def test_an_error_of_the_master_is_raised_with_its_class(
    running: Serving, kind: str, cls: type[ConcurrentError], text: str
) -> None:
    with running.client() as client:
        with pytest.raises(cls, match=text.replace("[", r"\[")) as caught:
            client.call("fail", kind=kind)
        assert type(caught.value) is cls
        assert client.call("add", a=1) == 2, "the connection is as good as before"


def test_a_wrong_token_is_refused(running: Serving) -> None:
    with ControlClient(running.endpoints, "x" * 43) as client, pytest.raises(AccessRefused, match="connection file"):
        client.call("add", a=1)


def test_a_role_without_permission_is_refused(running: Serving) -> None:
    with running.client("slave") as client, pytest.raises(AccessRefused, match="needs a token of role admin"):
        client.call("note", text="x")


def test_a_call_over_the_limit_is_not_sent(running: Serving) -> None:
    with running.client() as client:
        with pytest.raises(TooLarge) as caught:
            client.call("echo", value="x" * 2_000_000)
        assert caught.value.limit_bytes == 1 << 20
        largest = "x" * ((1 << 20) - 200)
        assert client.call("echo", value=largest) == largest


def test_a_parameter_that_json_cannot_represent_is_the_callers_error(running: Serving) -> None:
    with running.client() as client, pytest.raises(TypeError):
        client.call("echo", value=object())


def test_a_connection_is_kept(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        client.call("add", a=1)
        assert client._link is link


def test_a_connection_that_was_closed_meanwhile_is_replaced(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        time.sleep(1.5)  # the server's idle_s is 1
        assert client.call("add", a=1) == 2
        assert client._link is not link


def test_a_connection_is_left_before_the_master_may_close_it(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        monkeypatch.setattr(http_link, "MAX_IDLE_S", -1.0)
        assert client.call("add", a=1) == 2
        assert client._link is not link


def test_a_closed_client_may_call_again(running: Serving) -> None:
    client = running.client()
    client.close()
    assert client.call("add", a=1) == 2
    client.close()
    client.close()


def test_threads_share_a_client(running: Serving) -> None:
    results: list[int] = []
    with running.client() as client:
        threads = [
            threading.Thread(target=lambda n=n: results.extend(client.call("add", a=n, b=m) for m in range(20)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted(n + m for n in range(8) for m in range(20))


def test_a_separate_client_waits_for_no_call_of_the_other(running: Serving) -> None:
    with running.client() as client, client.separate(5.0) as separate:
        assert separate._endpoints is not client._endpoints
        with client._lock:  # as during a call
            assert separate.call("echo", value=1) == 1
        client.close()
        assert separate.call("echo", value=2) == 2


def test_a_call_does_not_wait_longer_for_other_threads_than_for_the_master(running: Serving) -> None:
    client = running.client(timeout_s=0.5)
    client._lock.acquire()
    start = time.monotonic()
    with pytest.raises(MasterUnreachable, match="other threads"):
        client.call("add", a=1)
    assert time.monotonic() - start < 2
    client._lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_without_a_free_descriptor_the_error_has_that_cause(running: Serving) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.open(os.devnull, os.O_RDONLY))
    with ControlClient(running.endpoints, TOKEN) as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(MasterUnreachable) as caught:
                client.call("echo", value=1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "ulimit -n" in shortage(caught.value)


def test_after_a_fork_both_processes_have_a_connection_of_their_own(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        client._lock.acquire()  # as another thread might at that moment
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                if client.call("add", a=20) == 21:
                    os._exit(7)
            os._exit(1)
        client._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert client.call("add", a=1) == 2
        assert client._link is link


def test_no_proxy_is_used(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running.client() as client:
        assert client.call("add", a=1) == 2


def test_a_name_for_an_endpoint(running: Serving) -> None:
    with ControlClient([f"http://localhost:{running.port}"], TOKEN) as client:
        assert client.call("add", a=1) == 2


# ---------------------------------------------------------------------------------------------------- several endpoints


def test_the_endpoint_that_works_is_found_and_remembered(running: Serving, closed_endpoint: str) -> None:
    with contextlib.ExitStack() as stack:
        closing = stack.enter_context(peer(lambda sock: sock.recv(100)))
        ssh = stack.enter_context(peer(answers(b"SSH-2.0-OpenSSH\r\n")))
        client = stack.enter_context(ControlClient([closed_endpoint, closing, ssh, *running.endpoints], TOKEN))
        assert client.call("add", a=1) == 2
        assert client.endpoint == running.endpoints[0]


def test_a_silent_endpoint_takes_its_share_of_the_time_only(running: Serving) -> None:
    with peer(silence) as silent, ControlClient([silent, *running.endpoints], TOKEN, timeout_s=2.0) as client:
        start = time.monotonic()
        assert client.call("add", a=1) == 2
        assert 0.8 < time.monotonic() - start < 2
        start = time.monotonic()
        assert client.call("add", a=1) == 2
        assert time.monotonic() - start < 0.8


def test_the_error_names_every_endpoint(closed_endpoint: str) -> None:
    other = "http://127.0.0.2:9"
    with ControlClient([closed_endpoint, other], TOKEN) as client, pytest.raises(MasterUnreachable) as caught:
        client.call("add", a=1)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "no master answers:",
        f"  {closed_endpoint}: Connection refused",
        f"  {other}: Connection refused",
    ]
    assert "connection file" in lines[3]
    assert TOKEN not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1:80",
        "http://",
        "http://127.0.0.1",
        "http://127.0.0.1:",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:80/api/1",
        "ftp://127.0.0.1:80",
        "http://[::1:80",
        "http://10.0.0.1:80",
        "http://master.example:80",
    ],
)
def test_an_endpoint_that_is_invalid_or_would_expose_the_token_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        ControlClient([endpoint], TOKEN)


@pytest.mark.parametrize("endpoints", [[], "http://127.0.0.1:80"])
def test_endpoints_are_a_list(endpoints: Any) -> None:
    with pytest.raises(ConfigurationError, match="list"):
        ControlClient(endpoints, TOKEN)


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX: y", "ü"])
def test_a_token_that_would_break_a_header_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError):
        ControlClient(["http://127.0.0.1:80"], token)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_of_zero_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        ControlClient(["http://127.0.0.1:80"], TOKEN, timeout_s=timeout_s)


def test_the_token_is_in_no_repr() -> None:
    assert repr(ControlClient(["http://127.0.0.1:80"], TOKEN)) == "ControlClient(['http://127.0.0.1:80'])"


# ------------------------------------------------------------------------------------------------------------ start-up


def test_a_client_starts_without_the_heavy_packages() -> None:
    code = """
import sys
import concurrent_nb.transport.control_client, concurrent_nb.transport.keys, concurrent_nb.transport.connection_file
print([name for name in sys.modules if name.partition(".")[0] in
    {"asyncio", "tornado", "zmq", "jupyter_core", "cryptography", "psutil", "traitlets", "numpy"}])
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(output.replace("'", '"')) == []
