"""Unit tests use a clock that they control, so none of them waits for the real one."""

import re
from pathlib import Path

HERE = Path(__file__)
#: written so that this file does not contain what it forbids
FORBIDDEN = re.compile(r"\bsleep" + r"\(")


def test_unit_tests_do_not_sleep() -> None:
    sleepers = [
        f"{path.relative_to(HERE.parent)}:{number}"
        for path in sorted(HERE.parent.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not sleepers, f"sleep called in {', '.join(sleepers)}: take a clock, or move the test to tests/integration"
