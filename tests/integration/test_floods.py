"""Floods by one client, in short: the master's memory keeps its bound, and a good client works meanwhile."""

import pytest

from benchmarks.floods import MIB, SHORT, Measured, measure

#: the floods of memory; at this size each takes more than this where nothing bounds it
LEFT_BYTES = 60 * MIB


@pytest.mark.parametrize("name", ["early", "functions", "contents"])
def test_the_master_does_not_hold_what_one_client_floods_it_with(name: str) -> None:
    measured: Measured = measure(name, SHORT[name], rest_s=3.0, stay_s=1.5)
    assert measured.failed == []
    assert "peak" not in measured.misses(), measured
    assert measured.after is not None
    held = measured.after.rss_bytes + measured.after.shared_bytes
    assert held - measured.before.rss_bytes - measured.before.shared_bytes < LEFT_BYTES, measured


def test_connections_of_one_token_do_not_lock_the_admin_out() -> None:
    measured = measure("control", 1.0, rest_s=0.0, stay_s=1.0)
    assert measured.failed == []
    assert len(measured.status_s) > 3
