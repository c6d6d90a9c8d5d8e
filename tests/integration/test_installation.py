"""What an installation has: types that are seen from anywhere."""

import subprocess
import sys
from pathlib import Path

from tests.work import PATIENCE_S


def test_mypy_finds_the_package_from_outside_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import concurrent_nb\nconcurrent_nb.Cluster(workers='two')\n")
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=cache", "mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert 'mine.py:2: error: Argument "workers" to "Cluster" has incompatible type "str"' in told.stdout, told
    assert "Found 1 error in 1 file" in told.stdout
