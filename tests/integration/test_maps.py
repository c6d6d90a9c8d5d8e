"""Maps while things die, and while the user presses stop: no item is lost, none is answered twice."""

import os
import signal
import subprocess
import sys
import time

import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.errors import MasterLost
from tests import work
from tests.clusters import BRISK, alive, eventually, settle, slave_pids, workers_of
from tests.work import PATIENCE_S


def test_slaves_and_workers_that_die_change_no_result() -> None:
    with Cluster(workers=2, config=BRISK) as cluster:
        cluster.scale(3)
        settle(cluster)
        app = cluster.application()
        results = app.map(work.slow_square, range(3000))
        found = [next(results) for _ in range(100)]
        os.kill(min(workers_of(slave_pids(cluster))), signal.SIGKILL)
        found += [next(results) for _ in range(100)]
        os.kill(max(slave_pids(cluster)), signal.SIGKILL)
        found += results
        assert [square for square, _ in found] == [n * n for n in range(3000)]


def test_when_the_cluster_is_stopped_every_item_that_has_no_result_says_so() -> None:
    with Cluster(workers=2) as cluster:
        assert cluster.connection_file is not None
        app = concurrent_nb.connect(cluster.connection_file)
        results = app.map(time.sleep, [0.02] * 1000, return_exceptions=True)
        raising = app.map(time.sleep, [0.02] * 1000)
        assert next(results) is None
    found = list(results)
    assert len(found) == 999
    assert {type(one) for one in found} - {type(None)} == {MasterLost}
    with pytest.raises(MasterLost, match="stopped"):
        list(raising)
    app.shutdown()


def test_the_stop_button_at_any_moment_of_a_map_breaks_nothing() -> None:
    with Cluster(workers=2) as cluster:
        settle(cluster)
        command = [sys.executable, "-m", "tests.interrupted", str(cluster.connection_file), "map"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert (ended.stdout, ended.returncode) == ("fine\n", 0), ended.stderr
        # What nobody reads any more has been cancelled, or has run to its end.
        eventually(lambda: cluster.status()["tasks"]["waiting"] == 0, "no task waits")
        assert alive(workers_of(slave_pids(cluster)))
