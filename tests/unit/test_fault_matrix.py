"""tests/README.md has every fault of the matrix, with tests that exist, or with a reason."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| (F\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"\b((?:unit|contract|integration|browser)/[\w/]+\.py)::(test_\w+)")
ROWS = ROW.findall((TESTS / "README.md").read_text(encoding="utf-8"))


def test_every_fault_is_there_once() -> None:
    assert [number for number, _, _ in ROWS] == [f"F{number}" for number in range(1, 31)]


@pytest.mark.parametrize(("number", "what", "proof"), ROWS, ids=[row[0] for row in ROWS])
def test_its_tests_exist_or_there_is_a_reason(number: str, what: str, proof: str) -> None:
    named = TEST.findall(proof)
    for file, test in named:
        assert re.search(rf"^def {test}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), (file, test)
    assert named or re.search(r"\bneeds the journal\b|\bis not built\b", proof), what
