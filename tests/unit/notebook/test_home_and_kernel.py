"""The cluster that a session is at home in, one that comes up beforehand, and looking into slaves."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb.errors import ClusterNotFound, ConfigurationError, MasterLost, MasterUnreachable
from concurrent_nb.nodes.common.kernel_file import KernelFile
from concurrent_nb.notebook import current_cluster as current_cluster
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.transport import connection_file


class FakeApplication:
    """An application that can be asked and left."""

    is_gone = False  #: its cluster
    is_closed = False

    def status(self) -> dict[str, Any]:
        if self.is_gone:
            raise MasterUnreachable("no master answers")
        return {"slaves": [], "tasks": {}}

    def present_errors(self, present: object) -> None:
        """Take how errors are shown."""

    def present_displays(self, present: object) -> None:
        pass

    def close(self) -> None:
        """Leave."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[CurrentCluster]:
    monkeypatch.setattr(concurrent_nb, "connect", lambda *where, **options: FakeApplication())
    cluster = CurrentCluster("lab")
    yield cluster
    cluster.stop()


def test_what_is_needed_is_looked_for_at_home(cluster: CurrentCluster) -> None:
    _, notice = cluster.application()
    assert notice == "connected to cluster lab (%concurrent stop leaves it)"
    assert cluster.application()[1] is None
    assert cluster.stop() == "left cluster lab, which is still running"


def test_status_looks_at_home_as_well(cluster: CurrentCluster) -> None:
    assert cluster.status().startswith("cluster lab\n")


REMEDY = "%concurrent stop, then %concurrent start or %concurrent connect NAME"


def test_what_to_do_is_said_when_a_cluster_of_another_owner_has_ended(
    cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app, _ = cluster.application()
    cluster.handle_lost_master()
    assert capsys.readouterr().out == "", "it was a task's own error: the master is there"
    assert cluster.application()[0] is app
    monkeypatch.setattr(FakeApplication, "is_gone", True)
    for ask in (cluster.status, cluster.slaves):
        with pytest.raises(MasterLost) as caught:
            ask()
        assert str(caught.value) == f"cluster lab has ended or does not answer: {REMEDY}"
    cluster.handle_lost_master()
    cluster.handle_lost_master()
    assert capsys.readouterr().out == f"cluster lab has ended or does not answer: {REMEDY}\n"
    for use in (cluster.application, cluster.application_for_functions):
        with pytest.raises(MasterLost, match="%concurrent stop, then"):
            use()
    assert cluster.stop() == "left cluster lab, which has ended or does not answer"
    monkeypatch.undo()
    monkeypatch.setattr(concurrent_nb, "connect", lambda *where, **options: FakeApplication())
    assert cluster.application()[1] == "connected to cluster lab (%concurrent stop leaves it)"
    assert cluster.stop() == "left cluster lab, which is still running"


def test_a_cluster_that_ended_unseen_is_not_said_to_run_on(
    cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.application()
    monkeypatch.setattr(FakeApplication, "is_gone", True)
    assert cluster.stop() == "left cluster lab, which has ended or does not answer"


def test_a_cluster_that_is_on_its_way_is_waited_for(cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    let, entered = threading.Event(), threading.Event()

    def connect(*where: str, **options: Any) -> FakeApplication:
        entered.set()
        assert let.wait(60)
        return FakeApplication()

    monkeypatch.setattr(concurrent_nb, "connect", connect)
    cluster.start_in_background()
    assert entered.wait(60)
    threading.Timer(0.0, let.set).start()
    assert cluster.application()[1] is None  # there is nothing to say: the cell has started nothing


def test_a_cluster_that_does_not_come_is_an_error_where_it_is_needed(
    cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def connect(*where: str, **options: Any) -> FakeApplication:
        raise ClusterNotFound("no cluster 'lab'")

    monkeypatch.setattr(concurrent_nb, "connect", connect)
    cluster.start_in_background()
    with pytest.raises(ClusterNotFound, match="no cluster 'lab'"):
        cluster.application()
    assert "no cluster yet: no cluster 'lab'" in caplog.text


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_copy_of_a_kernels_file_goes_with_the_session(
    cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_ours: bool
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "kernel-slave-0123.json"
    path.touch()
    monkeypatch.setattr(connection_file, "read", lambda where: where)
    monkeypatch.setattr(current_cluster, "open_kernel", lambda info, slave: KernelFile(path, is_ours))
    assert cluster.kernel("east").splitlines() == [
        f"opened a kernel in slave east; its connection file is {path}",
        "jupyter console --existing kernel-slave-0123.json",
    ]
    cluster.stop()
    assert path.exists() != is_ours


def test_an_unknown_slave_is_the_masters_word(cluster: CurrentCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(info: Any, slave: str) -> KernelFile:
        raise ConfigurationError(f"there is no slave {slave!r}; the slaves are: east")

    monkeypatch.setattr(connection_file, "read", lambda where: where)
    monkeypatch.setattr(current_cluster, "open_kernel", refuse)
    with pytest.raises(ConfigurationError, match="the slaves are: east"):
        cluster.kernel("west")
