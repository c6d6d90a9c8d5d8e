"""A cluster needs no place in the home folder: as in a container whose file system is read-only but for /tmp."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.work import PATIENCE_S

SCRIPT = """
import concurrent_nb
from concurrent_nb.nodes.common.kernel_file import attach_command, open_kernel
from concurrent_nb.transport import connection_file

with concurrent_nb.Cluster(workers=1) as cluster:
    print(cluster.application().submit(pow, 2, 3).result(60))
    with concurrent_nb.connect(cluster.name) as app:
        print(app.submit(pow, 2, 4).result(60))
    slave = cluster.status()["slaves"][0]["name"]
    path, is_ours = open_kernel(connection_file.read(cluster.name), slave)
    print(is_ours, attach_command(path).endswith(str(path)))
    print(path)
"""


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
def test_a_home_that_cannot_be_written_is_not_needed(home: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON", "XDG_"))}
    env |= {"HOME": home, "TMPDIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=PATIENCE_S, env=env)
    assert told.returncode == 0, told.stderr
    *said, path = told.stdout.split()
    assert said == ["8", "16", "False", "True"], told
    assert path.startswith(f"{tmp_path}/concurrent_nb-")
    # Nothing stays but the user's key.
    assert [left.name for left in tmp_path.glob("concurrent_nb-*/*")] == ["keys"]
