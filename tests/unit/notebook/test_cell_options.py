"""The options of a cell: their types and defaults, and which of them exclude each other."""

from typing import Any

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.notebook.cell_options import CellOptions, cell_options
from concurrent_nb.notebook.magic_options import parse
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.wire.messages import Needs


def options_of(line: str) -> CellOptions:
    return cell_options(parse(ConcurrentMagics.concurrent_task, line))


def test_a_task_has_defaults() -> None:
    assert options_of("") == CellOptions()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--local --no-block", "--no-block in the background"),
        ("--keep --local", "does not go with --local"),
        ("--keep --batch 3", "does not go with --batch"),
        ("--keep --until x", "does not go with --until"),
        ("--detach --no-block", "does not go with --no-block"),
        ("--detach --keep", "does not go with --keep"),
        ("--detach --batch 3", "does not go with --batch"),
        ("--detach --local", "does not go with --local"),
        ("--size 3x4", "needs --view image"),
        ("--size 3x4 --view table", "needs --view image"),
        ("--sort value --view image", "needs --view table"),
    ],
)
def test_options_that_contradict_each_other_are_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        options_of(line)


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ('--for "n in range(3)"', "--for"),
        ("--no-block", "--no-block"),
        ("--retries 2", "--retries"),
        ("--shared data --strategy stealing", "--shared"),
    ],
)
def test_options_of_tasks_are_refused_for_definitions(line: str, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option}: the cell only defines functions.* that calls area$"):
        options_of(line).check_for_definitions("area")


def test_options_of_functions_are_allowed_for_definitions() -> None:
    options_of("--needs cores=2 --name mine").check_for_definitions("area")


@pytest.mark.parametrize(
    ("options", "without_effect"),
    [
        ({}, []),
        ({"retries": 3, "on_error": "keep"}, []),
        ({"needs": Needs(2), "timeout_s": 1.0}, ["--timeout", "--needs"]),
        ({"batch": "auto", "strategy": "stealing"}, ["--strategy", "--batch"]),
    ],
)
def test_options_that_need_a_cluster_have_no_effect_with_local(
    options: dict[str, Any], without_effect: list[str]
) -> None:
    assert CellOptions(local=True, **options).without_effect() == without_effect
