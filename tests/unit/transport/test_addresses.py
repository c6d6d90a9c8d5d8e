"""Addresses to listen on, and addresses to advertise."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.transport import addresses
from concurrent_nb.transport.http_link import Endpoint


@contextlib.contextmanager
def bound(hosts: list[str], port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = addresses.bind(hosts, port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_addresses_are_resolved_once_each() -> None:
    assert addresses.resolve(["127.0.0.1", "127.0.0.1", "::1"]) == ["127.0.0.1", "::1"]
    assert "127.0.0.1" in addresses.resolve(["localhost"])


@pytest.mark.parametrize(
    "wrong", [[], "127.0.0.1", [""], ["no.such.host.invalid"], ["1.2.3.4.5"], ["a" * 300], ["a b"]]
)
def test_an_invalid_address_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        addresses.resolve(wrong)


def test_several_addresses_share_a_port() -> None:
    with bound(["127.0.0.1", "127.0.0.2"]) as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert len({sock.getsockname()[1] for sock in sockets}) == 1


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_an_invalid_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"port {port} is invalid"):
        addresses.bind(["127.0.0.1"], port)


def test_a_port_in_use_is_named() -> None:
    with bound(["127.0.0.2"]) as (other,):
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"cannot listen on port {port} of 127.0.0.2: Address already in use"
        ):
            addresses.bind(["127.0.0.1", "127.0.0.2"], port)
        with bound(["127.0.0.1"], port):
            """The address that was free is free again."""


def test_an_address_of_another_machine_is_named_in_the_error() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.77"):
        addresses.bind(["192.0.2.77"], 0)


def test_a_missing_ipv6_address_is_skipped_if_there_is_another() -> None:
    with bound(["2001:db8::77", "127.0.0.1"]) as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1"]
    with pytest.raises(ConfigurationError, match="2001:db8::77"):
        addresses.bind(["2001:db8::77"], 0)


def test_a_loopback_address_is_advertised_as_it_is() -> None:
    with bound(["127.0.0.1"]) as (sock,):
        assert addresses.advertised(sock) == [f"127.0.0.1:{sock.getsockname()[1]}"]
    with bound(["::1"]) as (sock,):
        assert addresses.advertised(sock) == [f"[::1]:{sock.getsockname()[1]}"]


def test_all_interfaces_are_advertised_one_by_one_and_never_as_all() -> None:
    with bound(["0.0.0.0"]) as (sock,):
        texts = addresses.advertised(sock)
    assert texts
    assert not any(text.startswith("0.0.0.0") for text in texts)
    loopback = [text for text in texts if text.startswith("127.")]
    assert not loopback or loopback == texts, "a loopback address is advertised only if there is no other"


#: (host, its plain form, whether only this machine reaches it): plain HTTP is allowed where it is, TLS needed elsewhere
HOSTS = [
    ("127.0.0.1", "127.0.0.1", True),
    ("127.8.8.8", "127.8.8.8", True),
    ("::1", "::1", True),
    ("::1%lo", "::1", True),
    ("0:0:0:0:0:0:0:1", "::1", True),
    ("::ffff:127.0.0.1", "127.0.0.1", True),
    ("::FFFF:7f00:1", "127.0.0.1", True),
    ("localhost", "localhost", True),
    ("LocalHost", "LocalHost", True),
    ("::ffff:10.0.0.1", "10.0.0.1", False),
    ("fe80::1%lo", "fe80::1", False),
    ("fe80::1%eth0", "fe80::1", False),
    ("0.0.0.0", "0.0.0.0", False),
    ("::", "::", False),
    ("::ffff:0.0.0.0", "0.0.0.0", False),
    ("10.1.2.3", "10.1.2.3", False),
    ("128.0.0.1", "128.0.0.1", False),
    ("127.0.0.1.example.com", "127.0.0.1.example.com", False),
    ("127.evil.example", "127.evil.example", False),
    ("localhost.example.com", "localhost.example.com", False),
    ("example.com", "example.com", False),
    ("", "", False),
]


@pytest.mark.parametrize(("written", "plain", "loopback"), HOSTS)
def test_a_host_has_one_plain_form_and_is_loopback_or_not(written: str, plain: str, loopback: bool) -> None:
    assert addresses.plain_host(written) == plain
    assert addresses.is_loopback(written) == loopback


@pytest.mark.parametrize("host", [host for host, _, loopback in HOSTS if not loopback and "%" not in host and host])
def test_a_client_sends_no_token_over_plain_http_beyond_loopback(host: str) -> None:
    with pytest.raises(ConfigurationError, match="is plain HTTP to another machine"):
        Endpoint.of(f"http://[{host}]:80" if ":" in host else f"http://{host}:80", None)


@pytest.mark.parametrize("host", [host for host, _, loopback in HOSTS if loopback and "%" not in host])
def test_a_client_may_use_plain_http_on_loopback(host: str) -> None:
    assert Endpoint.of(f"http://[{host}]:80" if ":" in host else f"http://{host}:80", None).context is None


def test_own_addresses_are_checked_and_all_interfaces_become_each_of_them() -> None:
    assert addresses.own_addresses(["127.0.0.1", "127.0.0.2", "127.0.0.1"], "item") == ["127.0.0.1", "127.0.0.2"]
    every = addresses.own_addresses(["0.0.0.0"], "item")
    assert "127.0.0.1" in every and "0.0.0.0" not in every
    assert not any("%" in address for address in addresses.own_addresses(["::"], "item"))
    with pytest.raises(ConfigurationError, match="item has 'localhost', which is no IP address"):
        addresses.own_addresses(["localhost"], "item")
    with pytest.raises(ConfigurationError, match=r"item has 192\.0\.2\.1, on which this machine cannot listen"):
        addresses.own_addresses(["192.0.2.1"], "item")
