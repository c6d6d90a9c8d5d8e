import contextlib

import pytest

from concurrent_nb.nodes.cluster import Cluster

NOISE = "2026-01-01 10:00:00,123 master WARNING concurrent_nb.nodes.master.loop: dropped an envelope\n"


@pytest.mark.parametrize(
    ("log", "ends"),
    [
        (f"{NOISE}the slave ends: it failed:\n  Traceback\n{NOISE}", "the slave ends: it failed:\n  Traceback"),
        ("the slave ends: no\nthe master ends: no\n", "the slave ends: no"),
        ("the slave ends: 1\nthe slave ends: 2\n", "the slave ends: 2"),
        (f"{NOISE}Fatal Python error\n", f"{NOISE}Fatal Python error"),
    ],
)
def test_an_error_shows_the_reason_that_the_node_has_given_and_no_other_records(log: str, ends: str) -> None:
    cluster = Cluster()
    with contextlib.closing(cluster._open_log()) as cluster._log:
        cluster._log.write(log)
        assert cluster._end_of_log("slave") == f"its log ends:\n{ends}"
