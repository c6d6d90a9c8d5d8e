"""A notebook's session with real clusters: what it says of them is true when they change or end."""

import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import MasterLost
from concurrent_nb.notebook.current_cluster import CurrentCluster
from tests.work import PATIENCE_S


def test_a_cluster_that_its_owner_has_stopped_is_left_and_another_one_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        session.connect("owners")
        app, _ = session.application()
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
        assert session.status().startswith("cluster owners\n")
    with pytest.raises(MasterLost):
        app.submit(pow, 2, 3).result(PATIENCE_S)
    session.lost()  # as the magics say when they see it
    said = "cluster owners has ended, or does not answer any more: %concurrent stop, then %concurrent start or"
    assert said in capsys.readouterr().out
    for use in (session.application, session.status, session.slaves):
        with pytest.raises(MasterLost, match=r"%concurrent stop, then"):
            use()
    assert session.stop() == "left cluster owners, which has ended, or does not answer"
    try:
        app, notice = session.application()
        assert notice is not None
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    finally:
        session.stop()


def test_the_number_of_workers_is_that_of_now() -> None:
    session = CurrentCluster()
    try:
        assert session.start(1) == "started an embedded cluster: 1 worker (%concurrent stop ends it)"
        session.scale(2)
        assert session.status().startswith("an embedded cluster: 2 workers\n")
    finally:
        assert session.stop() == "stopped an embedded cluster: 2 workers"


def test_a_cluster_that_runs_on_is_said_to() -> None:
    session = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        session.connect("owners")
        assert session.stop() == "left cluster owners, which runs on"


@pytest.mark.parametrize("connected", [False, True], ids=["its own", "one that it is connected to"])
def test_an_application_that_was_shut_down_is_followed_by_another_one(connected: bool) -> None:
    session = CurrentCluster()
    with Cluster(workers=1, name="owners"):
        if connected:
            session.connect("owners")
        try:
            with session.application()[0] as app:
                assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
            another, notice = session.application()
            assert another is not app and notice is None
            assert another.submit(pow, 2, 4).result(PATIENCE_S) == 16
            assert session.application()[0] is another
        finally:
            session.stop()
