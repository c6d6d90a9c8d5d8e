"""What a slave needs of its system before it starts."""

import subprocess
import sys

CHECK = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from concurrent_nb.errors import ClusterStartFailed
from concurrent_nb.nodes.slave.process import check_open_files
check_open_files(1)
try:
    check_open_files(20)
except ClusterStartFailed as error:
    print(error)
"""


def test_the_error_names_the_open_files_that_a_slave_needs() -> None:
    output = subprocess.run([sys.executable, "-c", CHECK], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "a slave with 20 workers needs 228 open files and may have 64: raise the hard limit (`ulimit -Hn`)" in output
