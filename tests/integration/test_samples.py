"""`concurrent-nb run`: the samples, each of them in each of its ways, as people start them."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator

import pytest

from concurrent_nb import Cluster
from tests.clusters import command, nothing_left_but_workers, run, shared_cluster, status_of
from tests.work import PATIENCE_S

SMALL = {
    "arena": ["--robots", "5", "--rounds", "2", "--size", "3", "--turns", "60"],
    "dna-curvature": ["--repeats", "13", "--factor", "30"],
    "dna-coordinates": ["--repeats", "13", "--factor", "30"],
    "dna-naive": ["--repeats", "2", "--factor", "5"],
    "islands": ["--dimensions", "3", "--islands", "3", "--epochs", "2", "--generations", "2", "--size", "8"],
    "pca": ["--rows", "2000", "--columns", "6", "--block-rows", "300", "--method", "randomised", "--components", "2"],
    "md5": ["--end", "20000", "--number", "17000", "--num-tasks", "16"],
    "mandelbrot": ["--width", "50", "--height", "20", "--factor", "7"],
    "expensive": ["--time_per_task", "0.01", "--num_tasks", "5"],
    "pi": ["--terms", "10000", "--num-tasks", "9"],
}
WAYS = ("system", "all-at-once", "one-by-one")
#: samples that have fewer ways, or are run in fewer here
FEWER_WAYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dna-coordinates", "dna-naive", "pca"), ("system",)),
    **dict.fromkeys(("arena", "dna-curvature"), ("system", "all-at-once")),
    "islands": ("world", "system"),
}
#: a sample's last line, without the seconds
REPORTS = {
    "arena": "5 robots, 4 matches in 2 rounds",
    "dna-curvature": "130 nucleotides, model trifonov, in 5 tasks",
    "dna-coordinates": "130 nucleotides, model trifonov, in 10 tasks",
    "dna-naive": r"4 tasks, 0\.000 GB of results",
    "islands": "3 islands of 8, 2 epochs of 2 generations",
    "pca": "2000 rows of 6 columns in 7 blocks, randomised",
    "md5": "found 17000: it has the MD5 hash",
    "mandelbrot": r"50 x 20 pixels, \d+ of them in the set",
    "expensive": r"expected 0\.05 s, actual",
    "pi": r"pi is about 3\.1414",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with shared_cluster(name="samples") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def leaves_nothing_behind(running: Cluster) -> Iterator[None]:
    """Do as for every test, but know that a worker may die of being stopped, and is replaced."""
    with nothing_left_but_workers(running):
        yield


@pytest.fixture
def cluster(running: Cluster) -> str:
    """The name of a cluster to run samples on."""
    return running.name


def report_of(*arguments: str) -> str:
    """Run a sample, and return its report."""
    ended = run("run", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d+ s|\d+ %", "...", text)


@pytest.mark.parametrize("name", SMALL)
def test_a_sample_has_the_same_result_in_each_way(name: str, cluster: str) -> None:
    reports = {
        way: report_of(name, "--connect", cluster, "--as", way, *SMALL[name]) for way in FEWER_WAYS.get(name, WAYS)
    }
    assert re.match(REPORTS[name], reports["system"].splitlines()[-1])
    assert len({without_seconds(each) for each in reports.values()}) == 1


def test_the_default_is_a_system_and_the_thesis_s_options_are_the_other_ways(cluster: str) -> None:
    before = status_of(cluster)["tasks"]["jobs"]
    small = ["--connect", cluster, *SMALL["pi"]]
    reports = {report_of("pi", *small, *way) for way in ([], ["--task_batch"], ["--no-task-batch"], ["--task-batch"])}
    assert len({without_seconds(each) for each in reports}) == 1
    assert status_of(cluster)["tasks"]["jobs"] == before


def test_lazy_and_optimised_tasks_print_the_same_picture(cluster: str) -> None:
    small = ["--connect", cluster, "--width", "50", "--height", "20"]
    optimised = ["--use_optimized_task", "--factor", "1"]
    lazy = [["--no-use-optimized-task", "--factor", "7"], ["--MandelbrotSample.use_optimized_task=False"]]
    pictures = {without_seconds(report_of("mandlebrot", *small, *kind)) for kind in (optimised, *lazy)}
    assert len(pictures) == 1
    assert pictures.pop().count("\n") == 21


def test_without_a_cluster_it_starts_one_and_leaves_nothing() -> None:
    reports = report_of("md5", "--workers", "1", "--MasterNode.strategy=PushBest", *SMALL["md5"])
    assert reports.startswith("found 17000")
    refused = run("run", "md5", "--MasterNode.strategy=Fair")
    assert refused.returncode == 1
    assert "choose one of PullRoundRobin" in refused.stderr
    assert report_of("md5", "--as", "all-at-once", "--workers", "1", "--number", "21000", *SMALL["md5"][:2]).startswith(
        "no number from 1 to 20000 has the MD5 hash"
    )


def test_progress_is_a_line_of_the_terminal_that_is_gone_in_the_end(cluster: str) -> None:
    ours, theirs = pty.openpty()
    arguments = command("run", "expensive", "--connect", cluster, "--as", "all-at-once", *SMALL["expensive"])
    environment = {**os.environ, "COLUMNS": "80"}
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 1000)
            except OSError:  # the other end is closed
                break
            written += piece
        assert process.wait(PATIENCE_S) == 0
    os.close(ours)
    text = written.decode()
    assert re.search(r"\r\x1b\[2K\d of 5 tasks done", text)
    last = text.rpartition("\x1b[2K")[2]
    assert re.fullmatch(r"expected 0\.05 s, actual \d+\.\d\d s: improvement \d+ %\r\n", last)
