"""Whether the end of a kernel is a restart."""

from types import SimpleNamespace
from typing import Any

import pytest

from concurrent_nb.notebook import kernel_end


@pytest.mark.parametrize(
    ("shell", "restarts"),
    [
        (None, False),  # no notebook
        (SimpleNamespace(), False),  # a terminal
        (SimpleNamespace(kernel=SimpleNamespace(_shutdown_message=None)), False),  # the process was asked to end
        (SimpleNamespace(kernel=SimpleNamespace(_shutdown_message={"content": {"restart": False}})), False),
        (SimpleNamespace(kernel=SimpleNamespace(_shutdown_message={"content": {"restart": True}})), True),
    ],
)
def test_only_a_shutdown_that_says_so_is_a_restart(monkeypatch: pytest.MonkeyPatch, shell: Any, restarts: bool) -> None:
    monkeypatch.setattr(kernel_end, "get_ipython", lambda: shell)
    assert kernel_end.is_restarting() is restarts
