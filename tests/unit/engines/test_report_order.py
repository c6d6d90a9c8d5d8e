"""Reports of a group are handled in order; one that is lost holds the others up for a while."""

from concurrent_nb.engines.group_messages import HostReport
from concurrent_nb.engines.report_order import LATE_S, Reported, ReportOrder


def report(serial: int, *, number: int = 1, run: bytes = b"a", is_last: bool = False) -> HostReport:
    return HostReport(number, run, serial, b"host", is_last)


def serials(found: list[Reported]) -> list[int]:
    return [each.serial for each, _ in found]


def test_they_are_handled_in_order() -> None:
    order = ReportOrder()
    assert serials(order.add(report(0), [])) == [0]
    assert serials(order.add(report(2, is_last=True), [])) == []
    assert order.due_at is not None
    assert serials(order.add(report(1), [])) == [1, 2]
    assert order.due_at is None


def test_a_lost_one_is_waited_for_and_then_left_out() -> None:
    order = ReportOrder()
    order.overdue(100.0)
    order.add(report(3, is_last=True), [])
    assert order.overdue(100.0 + LATE_S - 0.1) == []
    assert serials(order.overdue(100.0 + LATE_S)) == [3]
    assert order.due_at is None


def test_one_that_comes_after_it_was_left_out_holds_up_no_other() -> None:
    order = ReportOrder()
    order.add(report(1), [])
    assert serials(order.overdue(LATE_S)) == [1]
    assert serials(order.add(report(0), [])) == [0]
    assert serials(order.add(report(2), [])) == [2]
    assert order.due_at is None


def test_each_run_of_a_group_counts_for_itself() -> None:
    order = ReportOrder()
    assert serials(order.add(report(0), [])) == [0]
    assert serials(order.add(report(0, run=b"b"), [])) == [0]
    assert serials(order.add(report(1, run=b"b", is_last=True), [])) == [1]
    assert order.due_at is None
