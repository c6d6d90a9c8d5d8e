"""TAB in a real kernel: in the magics' lines only what may stand there, elsewhere what IPython has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_notebook import new_notebook
from tests.notebooks import Notebook
from tests.work import PATIENCE_S


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    for notebook in new_notebook(tmp_path_factory.mktemp("completion")):
        assert notebook.run("import math as alps\nalpha, alphabet = 1, 'x'").error is None
        assert notebook.run("%%concurrent_task --name 'long search'\n1").error is None
        yield notebook


def completed(notebook: Notebook, cell: str) -> list[str]:
    """Press TAB at the bar; return what the text before it can become."""
    before, _, after = cell.partition("|")
    reply = notebook.client.complete(before + after, len(before), reply=True, timeout=PATIENCE_S)
    content = reply["content"]
    assert content["cursor_end"] == len(before)
    return [before[: content["cursor_start"]] + match for match in content["matches"]]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%%concurrent_task --fo|", ["%%concurrent_task --for"]),
        ("%%concurrent_task --fo| --out x\nx", ["%%concurrent_task --for"]),
        ("%%concurrent_task --frob|", []),
        ("%%concurrent_task --retries |", []),
        ("%%concurrent_task --view |", [f"%%concurrent_task --view {view}" for view in ("image", "search", "table")]),
        ("%%concurrent_task --view=ta|", ["%%concurrent_task --view=table"]),
        ("%%concurrent_task --out alp|", ["%%concurrent_task --out alpha", "%%concurrent_task --out alphabet"]),
        ("%%concurrent_task --shared |", ["%%concurrent_task --shared alpha", "%%concurrent_task --shared alphabet"]),
        ("%%cython_task --o|", ["%%cython_task --openmp"]),
        (
            "%concurrent start --|",
            [f"%concurrent start --{option}" for option in ("workers", "name", "on", "slaves", "adapt")],
        ),
        (
            "x = 1\n%concurrent sta|",
            ["x = 1\n%concurrent start", "x = 1\n%concurrent status", "x = 1\n%concurrent stats"],
        ),
        ("%concurrent cancel lo|", ["%concurrent cancel 'long search'"]),
    ],
)
def test_only_what_may_stand_there(notebook: Notebook, cell: str, expected: list[str]) -> None:
    assert completed(notebook, cell) == expected


def test_all_options_and_no_other_name(notebook: Notebook) -> None:
    found = completed(notebook, "%%concurrent_task --|")
    assert found[:3] == [f"%%concurrent_task {option}" for option in ("--for", "--until", "--out")]
    assert len(found) == 19


def test_slaves_of_the_cluster(notebook: Notebook) -> None:
    slaves = notebook.run("%concurrent slaves").shown[0]["text/plain"].splitlines()
    names = [line.split()[1].rstrip(":") for line in slaves]
    assert len(names) == 1
    assert completed(notebook, "%concurrent kernel |") == [f"%concurrent kernel {names[0]}"]


def test_files_are_ipython_s(notebook: Notebook) -> None:
    assert completed(notebook, "%concurrent connect /et|") == ["%concurrent connect /etc/"]


@pytest.mark.parametrize("above", ["%%concurrent_task", '%%concurrent_task --for "n in range(3)"', "%%cython_task", ""])
def test_the_body_is_ipython_s(notebook: Notebook, above: str) -> None:
    found = completed(notebook, f"{above}\nalphab|")
    assert found == [f"{above}\nalphabet"]


def test_quotes_are_ipython_s(notebook: Notebook) -> None:
    assert "%%concurrent_task --for '/etc/" in completed(notebook, "%%concurrent_task --for '/et|")


def test_what_has_been_unloaded_completes_nothing_and_nothing_was_started(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    try:
        assert completed(notebook, "%concurrent kernel |") == []
        assert notebook.run("%concurrent status").text.startswith("no cluster: ")
        assert notebook.run("%unload_ext concurrent_nb").error is None
        assert "%%concurrent_task --for" not in completed(notebook, "%%concurrent_task --fo|")
    finally:
        notebook.close()
