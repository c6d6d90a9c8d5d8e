"""Modules that were sent: which code of them runs."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from concurrent_nb.shipping.environment import loader
from concurrent_nb.shipping.environment.loader import ModuleFinder, ModuleSet
from concurrent_nb.shipping.environment.modules import ModuleSource

NAME = "loader_example"
TEXTS = [f"ANSWER = {n}\n".encode() for n in (1, 2)]


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleFinder]:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    finder = ModuleFinder()
    before = finder.current  # with the modules of the tests, while another set is the current one
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    yield finder
    finder.enter(before)
    sys.modules.pop(NAME, None)


def answer(finder: ModuleFinder, file: Path, text: bytes) -> int:
    """Give the answer of the module of this text, as a worker runs it."""
    finder.enter(ModuleSet([ModuleSource(NAME, str(file), None, text)]))
    module = __import__(NAME)
    value = module.ANSWER
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("age_s", [0, 1])
def test_a_file_that_changed_twice_within_a_second_runs_as_it_was_sent(
    finder: ModuleFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: int
) -> None:
    monkeypatch.setattr(loader, "SETTLED_S", 60.0)  # a busy machine may take seconds for the two changes
    file = tmp_path / f"{NAME}.py"
    at = int(time.time()) - age_s
    for text, expected in zip(TEXTS, (1, 2), strict=True):
        file.write_bytes(text)
        os.utime(file, (at, at))
        assert answer(finder, file, text) == expected


def test_code_of_a_file_that_has_not_changed_lately_is_cached(finder: ModuleFinder, tmp_path: Path) -> None:
    file = tmp_path / f"{NAME}.py"
    file.write_bytes(TEXTS[0])
    long_ago = time.time() - 60
    os.utime(file, (long_ago, long_ago))
    assert answer(finder, file, TEXTS[0]) == 1
    assert list(tmp_path.glob("__pycache__/*.pyc"))


def test_a_text_that_no_file_here_has_runs_as_it_was_sent(finder: ModuleFinder, tmp_path: Path) -> None:
    file = tmp_path / f"{NAME}.py"
    assert answer(finder, file, TEXTS[1]) == 2
    file.write_bytes(TEXTS[0])
    assert answer(finder, file, TEXTS[1]) == 2
    assert not list(tmp_path.glob("__pycache__/*.pyc"))
