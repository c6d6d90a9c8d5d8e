from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.measured_reports import JOBS_MAX, OTHERS_KEPT, REPORT_S, MeasuredReports
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry
from concurrent_nb.wire.messages import VALUES_MAX, MeasuredValue


def job(number: int) -> JobId:
    return JobId(number.to_bytes(16, "big"))


def registry(*values: float, name: str = "rows") -> StatisticRegistry:
    made = StatisticRegistry()
    for value in values:
        made.add(name, value)
    return made


def test_a_change_is_reported_at_once_and_then_every_few_seconds() -> None:
    reports = MeasuredReports()
    assert not reports.is_due(100.0)
    rows = registry(10.0, 30.0)
    reports.changed(job(1), rows)
    assert reports.is_due(100.0)
    ((which, (value,)),) = reports.take(100.0)
    assert which == job(1)
    assert (value.name, value.count, value.total, value.minimum, value.maximum) == ("rows", 2, 40.0, 10.0, 30.0)
    rows.add("rows", 50.0)
    reports.changed(job(1), rows)
    assert not reports.is_due(100.0 + REPORT_S / 2)
    assert reports.is_due(100.0 + REPORT_S)
    ((_, (value,)),) = reports.take(100.0 + REPORT_S)
    assert value.total == 90.0, "all values so far"
    assert not reports.is_due(200.0), "nothing has changed"


def test_a_report_is_bounded_and_what_is_left_comes_later() -> None:
    reports = MeasuredReports()
    many = StatisticRegistry()
    for number in range(VALUES_MAX + 5):
        many.add(f"value {number}", 1.0)
    for number in range(JOBS_MAX + 3):
        reports.changed(job(number), many)
    first = reports.take(0.0)
    assert len(first) == JOBS_MAX
    assert {len(values) for _, values in first} == {VALUES_MAX}
    assert [which for which, _ in reports.take(REPORT_S)] == [job(number) for number in range(JOBS_MAX, JOBS_MAX + 3)]


def test_jobs_that_keep_no_statistics_have_some_here_for_a_while() -> None:
    reports = MeasuredReports()
    first = reports.of_other(job(0))
    assert reports.of_other(job(0)) is first
    for number in range(1, OTHERS_KEPT + 1):
        reports.of_other(job(number))
    assert reports.of_other(job(0)) is not first
    assert len(reports._others) == OTHERS_KEPT


def test_a_summary_is_a_record_of_the_message() -> None:
    reports = MeasuredReports()
    reports.changed(job(1), registry(5.0))
    ((_, (value,)),) = reports.take(0.0)
    assert value == MeasuredValue("rows", 1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)
