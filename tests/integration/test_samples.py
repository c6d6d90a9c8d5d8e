"""`concurrent-nb run`: the samples, each of them in each of its ways, as people start them."""

import math
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

from concurrent_nb.samples.base import Sample
from tests.clusters import command, run, running, status_of
from tests.work import PATIENCE_S

SMALL = {
    "md5": ["--end", "20000", "--number", "17000", "--num-tasks", "16"],
    "mandelbrot": ["--width", "50", "--height", "20", "--factor", "7"],
    "expensive": ["--time_per_task", "0.01", "--num_tasks", "5"],
    "pi": ["--terms", "10000", "--num-tasks", "9"],
}
WAYS = ("system", "batch", "one-by-one")
#: a sample's last line, without the seconds
TELLS = {
    "md5": "found 17000: it has the MD5 hash",
    "mandelbrot": r"50 x 20 points, \d+ of them in the set",
    "expensive": r"expected 0\.05 s, actual",
    "pi": r"pi is about 3\.1414",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The name of a cluster to run samples on."""
    with running("start", "--name", "samples", "--workers", "2", says="is running"):
        yield "samples"


def told_by(*arguments: str) -> str:
    """Run a sample, and give what it says."""
    ended = run("run", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def refused(*arguments: str) -> tuple[int, str]:
    """Run a command that is to be refused; give its exit code and what it says."""
    ended = run("run", *arguments)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d+ s|\d+ %", "...", text)


# ---------------------------------------------------------------------------------------------------------- what runs


@pytest.mark.parametrize("name", SMALL)
def test_a_sample_says_the_same_in_each_of_its_ways(name: str, cluster: str) -> None:
    told = {way: told_by(name, "--cluster", cluster, "--as", way, *SMALL[name]) for way in WAYS}
    assert re.match(TELLS[name], told["system"].splitlines()[-1])
    assert len({without_seconds(each) for each in told.values()}) == 1


def test_the_default_is_a_system_and_the_thesis_s_options_are_the_other_ways(cluster: str) -> None:
    before = status_of(cluster)["tasks"]["jobs"]
    small = ["--cluster", cluster, *SMALL["pi"]]
    told = {told_by("pi", *small, *way) for way in ([], ["--task_batch"], ["--no-task-batch"], ["--task-batch"])}
    assert len({without_seconds(each) for each in told}) == 1
    assert status_of(cluster)["tasks"]["jobs"] == before


def test_lazy_and_optimised_tasks_print_the_same_picture(cluster: str) -> None:
    small = ["--cluster", cluster, "--width", "50", "--height", "20"]
    pictures = {
        without_seconds(told_by("mandlebrot", *small, "--factor", factor, *lazy))
        for factor in ("1", "7")
        for lazy in ([], ["--no-use-optimized-task"], ["--MandelbrotSample.use_optimized_task=False"])
    }
    assert len(pictures) == 1
    assert pictures.pop().count("\n") == 21


def test_without_a_cluster_it_starts_one_and_leaves_nothing() -> None:
    told = told_by("md5", "--workers", "1", "--MasterNode.strategy=PushBest", *SMALL["md5"])
    assert told.startswith("found 17000")
    assert told_by("md5", "--as", "batch", "--workers", "1", "--number", "21000", *SMALL["md5"][:2]).startswith(
        "no number from 1 to 20000 has the MD5 hash"
    )


def test_progress_is_a_line_of_the_terminal_that_is_gone_in_the_end(cluster: str) -> None:
    ours, theirs = pty.openpty()
    arguments = command("run", "expensive", "--cluster", cluster, "--as", "batch", *SMALL["expensive"])
    environment = {**os.environ, "COLUMNS": "80"}
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 1000)
            except OSError:  # nobody has the other end any more
                break
            written += piece
        assert process.wait(PATIENCE_S) == 0
    os.close(ours)
    text = written.decode()
    assert re.search(r"\r\x1b\[2K\d of 5 tasks done", text)
    last = text.rpartition("\x1b[2K")[2]
    assert re.fullmatch(r"expected 0\.05 s, actual \d+\.\d\d s: improvement \d+ %\r\n", last)


# ------------------------------------------------------------------------------------------------------- what it tells


def test_alone_it_lists_the_samples_with_a_line_each() -> None:
    told = told_by()
    for name in ("expensive", "mandelbrot or mandlebrot", "md5", "pi"):
        assert re.search(rf"^  {name} +[A-Z].*[.?]$", told, re.MULTILINE)
    assert "run NAME --help" in told


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("md5", ["--num-tasks X", "--start X", "--end X", "--number X"]),
        ("mandelbrot", ["--factor X", "--iters X", "--height X", "--width X", "--use-optimized-task", "(1536)"]),
        ("mandlebrot", ["run mandlebrot", "Columns in a task (1)"]),
        ("expensive", ["--time-per-task X", "--num-tasks X"]),
        ("pi", ["--terms X", "--as {system,batch,one-by-one}", "--task-batch", "--cluster", "--workers"]),
    ],
)
def test_help_tells_the_options_of_a_sample(name: str, options: list[str]) -> None:
    told = told_by(name, "--help")
    for option in options:
        assert option in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mandelbort"], "no sample 'mandelbort': choose one of expensive, mandelbrot"),
        (["mandelbrot", "--factor", "0"], "MandelbrotSample.factor cannot be 0: give a whole number of at least 1"),
        (["mandelbrot", "--iters", "70000"], "MandelbrotSample.iters cannot be 70000"),
        (["mandelbrot", "--width", "wide"], "MandelbrotSample.width cannot be 'wide'"),
        (["expensive", "--time-per-task=-1"], "ExpensiveSample.time_per_task cannot be -1"),
        (["md5", "--start", "9", "--end", "8"], "no number from 9 to 8"),
        (["md5", "--Md5Sample.num=3"], "Md5Sample has no item 'num'"),
        (["md5", "--cluster", "nosuch"], "no cluster 'nosuch'"),
        (
            ["md5", "--cluster", "nosuch", "--MasterNode.strategy=PushBest"],
            "takes no configuration, but MasterNode was",
        ),
        (["md5", "--MasterNode.strategy=Fair"], "choose one of PullRoundRobin"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(arguments: list[str], says: str) -> None:
    code, told = refused(*arguments)
    assert code == 1
    assert says in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["md5", "--facter", "3"], "unknown option '--facter'"),
        (["md5", "--num"], "unknown option '--num'"),
        (["md5", "--num-tasks"], "expected one argument"),
        (["md5", "--as", "threads"], "invalid choice: 'threads'"),
        (["md5", "--as", "system", "--task-batch"], "not allowed with argument --as"),
        (["md5", "--cluster", "x", "--workers", "2"], "not allowed with argument --cluster"),
        (["md5", "--workers", "0"], "0 is too small"),
    ],
)
def test_wrong_usage_is_refused_and_named(arguments: list[str], says: str) -> None:
    code, told = refused(*arguments)
    assert code == 2
    assert "usage: concurrent-nb run md5" in told
    assert says in told


def test_every_sample_that_is_offered_can_be_had() -> None:
    found = {entry.name: entry.load() for entry in entry_points(group="concurrent_nb.samples")}
    assert set(found) >= {"md5", "mandelbrot", "mandlebrot", "expensive", "pi"}
    for kind in found.values():
        assert issubclass(kind, Sample)
    assert math.isclose(
        float(re.findall(r"3\.\d+", told_by("pi", "--workers", "1", *SMALL["pi"]))[0]), 3.1415, abs_tol=1e-3
    )
