"""Slaves move back to a host that was away: one after the other, and only when it answers."""

from concurrent_nb.nodes.launchers.place import SshHost
from concurrent_nb.nodes.launchers.ssh_balance import TRY_S, SshBalance

A, B = SshHost("a", None), SshHost("b", None)


def test_hosts_with_as_many_slaves_or_one_fewer_are_left_alone() -> None:
    balance = SshBalance()
    for slaves in ({}, {"1": A}, {"1": A, "2": B}, {"1": A, "2": B, "3": A}):
        for now in (0.0, 10 * TRY_S):
            assert balance.hosts_to_try([A, B], slaves, now) == []
        balance.is_back(B, slaves)
        assert balance.misplaced(slaves) == []


def test_a_host_that_lacks_slaves_is_tried_from_time_to_time() -> None:
    balance, slaves = SshBalance(), {"1": A, "2": A}
    tried = [now for now in range(200) if balance.hosts_to_try([A, B], slaves, float(now)) == [B]]
    assert tried == [TRY_S * n for n in range(1, 7)]


def test_slaves_move_one_after_the_other_until_hosts_have_as_many() -> None:
    balance = SshBalance()
    slaves = {"1": A, "2": A, "3": A, "4": A}
    balance.is_back(B, slaves)
    for _ in range(3):  # the next one waits until another slave was started for the first one
        balance.is_back(B, slaves)
        assert balance.misplaced(slaves) == ["1"]
    slaves["5"] = B
    balance.launched()
    balance.is_back(B, slaves)
    assert balance.misplaced(slaves) == ["1", "2"]
    slaves["6"] = B
    balance.launched()
    del slaves["1"]  # it has left
    balance.is_back(B, slaves)
    assert balance.misplaced(slaves) == ["2"]


def test_a_slave_that_ends_while_it_is_to_move_holds_up_no_other() -> None:
    balance = SshBalance()
    slaves = {"1": A, "2": A, "3": A}
    balance.is_back(B, slaves)
    assert balance.misplaced(slaves) == ["1"]
    del slaves["1"]
    assert balance.misplaced(slaves) == []
    balance.is_back(B, slaves)
    assert balance.misplaced(slaves) == ["2"]
