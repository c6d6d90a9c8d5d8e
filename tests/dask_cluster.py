"""A real Dask scheduler and workers, each a process of its own, connected over TCP on addresses of this machine."""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.slurm_cluster import free_ports


def missing() -> str:
    """Say why there can be no Dask here; "" if there can."""
    return "" if importlib.util.find_spec("distributed") else "distributed is not installed"


class DaskCluster:
    """A scheduler, and workers that seem to be on several hosts: each listens on a loopback address of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        self.address = f"127.0.0.1:{self._port}"
        self.workers: dict[str, subprocess.Popen[str]] = {}  # by address of their host
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self._port))

    def add_workers(self, *hosts: str) -> None:
        """Start a worker of two threads on each host."""
        for host in hosts:  # they look for the scheduler until it is there
            options = ("--host", host, "--nthreads", "2", "--no-nanny", "--local-directory", self._folder)
            self.workers[host] = self._start("worker", f"tcp://{self.address}", *options)
        for host in hosts:
            await_line(self.workers[host], "Registered to")

    def remove_worker(self, host: str) -> None:
        """Kill the worker on a host."""
        worker = self.workers.pop(host)
        worker.kill()
        worker.wait()
        assert worker.stderr is not None
        worker.stderr.close()

    def close(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            process.terminate()
        for process in (*self.workers.values(), self.scheduler):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def _start(self, role: str, *options: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{role}", *options, "--no-dashboard"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            start_new_session=True,
        )
        return process


def await_line(process: "subprocess.Popen[str]", words: str) -> None:
    """Return when a process has written these words."""
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        said += line
        assert line, f"Dask has not started: {said}"


@contextlib.contextmanager
def dask_cluster(*hosts: str) -> Iterator[DaskCluster]:
    """Run a scheduler with a worker of two threads on each host, such as 127.0.0.2."""
    with tempfile.TemporaryDirectory(prefix="cnb-dask-") as folder, contextlib.ExitStack() as stack:
        cluster = DaskCluster(folder)
        stack.callback(cluster.close)
        cluster.add_workers(*hosts)
        yield cluster
