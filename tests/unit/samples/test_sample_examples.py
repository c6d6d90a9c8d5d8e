"""The examples in the docstrings of the samples run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

from concurrent_nb import samples

MODULES = [each.name for each in pkgutil.walk_packages(samples.__path__, f"{samples.__name__}.") if not each.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")}).failed == 0


def test_there_are_examples() -> None:
    found = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES]
    assert sum(bool(each.examples) for tests in found for each in tests) >= 5
