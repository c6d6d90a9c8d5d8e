"""Which ends of a master are deaths, and how many of them are too many."""

import signal

import pytest

from concurrent_nb.nodes.common.exit_codes import REFUSED
from concurrent_nb.nodes.master_restarts import MasterEnd, MasterRestarts
from concurrent_nb.restart_limit import RestartLimit

KILLED = -signal.SIGKILL


def test_one_that_was_asked_to_end_or_is_refused_is_not_started_again() -> None:
    restarts = MasterRestarts(RestartLimit(4, 30.0))
    assert restarts.ended(0, 0.0) is MasterEnd.STOPPED
    assert restarts.ended(REFUSED, 0.0) is MasterEnd.REFUSED


@pytest.mark.parametrize("code", [KILLED, -signal.SIGSEGV, 1])
def test_one_that_has_died_is_started_again_but_not_for_ever(code: int) -> None:
    restarts = MasterRestarts(RestartLimit(4, 30.0))
    assert [restarts.ended(code, float(second)) for second in range(4)] == [MasterEnd.AGAIN] * 4
    assert restarts.ended(code, 4.0) is MasterEnd.TOO_OFTEN


def test_deaths_that_are_rare_are_never_too_many() -> None:
    restarts = MasterRestarts(RestartLimit(4, 30.0))
    assert {restarts.ended(KILLED, 10.0 * number) for number in range(100)} == {MasterEnd.AGAIN}
