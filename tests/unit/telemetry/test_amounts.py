"""Amounts are written in three digits, names as one line without tricks."""

import pytest

from concurrent_nb.telemetry.amounts import bytes_text, seconds_text, visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 us"),
        (12e-6, "12 us"),
        (0.00123, "1.23 ms"),
        (0.99, "990 ms"),
        (1, "1 s"),
        (119, "119 s"),
        (600, "10 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_long_times() -> None:
    assert seconds_text(36_000) == "10 h"
    assert seconds_text(36_000_000) == "10,000 h"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (30_100_000, "30.1 MB"), (5e12, "5 TB")]
)
def test_bytes(size: float, text: str) -> None:
    assert bytes_text(size) == text


def test_a_name_is_one_line_without_tricks() -> None:
    assert visible("a\nb\x1b[31m\u202ec") == "a\ufffdb\ufffd[31m\ufffdc"
    assert len(visible("x" * 1000)) == 60
