"""`concurrent-nb run` and the samples of other packages: found, listed, and named if they are of no use."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from concurrent_nb.cli import run
from concurrent_nb.cli.main import main

OTHERS = '''
from concurrent_nb.components.config import BoolItem, FloatItem
from concurrent_nb.components.core import Component

class Plain(Component):
    """Says what it was told, 100 % of it.

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
    told = capsys.readouterr().out
    assert "  plain or plane             Says what it was told, 100 % of it.\n" in told
    assert "sample bad (broken:Sample) cannot be imported: ModuleNotFoundError" in told
    assert "sample no (others:NoSample) is <class 'others.NoSample'>, not a Component with ways and run" in told
    assert "  md5 " in told


def test_their_options_are_their_items(offer: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    offer(plain="others:Plain")
    with pytest.raises(SystemExit) as ended:
        main(["run", "plain", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--very, --no-very" in told
    assert "Percent (%) of it (0.5)" in told
    assert "--as {loud,quiet}" in told
    assert "--task-batch" not in told


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bad", "cannot be imported"),
        ("no", "not a Component with ways and run"),
        ("none", "no sample 'none': choose one"),
    ],
)
def test_what_is_no_sample_is_refused(
    name: str, says: str, offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(bad="broken:Sample", no="others:NoSample")
    assert main(["run", name]) == 1
    assert says in capsys.readouterr().err


def test_two_samples_of_one_name_are_refused(offer: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    offer(plain="others:Plain", plain_="others:NoSample")
    assert main(["run", "plain"]) == 1
    assert "are both offered as sample 'plain': uninstall one of them" in capsys.readouterr().err


def test_an_installation_older_than_the_files_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ENTRY_POINTS", "concurrent_nb.nothing")
    assert main(["run"]) == 1
    assert "no sample is installed, not even those of concurrent_nb" in capsys.readouterr().err
