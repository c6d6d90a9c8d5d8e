"""The examples in the docstrings of the public names run as they stand, against one small cluster.

They run in a process of their own, as a script: some of them change settings of the whole process.
"""

import doctest
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import concurrent_nb
from concurrent_nb import Cluster, task_functions
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.task_options import BoundOptions
from concurrent_nb.nodes.application.worker_setups import EverywhereCall
from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[2]
#: objects that public functions return
RETURNED = (BoundOptions, EverywhereCall, KeptFuture)


def documented() -> Iterator[doctest.DocTest]:
    """Find the docstrings of the public names and of their methods."""
    finder = doctest.DocTestFinder(exclude_empty=False)
    for name in concurrent_nb.__all__:
        yield from finder.find(getattr(concurrent_nb, name), name, globs={})
    for kind in RETURNED:
        yield from finder.find(kind, kind.__name__, globs={})


@pytest.mark.parametrize("name", concurrent_nb.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    docstring = getattr(concurrent_nb, name).__doc__
    examples = doctest.DocTestParser().get_examples(docstring)
    assert examples
    assert not any(doctest.SKIP in example.options for example in examples)


def test_the_examples_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.test_docstrings"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tried = int(ran.stdout.split()[-1])
    assert tried > 2 * len(concurrent_nb.__all__)


def main() -> int:
    """Run the examples; print what fails, and how many were tried."""
    runner = doctest.DocTestRunner(verbose=False)
    with Cluster(workers=2) as cluster:
        task_functions.use(cluster.application)
        for case in documented():
            case.globs = {
                "__name__": "__main__",
                "app": cluster.application(),
                "concurrent_nb": concurrent_nb,
                "os": os,
            }
            runner.run(case, clear_globs=False)  # `follow` calls a function of an example later
    sys.stdout.write(f"{runner.summarize(verbose=False).attempted}\n")
    return 1 if runner.failures else 0


if __name__ == "__main__":
    sys.exit(main())
