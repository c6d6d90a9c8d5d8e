"""constraints.txt: the versions that `make` installs, and how the file is written."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "constraints.txt").read_text()
PYTHONS = [(3, 11), (3, 12), (3, 13)]


@pytest.fixture(scope="module")
def constraints() -> ModuleType:
    spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci" / "constraints.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_has_only_names_and_versions() -> None:
    for line in TEXT.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[a-z0-9-]+==[\w.!+-]+( ; python_version [<>]=? "3\.\d+"( and [^;]*)?)?', line), line


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_version_that_satisfies_it(python: tuple[int, int], constraints: ModuleType) -> None:
    chosen = constraints.read(TEXT, python)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        if name != "concurrent-nb":
            assert requirement.specifier.contains(chosen[name]), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_versions_for_a_python_are_read_as_they_were_written(python: tuple[int, int], constraints: ModuleType) -> None:
    versions: dict[str, dict[tuple[int, int], str]] = {}
    for each in PYTHONS:
        constraints.add(versions, each, constraints.read(TEXT, each))
    written = "\n".join(line for name in sorted(versions) for line in constraints.lines(name, versions[name]))
    assert written == "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    assert constraints.read(written, python) == {
        name: each[python] for name, each in versions.items() if python in each
    }


@pytest.mark.parametrize(
    ("versions", "written"),
    [
        ({(3, 11): "1", (3, 12): "1", (3, 13): "1"}, ["a==1"]),
        ({(3, 12): "1"}, ["a==1"]),
        (
            {(3, 11): "1", (3, 12): "2", (3, 13): "2"},
            ['a==1 ; python_version < "3.12"', 'a==2 ; python_version >= "3.12"'],
        ),
        (
            {(3, 11): "1", (3, 12): "2", (3, 13): "1"},
            [
                'a==1 ; python_version < "3.12"',
                'a==2 ; python_version >= "3.12" and python_version < "3.13"',
                'a==1 ; python_version >= "3.13"',
            ],
        ),
    ],
)
def test_a_package_has_a_line_for_each_run_of_pythons(
    versions: dict[tuple[int, int], str], written: list[str], constraints: ModuleType
) -> None:
    assert list(constraints.lines("a", versions)) == written
    for python, version in versions.items():
        assert constraints.read("\n".join(written), python) == {"a": version}
