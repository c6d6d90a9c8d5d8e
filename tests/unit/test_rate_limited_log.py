"""A limit of log lines."""

from concurrent_nb.rate_limited_log import LineLimit


def test_lines_over_a_limit_are_counted() -> None:
    limit = LineLimit(3, within_s=10.0)
    assert [limit.admits(0.1 * n) for n in range(6)] == [True] * 3 + [False] * 3
    assert limit.admits(10.1)
    assert limit.take_left_out() == 3
    assert limit.take_left_out() == 0
