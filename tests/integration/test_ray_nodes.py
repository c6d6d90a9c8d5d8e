"""The engine "ray" on a Ray of two nodes, one of which goes."""

import pytest

import concurrent_nb
from tests import leaks, work
from tests.work import PATIENCE_S

ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Do nothing after the test, which looks itself: descriptors of Ray stay open in this process."""


def test_a_node_of_ray_that_is_gone_takes_its_slot_and_no_task_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster as RayCluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = leaks.held()
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = RayCluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        with concurrent_nb.connect("ray") as app:
            assert list(app.map(work.square, range(10))) == [n * n for n in range(10)]
            cluster.remove_node(node)
            futures = [app.submit(work.slow_square, n) for n in range(20)]
            assert [future.result(PATIENCE_S)[0] for future in futures] == [n * n for n in range(20)]
    finally:
        ray.shutdown()
        cluster.shutdown()
        leaks.keep_descriptors(before)
    assert leaks.left_since(before, patience_s=10.0) == []
