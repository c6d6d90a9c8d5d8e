"""What tests of several launchers have in common."""

import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import LaunchFailed
from tests.slurm_cluster import free_ports


def check_not_launched(on: str, reason: str) -> None:
    """Check that a cluster does not start where nothing listens at `{port}`, and gives this reason."""
    (port,) = free_ports(1)
    with (
        pytest.raises(LaunchFailed, match=reason.format(port=port)),
        Cluster(on=on.format(port=port)),
    ):
        pass
