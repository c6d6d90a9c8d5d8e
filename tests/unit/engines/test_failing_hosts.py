"""One bad worker of an engine costs pauses, and only an engine without a good one is lost."""

from concurrent_nb.engines.failing_hosts import PAUSES_S, FailingHosts


def test_no_group_is_sent_for_a_while_after_a_failure() -> None:
    hosts = FailingHosts()
    assert hosts.may_send(0.0)
    hosts.failed(10.0)
    assert not hosts.may_send(10.0 + PAUSES_S[0] / 2)
    assert hosts.due_at == 10.0 + PAUSES_S[0]
    assert hosts.may_send(10.0 + PAUSES_S[0])


def test_failures_of_groups_that_were_sent_together_count_once() -> None:
    hosts = FailingHosts()
    for _ in range(100):
        hosts.failed(10.0)
    assert not hosts.is_hopeless
    assert hosts.due_at == 10.0 + PAUSES_S[0]


def test_an_engine_of_which_no_host_works_is_hopeless() -> None:
    hosts, now = FailingHosts(), 10.0
    for pause_s in PAUSES_S:
        hosts.failed(now)
        assert not hosts.is_hopeless
        now += pause_s
    hosts.failed(now)
    assert hosts.is_hopeless


def test_a_host_that_works_ends_the_pause() -> None:
    hosts, now = FailingHosts(), 10.0
    for _ in range(100):
        hosts.failed(now)
        hosts.worked()
        assert hosts.may_send(now)
        now += 1.0
    assert not hosts.is_hopeless
    assert hosts.due_at is None
