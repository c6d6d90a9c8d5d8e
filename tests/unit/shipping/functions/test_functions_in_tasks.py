"""Task functions as tasks get them."""

import pickle
from collections.abc import Callable

import pytest

from concurrent_nb import task_functions
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.common import nested
from concurrent_nb.shipping.functions.functions_in_tasks import METHODS, MethodInTask, restored
from concurrent_nb.shipping.serialization.references import is_constant


def made() -> Callable[[int], int]:
    """Make a function that belongs to no module, as those of a cell."""

    def double(number: int) -> int:
        return 2 * number

    double.__module__ = "__main__"
    return double


def test_a_function_of_a_cell_gets_methods_which_do_not_keep_it_from_being_pickled_once() -> None:
    function = restored(made())
    assert function(4) == 8
    for name in METHODS:
        method = getattr(function, name)
        assert isinstance(method, MethodInTask)
        assert is_constant(method)
        assert method.__reduce__() == (MethodInTask, (function, name))


def test_its_methods_use_the_application_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigurationError("no task runs")

    monkeypatch.setattr(nested, "application_of_task", refuse)
    function = restored(made())
    with pytest.raises(ConfigurationError, match="no task runs"):
        function.submit(1)
    again = function.options(retries=1)
    assert type(again) is task_functions.TaskFunction
    with pytest.raises(ConfigurationError, match="no task runs"):
        again.map([1])


def test_a_function_of_a_module_is_left_as_it_is() -> None:
    assert restored(pickle.dumps) is pickle.dumps


def test_a_program_without_a_cluster_has_no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_functions._CURRENT, "provider", None)
    monkeypatch.setattr(task_functions._CURRENT, "cluster", None)
    with pytest.raises(ConfigurationError, match=r"no cluster.*connect\(NAME\)"):
        task_functions.application()
