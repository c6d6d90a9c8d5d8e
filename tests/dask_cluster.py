"""A real Dask scheduler and workers, each a process of its own, connected over TCP on addresses of this machine."""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from concurrent_nb.transport.tls import make_tls
from tests.slurm_cluster import free_ports


def missing() -> str:
    """Say why there can be no Dask here; "" if there can."""
    return "" if importlib.util.find_spec("distributed") else "distributed is not installed"


class DaskCluster:
    """A scheduler, and workers that seem to be on several hosts: each listens on a loopback address of its own."""

    def __init__(self, folder: str, *, has_tls: bool = False) -> None:
        self._folder = folder
        self._tls: tuple[str, ...] = ()
        if has_tls:
            material = make_tls(["127.0.0.1"])
            self.certificate, self.key = (str(Path(folder, name)) for name in ("certificate.pem", "key.pem"))
            Path(self.certificate).write_text(material.certificate_pem)
            Path(self.key).write_text(material.key_pem)
            self._tls = ("--tls-ca-file", self.certificate, "--tls-cert", self.certificate, "--tls-key", self.key)
        (self._port,) = free_ports(1)
        self.address = f"127.0.0.1:{self._port}"
        self._scheme = "tls" if has_tls else "tcp"
        self.workers: dict[str, subprocess.Popen[str]] = {}  # by address of their host
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--protocol", self._scheme
        )

    def add_workers(self, *hosts: str) -> None:
        """Start a worker of two threads on each host."""
        for host in hosts:  # they look for the scheduler until it is there
            options = ("--nthreads", "2", "--no-nanny", "--local-directory", self._folder)
            there = ("--host", f"{self._scheme}://{host}")
            self.workers[host] = self._start("worker", f"{self._scheme}://{self.address}", *there, *options)
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
        for processes in ([*self.workers.values()], [self.scheduler]):  # a worker may wait for its scheduler for ever
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                assert process.stderr is not None
                process.stderr.close()

    def _start(self, role: str, *options: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{role}", *options, *self._tls, "--no-dashboard"],
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
def dask_cluster(*hosts: str, has_tls: bool = False) -> Iterator[DaskCluster]:
    """Run a scheduler with a worker of two threads on each host, such as 127.0.0.2; all connections may have TLS."""
    with tempfile.TemporaryDirectory(prefix="cnb-dask-") as folder, contextlib.ExitStack() as stack:
        cluster = DaskCluster(folder, has_tls=has_tls)
        stack.callback(cluster.close)
        cluster.add_workers(*hosts)
        yield cluster
