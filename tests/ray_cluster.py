"""A real Ray with one node on this machine, in a process of its own, which ends with the test.

As a script it runs that Ray: it prints the address, and ends everything at the end of its standard input.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: few processes, and patience with a busy machine
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_raylet_start_wait_time_s": "90",
}
#: that Ray counts
CORES = 3


def missing() -> str:
    """Say why there can be no Ray here; "" if there can."""
    return "" if importlib.util.find_spec("ray") else "ray is not installed"


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Run Ray; give its address, HOST:PORT."""
    folder = Path(tempfile.mkdtemp(prefix="cnb-ray-", dir="/tmp"))  # short: Ray's sockets are in it
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **SETTINGS, "RAY_TMPDIR": str(folder)},
            start_new_session=True,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, f"Ray has not started: {(folder / 'log').read_text()}"
        yield address
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def serve() -> None:
    """Run Ray until standard input ends."""
    from ray.cluster_utils import Cluster

    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = {"num_cpus": CORES, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        print(cluster.address, file=output, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    serve()
