"""What users find interactively: names, help, representations."""

import ast
import inspect
import pydoc

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Job

#: names that the components of an application use among themselves
INTERNAL = ("ship", "pack", "fail", "new_future", "task_noted", "task_wrote", "task_started", "tasks_ended", "has_left")


def test_the_package_offers_what_it_documents_and_nothing_that_it_uses() -> None:
    offered = {name for name in dir(concurrent_nb) if not name.startswith("__")}
    assert offered == {*concurrent_nb.__all__, "load_ipython_extension", "unload_ipython_extension"}
    assert all(getattr(concurrent_nb, name) is not None for name in offered)
    assert "__version__" in dir(concurrent_nb)


def test_type_checkers_and_the_interpreter_find_the_same_names() -> None:
    (block,) = [node for node in ast.parse(inspect.getsource(concurrent_nb)).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module is not None and node.module.startswith("concurrent_nb.")]
    assert {one.asname: node.module for node in ours for one in node.names} == concurrent_nb._PUBLIC
    assert all(getattr(concurrent_nb, name).__name__ == name for name in concurrent_nb._PUBLIC)


@pytest.mark.parametrize("kind", [ApplicationNode, Job])
def test_help_of_a_class_has_no_internals(kind: type) -> None:
    members = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    assert not members.intersection(INTERNAL)
    assert all(inspect.getdoc(getattr(kind, name)) for name in members)


def test_help_of_task_explains_where_its_tasks_run() -> None:
    text = pydoc.render_doc(concurrent_nb.task)
    assert "The cluster is the notebook's" in text
    assert ".submit(3)" in text
