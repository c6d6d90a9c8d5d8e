"""The recipes for batch systems in docs/clusters.md: they are accepted, and no two slaves of a user have one name."""

import re

import pytest

from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from tests.launcher_recipes import RECIPES, SCRIPT, options_of

#: options by which a system names a job, and the word behind them
NAMED = re.compile(r"(?:-J|-N|--name|-batch-name|kubectl run) (\S+)|JobBatchName==\"([^\"]+)\"")


def test_each_system_has_a_recipe() -> None:
    assert [system for system, _, _ in RECIPES] == ["MPI", "PBS", "LSF", "HTCondor", "Kubernetes"]
    assert SCRIPT is not None


@pytest.mark.parametrize(("system", "on", "others"), RECIPES)
def test_a_recipe_is_accepted(monkeypatch: pytest.MonkeyPatch, system: str, on: str, others: str) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    make_launcher(choose_launcher(on), options_of(on, others)).check()


@pytest.mark.parametrize(("system", "on", "others"), RECIPES)
def test_the_jobs_of_a_recipe_are_named_as_their_slaves(system: str, on: str, others: str) -> None:
    """A name that two clusters of a user shared would end the slaves of both."""
    names = [(first or second).strip('"`') for first, second in NAMED.findall(on + others.replace("\\", ""))]
    assert set(names) <= {"{name}"}
    assert names or system in ("MPI", "PBS")
