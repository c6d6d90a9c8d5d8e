"""What TAB offers after a magic's name."""

import pytest

from concurrent_nb.notebook.completion import candidates
from concurrent_nb.notebook.magics import ConcurrentMagics


def offered(magic: object, line: str, symbol: str) -> list[str]:
    return candidates(magic.parser, line, symbol)  # type: ignore[attr-defined]


def test_options_that_are_not_there_yet() -> None:
    found = offered(ConcurrentMagics.concurrent_task, "%%concurrent_task --for x --", "--")
    assert {"--until", "--out", "--shared", "--view"} <= set(found)
    assert "--for" not in found


@pytest.mark.parametrize("symbol", ["", "k"])
def test_values_of_an_option_that_has_a_few(symbol: str) -> None:
    line = f"%%concurrent_task --on-error {symbol}"
    assert offered(ConcurrentMagics.concurrent_task, line, symbol) == ["stop", "keep"]


def test_commands_come_first_and_once() -> None:
    found = offered(ConcurrentMagics.concurrent, "%concurrent s", "s")
    assert found[:3] == ["start", "connect", "stop"]
    assert "start" not in offered(ConcurrentMagics.concurrent, "%concurrent start --", "--")
