"""What users find interactively: names, help, representations."""

import inspect
import pydoc

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Job

#: names that the parts of an application use among themselves
INTERNAL = ("ship", "pack", "fail", "future_of", "task_said", "task_wrote", "task_started", "tasks_ended", "has_left")


def test_the_package_offers_what_it_documents_and_nothing_that_it_uses() -> None:
    offered = {name for name in dir(concurrent_nb) if not name.startswith("__")}
    assert offered == {*concurrent_nb.__all__, "load_ipython_extension", "unload_ipython_extension"}
    assert all(getattr(concurrent_nb, name) is not None for name in offered)
    assert "__version__" in dir(concurrent_nb)


@pytest.mark.parametrize("kind", [ApplicationNode, Job])
def test_help_of_a_class_has_no_internals(kind: type) -> None:
    members = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    assert not members.intersection(INTERNAL)
    assert all(inspect.getdoc(getattr(kind, name)) for name in members)


def test_help_of_task_explains_where_its_tasks_run() -> None:
    text = pydoc.render_doc(concurrent_nb.task)
    assert "The cluster is the notebook's" in text
    assert ".submit(3)" in text
