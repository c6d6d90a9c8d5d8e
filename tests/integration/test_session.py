"""A notebook's session with real clusters: what it says of them is true when they change or end."""

import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import MasterLost
from concurrent_nb.notebook.current_cluster import CurrentCluster
from tests.work import PATIENCE_S


def test_a_cluster_that_its_owner_has_stopped_is_left_and_another_one_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        cluster.connect("owners")
        app, _ = cluster.application()
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
        assert cluster.status().startswith("cluster owners\n")
    with pytest.raises(MasterLost):
        app.submit(pow, 2, 3).result(PATIENCE_S)
    cluster.handle_lost_master()  # as the magics say when they see it
    said = "cluster owners has ended or does not answer: %concurrent stop, then %concurrent start or"
    assert said in capsys.readouterr().out
    for use in (cluster.application, cluster.status, cluster.slaves):
        with pytest.raises(MasterLost, match=r"%concurrent stop, then"):
            use()
    assert cluster.stop() == "left cluster owners, which has ended or does not answer"
    try:
        app, notice = cluster.application()
        assert notice is not None
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    finally:
        cluster.stop()


def test_the_number_of_workers_is_that_of_now() -> None:
    cluster = CurrentCluster()
    try:
        assert cluster.start(1) == "started an embedded cluster: 1 worker (%concurrent stop stops it)"
        cluster.scale(2)
        assert cluster.status().startswith("an embedded cluster: 2 workers\n")
    finally:
        assert cluster.stop() == "stopped an embedded cluster: 2 workers"


def test_a_cluster_that_runs_on_is_said_to() -> None:
    cluster = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        cluster.connect("owners")
        assert cluster.stop() == "left cluster owners, which is still running"


@pytest.mark.parametrize("connected", [False, True], ids=["its own", "one that it is connected to"])
def test_an_application_that_was_shut_down_is_followed_by_another_one(connected: bool) -> None:
    cluster = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        if connected:
            cluster.connect("owners")
        try:
            with cluster.application()[0] as app:
                assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
            another, notice = cluster.application()
            assert another is not app and notice is None
            assert another.submit(pow, 2, 4).result(PATIENCE_S) == 16
            assert cluster.application()[0] is another
        finally:
            cluster.stop()
