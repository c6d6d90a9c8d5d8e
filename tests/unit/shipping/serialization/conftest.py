"""The module `__main__` of a test module."""

import types
from collections.abc import Iterator

import pytest

from tests.unit.shipping.serialization.main_module import main_module


@pytest.fixture(scope="module")
def main(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """The source in the test module's `SOURCE`, as the module `__main__`."""
    with main_module(request.module.SOURCE) as module:
        yield module
