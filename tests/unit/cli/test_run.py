"""`concurrent-nb run` and the samples of other packages: found, listed, and named if they are of no use."""

import importlib
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from concurrent_nb.cli import run
from concurrent_nb.cli.main import main
from concurrent_nb.samples.sample import Sample

OTHERS = '''
from concurrent_nb.components.config import BoolItem, FloatItem
from concurrent_nb.components.core import Component

class Plain(Component):
    """Repeats its text, 100 % of it.

    And more.
    """

    ways = ("loud", "quiet")
    very = BoolItem(False, help="Very much so.")
    share = FloatItem(0.5, min=0, max=1, help="Percent (%) of it.")

    def run(self, app, way, show):
        return f"{way} {self.very} {self.share}"

class NoSample(Component):
    pass
'''


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install packages that offer samples: name=value, one package for each."""
    (tmp_path / "others.py").write_text(OTHERS)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")

    def offer(**samples: str) -> None:
        for number, (name, value) in enumerate(samples.items()):
            about = tmp_path / f"others{number}-1.0.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: others{number}\nVersion: 1.0\n")
            (about / "entry_points.txt").write_text(f"[concurrent_nb.samples]\n{name.rstrip('_')} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    return offer


def test_samples_of_others_are_listed_with_ours(offer: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    offer(plain="others:Plain", plane="others:Plain", bad="broken:Sample", no="others:NoSample")
    assert main(["run"]) == 0
    output = capsys.readouterr().out
    assert "  plain or plane             Repeats its text, 100 % of it.\n" in output
    assert "sample bad (broken:Sample) cannot be imported: ModuleNotFoundError" in output
    assert "sample no (others:NoSample) is <class 'others.NoSample'>, not a Component with ways and run" in output
    assert "  md5 " in output


def test_their_options_are_their_items(offer: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    offer(plain="others:Plain")
    with pytest.raises(SystemExit) as ended:
        main(["run", "plain", "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "--very, --no-very" in output
    assert "Percent (%) of it (default: 0.5)" in output
    assert "--as {loud,quiet}" in output
    assert "--task-batch" not in output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", "cannot be imported"),
        ("no", "not a Component with ways and run"),
        ("none", "unknown sample 'none': choose one"),
    ],
)
def test_what_is_no_sample_is_refused(
    name: str, message: str, offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(bad="broken:Sample", no="others:NoSample")
    assert main(["run", name]) == 1
    assert message in capsys.readouterr().err


def test_two_samples_of_one_name_are_refused(offer: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    offer(plain="others:Plain", plain_="others:NoSample")
    assert main(["run", "plain"]) == 1
    assert "uninstall one of them" in capsys.readouterr().err


def test_an_installation_older_than_the_files_is_reported_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ENTRY_POINTS", "concurrent_nb.nothing")
    assert main(["run"]) == 1
    assert "not even those of concurrent_nb: its installation is older than its files" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ our own


def test_ours_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    output = capsys.readouterr().out
    dna = ("dna-coordinates", "dna-curvature", "dna-naive")
    analysis = ("landmark-mds", "lda", "mds", "pca")
    for name in ("arena", *dna, *analysis, "islands", "expensive", "mandelbrot or mandlebrot", "md5", "pi"):
        assert re.search(rf"^  {name} +[A-Z].*[.?]$", output, re.MULTILINE)
    assert "run NAME --help" in output


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("md5", ["--num-tasks X", "--start X", "--end X", "--number X"]),
        (
            "mandelbrot",
            ["--factor X", "--iters X", "--height X", "--width X", "--use-optimized-task", "(default: 1536)"],
        ),
        ("mandlebrot", ["run mandlebrot", "Columns per task (default: 1)"]),
        ("expensive", ["--time-per-task X", "--num-tasks X"]),
        ("dna-coordinates", ["--pdb X", "--as {system}", "--model X"]),
        ("pca", ["--method X", "(default: tsqr)", "--file X", "--block-rows X"]),
        ("pi", ["--terms X", "--as {system,all-at-once,one-by-one}", "--task-batch", "--connect", "--workers"]),
    ],
)
def test_help_lists_the_options_of_a_sample(name: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", name, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    for option in options:
        assert option in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mandelbort"], "unknown sample 'mandelbort': choose one of arena, dna-coordinates, dna-curvature"),
        (["mandelbrot", "--factor", "0"], "MandelbrotSample.factor cannot be 0: give a whole number of at least 1"),
        (["mandelbrot", "--iters", "70000"], "MandelbrotSample.iters cannot be 70000"),
        (["mandelbrot", "--width", "wide"], "MandelbrotSample.width cannot be 'wide'"),
        (["expensive", "--time-per-task=-1"], "ExpensiveSample.time_per_task cannot be -1"),
        (["pca", "--method", "qr"], "PcaSample.method cannot be 'qr'"),
        (["pca", "--file", "no.npy"], "PcaSample cannot run: [Errno 2] No such file"),
        (["pca", "--method", "incremental", "--keep", "2"], "PcaSample cannot run: keep=2 is less than the 5"),
        (["md5", "--start", "9", "--end", "8"], "the range from 9 to 8 is empty"),
        (["md5", "--Md5Sample.num=3"], "Md5Sample has no item 'num'"),
        (["md5", "--connect", "nosuch"], "no cluster 'nosuch'"),
        (
            ["md5", "--connect", "nosuch", "--MasterNode.strategy=PushBest"],
            "takes no configuration items, but MasterNode was",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("concurrent-nb run: ")
    assert message in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facter", "3"], "unknown option '--facter'"),
        (["--num"], "unknown option '--num'"),
        (["--num-tasks"], "expected one argument"),
        (["--as", "threads"], "invalid choice: 'threads'"),
        (["--as", "all-at-once", "--no-task-batch"], "not allowed with argument --as"),
        (["--connect", "x", "--workers", "2"], "not allowed with argument --connect"),
        (["--workers", "0"], "0 is too small"),
    ],
)
def test_wrong_usage_is_refused_and_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "md5", *arguments])
    assert ended.value.code == 2
    output = capsys.readouterr().err
    assert "usage: concurrent-nb run md5" in output
    assert message in output


def test_all_of_ours_can_be_had() -> None:
    found = {entry.name: entry.load() for entry in entry_points(group=run.ENTRY_POINTS)}
    assert set(found) >= {"md5", "mandelbrot", "mandlebrot", "expensive", "pi"}
    for kind in found.values():
        assert issubclass(kind, Sample)
