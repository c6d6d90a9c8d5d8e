"""Which clusters a Jupyter server reaches: by names of readable connection files, and by nothing else."""

import asyncio
from collections.abc import Iterator

import pytest

from concurrent_nb import errors
from concurrent_nb.errors import (
    AccessRefused,
    ClusterError,
    ClusterNotFound,
    ClusterStartFailed,
    ConcurrentError,
    ConfigurationError,
    MasterUnreachable,
    TooLarge,
)
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.web.local_clusters import LocalClusters, status_code


@pytest.fixture
def clusters() -> Iterator[LocalClusters]:
    found = LocalClusters()
    yield found
    found.close()


def slaves_file(name: str) -> ConnectionFile:
    return ConnectionFile(
        name=name, endpoints=["http://127.0.0.1:1"], master_key="x" * 40, tokens={"slave": "s" * 43}, host="elsewhere"
    )


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "x.json", "<script>", "http://127.0.0.1:1", "x" * 65]
)
def test_what_is_no_name_is_refused(clusters: LocalClusters, name: str) -> None:
    for work in (clusters.start(name), clusters.stop(name), clusters.call(name, "ping", {}), clusters.access(name)):
        with pytest.raises(ConfigurationError, match="cannot name a cluster"):
            asyncio.run(work)


def test_a_name_without_a_file_is_not_found(clusters: LocalClusters) -> None:
    for work in (clusters.stop("nobody"), clusters.call("nobody", "ping", {}), clusters.access("nobody")):
        with pytest.raises(ClusterNotFound, match="no cluster 'nobody'"):
            asyncio.run(work)


def test_a_file_that_cannot_be_read_is_left_out_of_the_list(clusters: LocalClusters) -> None:
    path = connection_file.write(slaves_file("torn"))
    try:
        assert [each["name"] for each in asyncio.run(clusters.all())] == ["torn"]
        path.write_bytes(b"{")
        assert asyncio.run(clusters.all()) == []
    finally:
        path.unlink()


def test_a_slaves_token_is_not_used(clusters: LocalClusters) -> None:
    path = connection_file.write(slaves_file("for-slaves"))
    try:
        with pytest.raises(AccessRefused, match="no token of role admin or client"):
            asyncio.run(clusters.call("for-slaves", "ping", {}))
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClusterNotFound("x"), 404),
        (AccessRefused("x"), 403),
        (ConfigurationError("x"), 400),
        (TooLarge("x", 2, 1), 400),
        (MasterUnreachable("x"), 502),
        (ClusterStartFailed("x"), 500),
        (ClusterError("x"), 502),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_a_status(error: ConcurrentError, status: int) -> None:
    assert status_code(error) == status


def test_every_error_has_a_status() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ConcurrentError)]
    assert len(kinds) > 10
    assert {status_code(kind.__new__(kind)) for kind in kinds} <= {400, 403, 404, 500, 502}
