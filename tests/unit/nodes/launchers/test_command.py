"""How slaves of a command are ended, also when the command for that does not work."""

import logging
import sys
from pathlib import Path

import pytest

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers import command
from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from concurrent_nb.nodes.launchers.launcher import ILauncher, SlaveStart
from tests.clusters import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a shell")


def launched(folder: Path, end_command: str, slaves: int) -> ILauncher:
    """Give a launcher with slaves in a batch system that only counts them."""
    options = {"folder": str(folder), "submits": True, "end_command": end_command, "script": "echo $$ # {slave}"}
    launcher = make_launcher(choose_launcher("command:sh {script}"), options)
    for number in range(slaves):
        launcher.launch(SlaveStart(f"command-{number}", "{}", "{}", "text"))
    eventually(lambda: all(each.state == "queued" for each in launcher.slaves()), "all were submitted")
    return launcher


@pytest.mark.parametrize("end_command", ["sleep 60", "no-such-qdel {job}"])
def test_slaves_whose_end_command_does_not_work_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end_command: str
) -> None:
    monkeypatch.setattr(command, "END_COMMAND_S", 0.2)
    launcher = launched(tmp_path, end_command, 3)
    with pytest.raises(LaunchFailed) as raised:
        launcher.close()
    assert str(raised.value).count(end_command.split()[0]) >= 3
    assert not list(tmp_path.iterdir())


def test_each_slave_is_ended_although_the_first_command_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, ended = tmp_path / "files", tmp_path / "ended"
    ended.mkdir()
    launcher = launched(files, f"sh -c 'touch {ended}/{{name}}; echo unknown job; exit 3'", 3)
    with caplog.at_level(logging.WARNING):
        launcher.close()
    assert {path.name for path in ended.iterdir()} == {"command-0", "command-1", "command-2"}
    assert caplog.text.count("ended with exit code 3: unknown job") == 3
