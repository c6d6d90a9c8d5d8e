"""Files for slaves: written for their owner alone; a disk that takes none is a failure that may pass."""

import stat
import sys
from pathlib import Path

import pytest

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers.launch_files import make_folder_for_slaves, write_for_slave


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    folder = make_folder_for_slaves(tmp_path / "new")
    write_for_slave(folder / "a.json", "{}")
    assert (folder / "a.json").read_text() == "{}\n"
    if sys.platform != "win32":
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "a.json")] == [0o700, 0o600]


def test_a_disk_that_takes_no_file_is_a_failure_and_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="cannot be written"):
        write_for_slave(tmp_path / "missing" / "a.json", "{}")
    (tmp_path / "file").touch()
    with pytest.raises(LaunchFailed, match="can be written"):
        make_folder_for_slaves(tmp_path / "file")
