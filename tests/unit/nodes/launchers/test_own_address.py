"""Which hosts reach a master that listens on loopback."""

import psutil
import pytest

from concurrent_nb.nodes.launchers.own_address import why_out_of_reach


def test_this_machine_does_by_whatever_address() -> None:
    ours = {each.address for all_of in psutil.net_if_addrs().values() for each in all_of}
    for host in {*ours, "127.0.0.3", "::1", "localhost"}:
        assert why_out_of_reach(host) == ""


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7"])
def test_another_machine_does_not(host: str) -> None:
    assert "it is on another machine" in why_out_of_reach(host)
