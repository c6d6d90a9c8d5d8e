"""The control server from its start to its stop, and under TLS."""

import asyncio
import socket
import ssl
import threading
import time

import pytest

from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.rpc import Dispatcher, Registry
from concurrent_nb.transport import tls
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.control_server import ConnectionLimits, ControlServer
from tests.serving import LIMITS, TOKENS, Sample, call, head, raw, serving

# -------------------------------------------------------------------------------------------------- starting, stopping


def server_on(*addresses: str, port: int = 0, material: tls.TlsMaterial | None = None) -> ControlServer:
    tokens = {token: role for role, token in TOKENS.items()}
    return ControlServer(Dispatcher(Registry(Sample())), tokens, addresses, port, material)


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["127.0.0.1", "0.0.0.0"], ["192.0.2.1"]])
def test_plain_http_beyond_this_machine_is_refused_at_the_start(addresses: list[str]) -> None:
    server = server_on(*addresses)
    with pytest.raises(ConfigurationError, match=r"pip install 'concurrent-nb\[tls\]'"):
        asyncio.run(server.start())
    assert server.endpoints == []


@pytest.mark.parametrize("port", [-1, 70000])
def test_an_invalid_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"port {port}"):
        asyncio.run(server_on("127.0.0.1", port=port).start())


def test_a_port_in_use_is_refused() -> None:
    with serving() as running:
        with pytest.raises(ConfigurationError, match=f"port {running.port} of 127.0.0.1: Address already in use"):
            asyncio.run(server_on("127.0.0.1", port=running.port).start())
        assert running.answers()


@pytest.mark.parametrize("tokens", [{}, {"": "admin"}, {"short": "admin"}, {"with a space in it": "admin"}])
def test_a_server_without_good_tokens_is_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="tokens"):
        ControlServer(Dispatcher(Registry(Sample())), tokens, ["127.0.0.1"])


def test_several_addresses_have_an_endpoint_each() -> None:
    with serving(["127.0.0.1", "::1"]) as running:
        assert running.endpoints == [f"http://127.0.0.1:{running.port}", f"http://[::1]:{running.port}"]
        for endpoint, address in zip(running.endpoints, ["127.0.0.1", "::1"], strict=True):
            with ControlClient([endpoint], TOKENS["client"]) as client:
                assert client.call("whoami")["local"] == address


def test_stopping_lets_a_running_call_answer() -> None:
    with serving() as running, running.client() as client:
        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(client.call("wait")))
        caller.start()
        while not running.server._context.running:
            time.sleep(0.01)
        stopping = asyncio.run_coroutine_threadsafe(running.server.stop(grace_s=5), running.loop)
        running.sample.gate.set()
        stopping.result(10)
        caller.join(10)
        assert answers == ["done"]
        assert running.server.endpoints == []


def test_stopping_does_not_wait_for_a_call_that_does_not_end() -> None:
    with serving() as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
            body = call("wait", [])
            sock.sendall(head(running, f"Content-Length: {len(body)}") + body)
            while not running.server._context.running:
                time.sleep(0.01)
            start = time.monotonic()
            asyncio.run_coroutine_threadsafe(running.server.stop(grace_s=0.2), running.loop).result(10)
            assert time.monotonic() - start < 2
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=10)


def test_a_stopped_server_may_be_started_again() -> None:
    async def run() -> None:
        server = server_on("127.0.0.1")
        await server.stop()
        for _ in range(2):
            await server.start()
            (endpoint,) = server.endpoints
            with ControlClient([endpoint], TOKENS["client"]) as client:
                assert await asyncio.to_thread(client.call, "add", a=1) == 2
            await server.stop()

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------------- TLS


def test_beyond_this_machine_there_is_tls() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(["0.0.0.0"], material) as running:
        assert all(endpoint.startswith("https://") and "0.0.0.0" not in endpoint for endpoint in running.endpoints)
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1, b=2) == 3
            local = client.call("whoami")["local"]
        assert running.endpoints[0] == f"https://{local}:{running.port}"


def test_another_certificate_is_refused() -> None:
    material, other = tls.make_tls(["127.0.0.1"]), tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running:
        with running.client(certificate_pem=other.certificate_pem) as client, pytest.raises(AccessRefused) as caught:
            client.call("add", a=1)
        assert "its TLS certificate is not accepted: it is not the one in the connection file" in str(caught.value)
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1) == 2


def test_without_the_certificate_the_system_does_not_trust_it() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running, running.client() as client, pytest.raises(AccessRefused) as caught:
        client.call("add", a=1)
    assert "self-signed certificate" in str(caught.value)


def test_plain_http_and_silence_at_a_tls_port() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running:
        assert b" 200 " not in raw(running, head(running, f"Content-Length: {len(call())}") + call())
        start = time.monotonic()
        assert raw(running) == b""
        assert raw(running, b"\x16\x03\x01\x02\x00") == b""
        assert time.monotonic() - start < 2 * LIMITS.idle_s + 3
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1) == 2


def test_old_tls_is_refused() -> None:
    with serving(tls=tls.make_tls(["127.0.0.1"])) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", running.port)) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)


def test_the_defaults_are_those_of_the_design() -> None:
    limits = ConnectionLimits()
    assert limits.body_bytes == 1 << 20
    assert limits.body_s == 5
    assert 5 <= limits.idle_s <= 60
