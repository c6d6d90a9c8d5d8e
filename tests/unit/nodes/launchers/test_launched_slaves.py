"""Which slaves belong to a cluster with a launcher."""

from concurrent_nb.errors import ClusterStartFailed
from concurrent_nb.nodes.launchers.launched_slaves import LaunchedSlaves
from concurrent_nb.nodes.launchers.supervisor import StartSlave, Supervisor


def fail(failure: ClusterStartFailed) -> None:
    raise failure


def test_two_clusters_name_their_slaves_differently() -> None:
    """An engine or a batch system that both use ends slaves by name."""
    one, other = (LaunchedSlaves("a", "local", {}, 1, None, fail) for _ in range(2))
    (start,) = Supervisor(one.prefix, 1, 1.0).turn(0.0, [], {})
    assert isinstance(start, StartSlave) and start.name.startswith("local-")
    assert one.has(start.name) and not other.has(start.name)
