import os

from concurrent_nb.nodes.common.start_report import CONFIGURED, JOINED, StartReport, StartReporter


def test_the_owner_reads_how_far_a_start_has_come() -> None:
    ours, nodes = os.pipe()
    report, reporter = StartReport(ours), StartReporter(nodes)
    assert not report.wait(CONFIGURED, 0)
    reporter.reached(CONFIGURED)
    assert report.wait(CONFIGURED, 0)
    assert (report.has(CONFIGURED), report.has(JOINED)) == (True, False)
    assert not report.wait(JOINED, 0)
    reporter.reached(JOINED)
    reporter.reached(JOINED)  # after a reconnect
    assert report.wait(JOINED, 0)
    assert report.has(JOINED)
    report.close()


def test_a_node_that_ends_is_not_awaited() -> None:
    ours, nodes = os.pipe()
    report = StartReport(ours)
    os.close(nodes)
    assert report.wait(JOINED, 60)
    assert not report.has(JOINED)


def test_an_owner_that_has_gone_does_no_harm_and_none_is_needed() -> None:
    ours, nodes = os.pipe()
    os.close(ours)
    reporter = StartReporter(nodes)
    reporter.reached(CONFIGURED)
    reporter.reached(JOINED)
    StartReporter(None).reached(JOINED)
