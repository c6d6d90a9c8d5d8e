"""Fixtures that several test modules share. A module has one by giving it a name, as in `app = fixtures.app`."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concurrent_nb import ApplicationNode, Cluster
from tests import clusters


def shared_cluster(**options: Any) -> Callable[..., Iterator[Cluster]]:
    """Make the fixture `cluster`: a cluster for all tests of a module."""

    @pytest.fixture(scope="module")
    def cluster() -> Iterator[Cluster]:
        with clusters.shared_cluster(**options) as cluster:
            yield cluster

    return cluster


@pytest.fixture
def app(cluster: Cluster) -> ApplicationNode:
    """Give the application of the module's cluster."""
    return cluster.application()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(cluster: Cluster) -> Iterator[None]:
    """Do as for every test, but know that workers which die are replaced."""
    with clusters.nothing_left_but_workers(cluster):
        yield
