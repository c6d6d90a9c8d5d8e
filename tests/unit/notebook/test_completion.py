"""What TAB offers in a magic's line, and where it leaves IPython alone."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from concurrent_nb.errors import MasterUnreachable
from concurrent_nb.notebook import completion, magics
from concurrent_nb.notebook.completion import Offer, SlaveNames, offer_in_cell
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.notebook.cython_magics import CythonMagics
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.notebook.setup_magics import SetupMagics

PARSERS = {
    "%concurrent": cast(Any, ConcurrentMagics.concurrent).parser,
    "%%concurrent_task": cast(Any, ConcurrentMagics.concurrent_task).parser,
    "%%cython_task": cast(Any, CythonMagics.cython_task).parser,
    "%%concurrent_setup": cast(Any, SetupMagics.concurrent_setup).parser,
}
KNOWN = {
    "--batch": lambda: ["auto"],
    "--needs": lambda: ["cores=all", "cores=1"],
    "--out": lambda: ["alpha", "beta"],
    "--shared": lambda: ["alpha", "beta"],
    "kernel": lambda: ["host-1", "other"],
    "cancel": lambda: ["In[3]", "long search"],
}


def offered(cell: str) -> Offer | None:
    """Press TAB at the bar."""
    before, _, after = cell.partition("|")
    *above, line = before.split("\n")
    return offer_in_cell(PARSERS, before + after, len(above), len(line), KNOWN)


def names(cell: str) -> list[str]:
    found = offered(cell)
    assert found is not None
    return found.names


@pytest.mark.parametrize(
    ("cell", "fragment", "expected"),
    [
        ("%%concurrent_task --fo|", "--fo", ["--for"]),
        ("%%concurrent_task --for x --on|", "--on", ["--on-error"]),
        ("\n  %%concurrent_task --fo|\nx", "--fo", ["--for"]),
        ("%%concurrent_task --frob|", "--frob", []),
        ("%%concurrent_task frob|", "frob", []),
        ("%%concurrent_task --on-error |", "", ["stop", "keep"]),
        ("%%concurrent_task --strategy pu|", "pu", ["pull_round_robin", "push_best"]),
        ("%%concurrent_task --on-error k|", "k", ["keep"]),
        ("%%concurrent_task --needs |", "", ["cores=all", "cores=1"]),
        ("%%cython_task --needs cores=a|", "cores=a", ["cores=all"]),
        ("%%concurrent_task --view |", "", ["image", "search", "table"]),
        ("%%concurrent_task --view=s|", "s", ["search"]),
        ("%%concurrent_task --out |\nalpha", "", ["alpha", "beta"]),
        ('%%concurrent_task --for "n in range(3)" --shared be|', "be", ["beta"]),
        ("%%concurrent_task --retries |", "", []),
        ("%%concurrent_task --batch |", "", ["auto"]),
        ("%%concurrent_task --out --|", "--", []),
        ("%%concurrent_setup |", "", ["--name", "--no-block", "--show-capture"]),
        ("%%cython_task |", "", ["--openmp", "--needs", "--annotate", "--flags", "--name"]),
        ("%%cython_task --flags -O|", "-O", []),
        ("%concurrent st|", "st", ["start", "status", "stats", "stop"]),
        ("%concurrent start --|", "--", ["--workers", "--name", "--on", "--slaves", "--adapt"]),
        ("%concurrent start |", "", ["--workers", "--name", "--on", "--slaves", "--adapt"]),
        ("%concurrent start --workers 2 --|", "--", ["--name", "--on", "--slaves", "--adapt"]),
        ("%concurrent status |", "", []),
        ("%concurrent status --|", "--", []),
        ("%concurrent kernel |", "", ["host-1", "other"]),
        ("%concurrent kernel o|", "o", ["other"]),
        ("%concurrent kernel other |", "", []),
        ("%concurrent cancel |", "", ["In[3]", "'long search'"]),
        ("%concurrent cancel In[|", "In[", ["In[3]"]),
        ("x = 1\n  %concurrent sta|\ny = 2", "sta", ["start", "status", "stats"]),
        ("%%time\n%concurrent sta|", "sta", ["start", "status", "stats"]),
    ],
)
def test_what_fits_and_nothing_else(cell: str, fragment: str, expected: list[str]) -> None:
    assert offered(cell) == Offer(fragment, expected)


@pytest.mark.parametrize(
    "cell",
    [
        '%%concurrent_task --for "n in ra|',
        '%%concurrent_task --for "n in ra|" --out x',
        "%%concurrent_task --until 'res|",
        '%%concurrent_task --for "n in x"|',
        "%%concurrent_task --out x\nalp|",
        "%%concurrent_task --out x\n%concurrent st|",
        "%%concurrent_ta|",
        "%concurrent|",
        "x = 1\n%%concurrent_task --fo|",
        "%%time --fo|",
        "%timeit st|",
        "alp|",
        "|",
    ],
)
def test_what_is_ipython_s(cell: str) -> None:
    assert offered(cell) is None


def test_options_that_are_not_there_yet() -> None:
    found = names("%%concurrent_task --for x --shared a --view=table --| --out y")
    assert found[0] == "--until"
    assert {"--until", "--shared", "--name"} <= {*found}
    assert not {"--for", "--view", "--out"} & {*found}


def test_every_command_is_offered_and_no_option_before_there_is_one() -> None:
    assert names("%concurrent |") == [*magics._COMMANDS]


def test_the_command_that_takes_a_file_leaves_it_to_ipython() -> None:
    assert offered("%concurrent connect clu|") == Offer("clu", [], files=True)


def test_options_are_offered_to_the_commands_that_take_them() -> None:
    options = {action.dest for action in PARSERS["%concurrent"]._actions if action.option_strings}
    of_options = {option: magics._COMMANDS_OF_OPTIONS[option].split(" or ") for option in options}
    takers = {(command, f"--{option}") for option, commands in of_options.items() for command in commands}
    offers = completion.OPTIONS_OF_COMMANDS
    assert takers == {(command, option) for command, options in offers.items() for option in options}


class Master:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked = 0
        self.error: Exception | None = None

    def status(self) -> dict[str, Any]:
        self.asked += 1
        self.free.wait()
        if self.error is not None:
            raise self.error
        return {"slaves": [{"name": "one"}, {"name": "two"}]}


@pytest.fixture
def master() -> Iterator[Master]:
    master = Master()
    yield master
    master.free.set()


def cluster_of(app: object) -> CurrentCluster:
    return cast(CurrentCluster, SimpleNamespace(current_application=app))


def test_the_names_of_slaves(master: Master) -> None:
    master.free.set()
    assert SlaveNames(cluster_of(master), timeout_s=60)() == ["one", "two"]


def test_no_cluster_has_no_slaves_and_none_is_started() -> None:
    cluster = CurrentCluster()
    assert SlaveNames(cluster)() == []
    assert cluster.stop() == "there is no cluster to stop"


def test_a_slow_master_is_asked_once_and_not_awaited(master: Master) -> None:
    ask = SlaveNames(cluster_of(master), timeout_s=0.001)
    assert ask() == ask() == []
    assert master.asked == 1
    master.free.set()
    ask._timeout_s = 60
    assert ask() == ["one", "two"]


def test_a_master_that_is_gone_has_no_slaves(master: Master) -> None:
    master.error = MasterUnreachable("gone")
    master.free.set()
    assert SlaveNames(cluster_of(master), timeout_s=60)() == []
