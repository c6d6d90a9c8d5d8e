"""The demonstrations in notebooks on engines: unchanged but for the line that connects."""

import importlib.util
from pathlib import Path

import pytest

from tests import leaks
from tests.contract.test_engines import dask_cluster, ray_cluster
from tests.demonstrations import check_demonstrations
from tests.notebooks import Notebook


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Do nothing: what is left is looked for when the engine has ended, too."""


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_the_search_runs_on_dask(tmp_path: Path) -> None:
    before = leaks.held()
    with dask_cluster() as address:
        check_demonstrations(f"%concurrent connect {address}", tmp_path)
        check_client_in_hand(address, tmp_path)
    assert leaks.left_since(before, patience_s=10.0) == []


def check_client_in_hand(address: str, folder: Path) -> None:
    """Connect by a variable that holds a client, which stays the user's."""
    notebook = Notebook(folder)
    try:
        where = address.replace("dask://", "tcp://")
        assert notebook.run(f"from distributed import Client\nclient = Client({where!r})").error is None
        answer = notebook.run("%concurrent connect client")
        assert answer.text.startswith(f"connected to the engine dask: the Dask scheduler at {where}"), answer
        assert notebook.run("%concurrent connect client").text.startswith("this notebook already uses the engine dask")
        assert "the engine dask: the Dask scheduler at" in notebook.run("%concurrent status").text
        assert notebook.run("%%concurrent_task\n6 * 7").value == "42"
        assert notebook.run("%concurrent stop").text.startswith("left the engine dask")
        assert notebook.run("client.submit(pow, 2, 3).result()").value == "8"
        assert notebook.run("client.close()").error is None
    finally:
        notebook.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_the_search_runs_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    before = leaks.held()
    with ray_cluster():
        # The kernel is another process, which finds the Ray of this machine by this.
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        check_demonstrations("%concurrent connect ray", tmp_path)
    assert leaks.left_since(before, patience_s=10.0) == []
