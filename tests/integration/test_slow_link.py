"""A slow link: what passes arrives whole and in order, and late, and applications work over it."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import concurrent_nb
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.common.system_access import restricted_access
from concurrent_nb.samples.pi import PiSystem
from concurrent_nb.testing import SlowLink
from concurrent_nb.transport import connection_file, keys
from tests.clusters import eventually, shared_cluster
from tests.work import PATIENCE_S

DELAY_S = 0.02


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """Run a server that says what it hears, and ends when it hears no more; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join()


@contextlib.contextmanager
def asked(link: SlowLink, request: bytes) -> Iterator[socket.socket]:
    """Greet the proxy as SOCKS5 says, and ask for something."""
    host, port = link.address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2) == b"\x05\x00"
        client.sendall(request)
        yield client


def send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("place", [b"\x01\x7f\0\0\x01", b"\x03\x09localhost"], ids=["address", "name"])
def test_bytes_arrive_as_they_were_and_not_before_their_time(place: bytes) -> None:
    data = random.Random(7).randbytes(3_000_000)
    with echo() as port, SlowLink(DELAY_S) as link:
        with asked(link, b"\x05\x01\x00" + place + port.to_bytes(2, "big")) as client:
            assert client.recv(10)[:2] == b"\x05\x00"
            began = time.monotonic()
            client.sendall(b"there and back")
            assert client.recv(100) == b"there and back"
            assert time.monotonic() - began >= 2 * DELAY_S
            sender = threading.Thread(target=send_all, args=(client, data))
            sender.start()
            heard = b"".join(iter(lambda: client.recv(1 << 16), b""))
            sender.join()
        assert heard == data


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x04\x01\x00\x01\x7f\0\0\x01\0\x50",
        b"\x05\x02\x00\x01\x7f\0\0\x01\0\x50",
        b"\x05\x01\x00\x01\x7f\0\0\x01\0\x01",
    ],
    ids=["another version", "another command", "nobody there"],
)
def test_what_it_cannot_do_it_ends(request_bytes: bytes) -> None:
    with SlowLink(DELAY_S) as link, asked(link, request_bytes) as client, contextlib.suppress(ConnectionResetError):
        assert client.recv(100) == b""


def test_a_client_that_leaves_leaves_nothing() -> None:
    with echo() as port, SlowLink(DELAY_S) as link:
        with asked(link, b"\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big")) as client:
            assert client.recv(10)[:2] == b"\x05\x00"
            client.sendall(b"never mind")
        eventually(lambda: not link._directions, "the link has forgotten the connection")


def test_an_application_works_over_it(tmp_path: Path) -> None:
    with shared_cluster() as cluster, SlowLink(DELAY_S) as link:
        assert cluster.connection_file is not None
        path = link.connection_file(cluster.connection_file, tmp_path / "far.json")
        assert connection_file.read(path).compute_proxy == link.address
        with concurrent_nb.connect(path) as app:
            app.submit(abs, -1).result(PATIENCE_S)
            began = time.monotonic()
            assert app.submit(abs, -7).result(PATIENCE_S) == 7
            assert time.monotonic() - began >= 2 * DELAY_S
            assert list(app.map(len, [bytes(n * 100_000) for n in range(20)])) == [n * 100_000 for n in range(20)]


def test_a_link_needs_a_cluster_that_has_started(tmp_path: Path) -> None:
    with SlowLink(DELAY_S) as link, pytest.raises(ConfigurationError, match="has not been started"):
        link.connection_file(concurrent_nb.Cluster().connection_file, tmp_path / "far.json")


def test_the_host_of_a_task_system_is_there_already_and_goes_directly(tmp_path: Path) -> None:
    with shared_cluster() as cluster, SlowLink(DELAY_S) as link:
        path = link.connection_file(cluster.connection_file, tmp_path / "far.json")
        far = connection_file.read(path)
        assert restricted_access(far, keys.fresh(), "system", "application").info.compute_proxy is None
        with concurrent_nb.connect(path) as app:
            assert app.push_tasksystem(PiSystem(terms=100, num_tasks=10)).result(PATIENCE_S) == pytest.approx(
                3.13, abs=0.01
            )
