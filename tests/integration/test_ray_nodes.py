"""The engine "ray" on a Ray of two nodes, one of which goes; then its head hangs, and dies."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb.errors import EngineLost, EngineUnavailable
from tests import leaks, work
from tests.clusters import eventually
from tests.work import PATIENCE_S

ray = pytest.importorskip("ray")


pytestmark = pytest.mark.timeout(240)  # Ray itself takes most of a minute to start on a busy machine


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Do nothing after the test, which looks itself: descriptors of Ray stay open in this process."""


def test_a_ray_that_loses_a_node_and_its_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster as RayCluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = leaks.held()
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = RayCluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with connected() as app:
            assert list(app.map(work.square, range(10))) == [n * n for n in range(10)]
            cluster.remove_node(node)
            futures = [app.submit(work.slow_square, n) for n in range(20)]
            assert [future.result(PATIENCE_S)[0] for future in futures] == [n * n for n in range(20)]
        assert not ray.is_initialized()
        check_head(cluster.head_node, monkeypatch, tmp_path)
    finally:
        ray.shutdown()
        cluster.shutdown()
        leaks.keep_descriptors(before)
    assert leaks.left_since(before, patience_s=60.0) == []  # agents of the dead head end by themselves


def connected() -> concurrent_nb.ApplicationNode:
    """Connect to Ray. On a busy machine processes of Ray's may die while they start, so it is tried three times."""
    for tries_left in (2, 1, 0):
        try:
            return concurrent_nb.connect("ray")
        except EngineUnavailable as error:
            if not tries_left or "do not start" not in str(error):
                raise
    raise AssertionError


def begun_task(app: Any, begun: Path) -> Any:
    """Start a task that never ends; return when it has begun."""
    future = app.submit(work.start_and_wait, begun, begun.with_name("never"))
    work.wait_for(begun)
    return future


def check_head(node: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the head hang while a task runs and while one connects; then have it die. Every wait has an end."""
    head = node.all_processes["gcs_server"][0].process.pid
    for name, value in (("HANGS_S", 1.5), ("SILENT_S", 0.5), ("LOOK_S", 0.2), ("END_S", 0.5), ("LEAVE_S", 1.0)):
        monkeypatch.setattr(f"concurrent_nb.engines.ray_engine.{name}", value)
    app = concurrent_nb.connect("ray")
    try:
        future = begun_task(app, folder / "one")
        os.kill(head, signal.SIGSTOP)
        with pytest.raises(EngineLost, match="the Ray of this machine does not answer: it has hung for"):
            future.result(PATIENCE_S)
        app.close()
        with monkeypatch.context() as patch:
            patch.setattr("concurrent_nb.engines.ray_engine.START_S", 1.0)
            with pytest.raises(EngineUnavailable, match="does not get rid of its last connection to Ray, which hangs"):
                concurrent_nb.connect("ray")
    finally:
        os.kill(head, signal.SIGCONT)
        app.close()
    eventually(lambda: "concurrent_nb ray asks" not in [thread.name for thread in threading.enumerate()], "it answers")
    assert not ray.is_initialized()  # what was begun while it hung was left
    app = connected()
    try:
        future = begun_task(app, folder / "two")
        os.kill(head, signal.SIGKILL)
        with pytest.raises(EngineLost, match="the Ray of this machine"):
            future.result(PATIENCE_S)
    finally:
        begun = time.monotonic()
        app.close()
    assert time.monotonic() - begun < PATIENCE_S
    assert not ray.is_initialized()
