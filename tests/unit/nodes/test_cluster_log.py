"""Errors show the end of a cluster's log."""

import contextlib
from pathlib import Path

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.cluster_log import ClusterLog

NOISE = "2026-01-01 10:00:00,123 master WARNING concurrent_nb.nodes.master.loop: dropped an envelope\n"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (f"{NOISE}the slave ends: it failed:\n  Traceback\n{NOISE}", "the slave ends: it failed:\n  Traceback"),
        ("the slave ends: no\nthe master ends: no\n", "the slave ends: no"),
        ("the slave ends: 1\nthe slave ends: 2\n", "the slave ends: 2"),
        (f"{NOISE}Fatal Python error\n", f"{NOISE}Fatal Python error"),
    ],
)
def test_an_error_shows_the_reason_that_the_node_has_given_and_no_other_records(text: str, ends: str) -> None:
    with contextlib.closing(ClusterLog(None)) as log:
        log.open()
        log.file.write(text)
        assert log.end_of("slave") == f"its log ends:\n{ends}"


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    with pytest.raises(ConfigurationError, match=f"log {path} cannot be written: No such file"):
        ClusterLog(path).open()
