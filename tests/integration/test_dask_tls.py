"""A Dask cluster whose connections are encrypted, as engine and as pilot: with its certificates, and without."""

from collections.abc import Iterator
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.errors import EngineUnavailable, LaunchFailed
from tests import dask_cluster, leaks
from tests.clusters import BRISK
from tests.dask_cluster import DaskCluster
from tests.work import PATIENCE_S

pytestmark = pytest.mark.skipif(bool(dask_cluster.missing()), reason=dask_cluster.missing())


@pytest.fixture(scope="module")
def dask() -> Iterator[DaskCluster]:
    before = leaks.held()
    with dask_cluster.dask_cluster("127.0.0.2", has_tls=True) as dask:
        yield dask
    assert leaks.left_since(before) == []


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Dask keeps a thread in this process; what the module leaves is looked at when it ends."""


def test_slaves_run_in_its_workers(dask: DaskCluster) -> None:
    files: dict[str, Any] = {"ca_file": dask.certificate, "cert_file": dask.certificate, "key_file": dask.key}
    with Cluster(on=f"dask://tls://{dask.address}", config=BRISK, **files) as cluster:
        assert cluster.application().submit(pow, 2, 10).result(PATIENCE_S) == 1024
        assert "Dask worker tls://127.0.0.2:" in cluster.status()["slaves"][0]["place"]


def test_tasks_run_in_it(dask: DaskCluster) -> None:
    import distributed  # whose import completes Dask's configuration
    from dask import config

    assert distributed
    names = {"ca-file": dask.certificate, "client.cert": dask.certificate, "client.key": dask.key}
    with (
        config.set({f"distributed.comm.tls.{name}": file for name, file in names.items()}),
        concurrent_nb.connect(f"dask://tls://{dask.address}") as app,
    ):
        assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024


@pytest.mark.parametrize(
    ("scheme", "words"), [("tls://", "tls:// needs the certificates"), ("", "TLS needs dask://tls://127.0.0.1:")]
)
def test_who_has_no_certificates_is_told_what_to_do(
    dask: DaskCluster, monkeypatch: pytest.MonkeyPatch, scheme: str, words: str
) -> None:
    monkeypatch.setattr("concurrent_nb.engines.dask_engine.CONNECT_S", 2.0)
    with pytest.raises(EngineUnavailable, match=words):
        concurrent_nb.connect(f"dask://{scheme}{dask.address}")
    with pytest.raises(LaunchFailed, match=words), Cluster(on=f"dask://{scheme}{dask.address}", connect_s=2.0):
        pass
