"""PCA of a matrix that is larger than what its workers may have: they never have more than a block."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import out_of_core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")

ROOT = Path(out_of_core.__file__).parent.parent
LIMIT_MIB = 240
SIZE = ("--gib", "0.25", "--limit-mib", str(LIMIT_MIB), "--method", "moments")


def ended(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.out_of_core", *SIZE, *arguments, "--folder", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_the_matrix_is_larger_than_the_memory_of_a_worker(tmp_path: Path) -> None:
    done = ended(tmp_path, "--block-rows", "1024")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("65536 x 512 numbers, 0.25 GiB")
    addressed = [int(each) for each in re.findall(r"worker.process .* (\d+) MiB addressed", done.stdout)]
    assert len(addressed) == 3  # the fork server and two workers
    assert max(addressed) <= LIMIT_MIB
    assert list(tmp_path.iterdir()) == []


def test_a_block_as_large_as_the_matrix_does_not_fit(tmp_path: Path) -> None:
    done = ended(tmp_path, "--block-rows", "65536")
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
