"""What is built of a cell: its name follows from all that it is made of, and its settings are checked."""

import dataclasses

import pytest

from concurrent_nb.errors import CellError, ConfigurationError
from concurrent_nb.shipping.compiled.recipe import MODULE, Recipe, check_settings, names_of

RECIPE = Recipe("def f(): pass\n", ("-O2",), False, "3.1.0")


def test_the_name_of_the_module_follows_from_all_that_it_is_made_of() -> None:
    names = {
        RECIPE.module,
        dataclasses.replace(RECIPE, source="def f(): pass").module,
        dataclasses.replace(RECIPE, flags=("-O3",)).module,
        dataclasses.replace(RECIPE, openmp=True).module,
        dataclasses.replace(RECIPE, cython="3.1.1").module,
    }
    assert len(names) == 5
    assert all(MODULE.fullmatch(name) for name in names)
    assert dataclasses.replace(RECIPE).module == RECIPE.module


def test_lines_are_numbered_as_in_the_cell_with_its_magic() -> None:
    assert RECIPE.pyx.split("\n")[1] == "def f(): pass"


def test_a_recipe_is_checked_wherever_it_is_made() -> None:
    with pytest.raises(ConfigurationError):
        dataclasses.replace(RECIPE, flags=("-fplugin=x",))
    with pytest.raises(CellError):
        dataclasses.replace(RECIPE, source="# distutils: sources = x.c\n")


def test_directives_are_honoured_and_cplusplus_is_recognised() -> None:
    assert not check_settings(
        "\n# cython: boundscheck=False, warn.unused=True\n#cython:cdivision = True\ndef f(): pass"
    )
    assert check_settings("# distutils: language = c++\ndef f(): pass")
    assert not check_settings('def f(): pass\n# distutils: language = c++\n"# cython: no=1"')


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("# cython: control_flow.dot_output=/tmp/x", "control_flow.dot_output"),
        ("# cython: boundscheck=False, set_initial_path=/tmp", "set_initial_path"),
        ("# cython: test_assert_c_code_has=x", "test_assert_c_code_has"),
        ("# distutils: extra_compile_args=-fplugin=x", "distutils"),
        ("# distutils: include_dirs = /tmp", "distutils"),
        ("# distutils: libraries = curl", "distutils"),
    ],
)
def test_settings_that_touch_files_or_programs_are_refused_with_their_line(line: str, name: str) -> None:
    with pytest.raises(CellError) as caught:
        check_settings(f"\n{line}\ndef f(): pass")
    assert "line 3: " in str(caught.value)
    assert name in str(caught.value)


def test_a_name_that_is_defined_twice_is_refused() -> None:
    assert names_of([("f", 2), ("g", 5)]) == ("f", "g")
    with pytest.raises(CellError, match="f is defined twice, in line 2 and in line 7"):
        names_of([("f", 2), ("g", 5), ("f", 7)])
