"""What Slurm's launcher makes of the answers of its commands, which are short scripts here."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from concurrent_nb.nodes.launchers.launcher import ILauncher, LaunchedSlave, LaunchState, SlaveStart
from tests.clusters import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Slurm needs Linux, and shell scripts a shell")

START = SlaveStart("slurm-1", "{}", "{}", "text")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder whose scripts are found before other commands; none of Slurm's does anything yet."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        command(folder, name, "exit 0")
    return folder


@pytest.fixture
def slurm(tmp_path: Path, commands: Path) -> Iterator[ILauncher]:
    launcher = make_launcher(choose_launcher("slurm"), {"folder": str(tmp_path), "poll_s": 1.0, "command_s": 1.0})
    yield launcher
    command(commands, "squeue", "exit 0")  # nothing is left that `close` would wait for
    launcher.close()


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)


def ended(launcher: ILauncher) -> LaunchedSlave:
    """Wait until the launcher's only slave has ended."""
    eventually(lambda: launcher.slaves()[0].state is LaunchState.ENDED, "the slave has ended")
    return launcher.slaves()[0]


@pytest.mark.parametrize(
    ("said", "is_refused"),
    [
        ("Unable to contact slurm controller (connect failure)", False),
        ("Invalid partition name specified", True),
    ],
)
def test_only_a_wrong_request_is_refused(commands: Path, slurm: ILauncher, said: str, is_refused: bool) -> None:
    command(commands, "sbatch", f"echo 'sbatch: error: Batch job submission failed: {said}' >&2\nexit 1")
    slurm.launch(START)
    slave = ended(slurm)
    assert said in slave.reason
    assert slave.refused is is_refused


@pytest.mark.parametrize(
    "sbatch", ["exec sleep 20", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1"]
)
def test_a_job_that_slurm_has_accepted_without_an_answer_is_cancelled(
    tmp_path: Path, commands: Path, slurm: ILauncher, sbatch: str
) -> None:
    """It would be a slave that nobody counts."""
    command(commands, "sbatch", sbatch)
    command(commands, "squeue", "case $* in *--states=all*) echo '17|RUNNING|n1|9:00|10:00|None';; esac")
    command(commands, "scancel", f"echo $* >> {tmp_path}/cancelled")
    slurm.launch(START)
    assert not ended(slurm).refused
    cancelled = tmp_path / "cancelled"
    eventually(lambda: cancelled.exists() and cancelled.read_text().endswith("\n"), "it is cancelled")
    assert cancelled.read_text().splitlines()[0] == "17"


def test_the_files_of_a_slave_go_with_it(tmp_path: Path, commands: Path, slurm: ILauncher) -> None:
    command(commands, "sbatch", "echo 17")
    command(commands, "squeue", "echo '17|FAILED|n1|0:00|10:00|None'")
    slurm.launch(START)
    slurm.launch(replace(START, name="slurm-2"))
    (folder,) = tmp_path.glob("concurrent_nb-launch-*")
    (folder / "1.log").touch()
    assert len(list(folder.iterdir())) == 5
    ended(slurm)
    slurm.end(["slurm-1"])
    assert sorted(path.name for path in folder.iterdir()) == ["2.configuration.json", "2.connection.json"]
    slurm.launch(replace(START, name="slurm-3"))
    assert (folder / "3.connection.json").exists()


@pytest.mark.parametrize(
    ("state", "words"), [("PREEMPTED", "Slurm has ended it as PREEMPTED"), ("FAILED", "it ended with exit code 1")]
)
def test_how_a_slave_has_ended_is_said_by_slurm_if_slurm_has_ended_it(
    commands: Path, slurm: ILauncher, state: str, words: str
) -> None:
    command(commands, "sbatch", "echo 17")
    command(commands, "squeue", f"echo '17|{state}|n1|0:00|10:00|None'")
    code = 0 if state == "PREEMPTED" else 1
    command(commands, "scontrol", f"sleep 0.2\necho 'JobId=17 ExitCode={code}:0'")
    slurm.launch(START)
    assert words in ended(slurm).reason  # at once, not only when scontrol has answered
