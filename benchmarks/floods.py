"""Floods: how much memory one client can make a master use, and how much that slows a good client down.

    python -m benchmarks.floods [--only NAME ...] [--short]

Each flood has a cluster of its own (master and slave processes, 2 workers), a good client here, and a flooder in a
process of its own, which registers over the control channel with the client's token and new CURVE keys, floods the
master, stays for a while, and is killed. Measured at the master: peak memory (RSS, and the shared memory that it has
open), memory 10 s after the flooder's end compared with before, descriptors, lines of the log, times of an admin's
`status` calls; at the good client: round trips of one task at a time.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import concurrent_nb
from concurrent_nb.errors import ConcurrentError
from concurrent_nb.ids import digest_of, new_job_id
from concurrent_nb.nodes.common import registration
from concurrent_nb.object_store import segments
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.tasks.task_log import TASKS_KEPT
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Envelope, encode
from concurrent_nb.wire.session import Session

MIB: Final = 1024 * 1024
#: the targets, which hold for every flood
PEAK_BYTES, LEFT_SHARE, MEDIAN_S = 300 * MIB, 0.20, 0.050
#: seconds from the flooder's end until memory is measured
REST_S: Final = 10.0
#: seconds for which a flooder stays connected after its flood
STAY_S: Final = 6.0
TICK_S: Final = 0.02
#: seconds after which an unfinished flooder is killed, because the master does not receive its messages
FLOOD_MAX_S: Final = 60.0


# -------------------------------------------------------------------------------------------------- the flooder's side


class Flooder:
    """A registered client that numbers its own envelopes, and receives only on demand."""

    def __init__(self, info: ConnectionFile, *, shares: bool = False) -> None:
        self.member = registration.register(info, "client", keys.fresh(), name="flooder")
        self.session = Session(self.member.epoch, "to_client")
        self._seq = 0
        if shares:
            self.send(m.ShareMemory())

    def send(self, *messages: m.AnyMessage, buffers: Sequence[Any] = (), seq: int | None = None, ack: int = 0) -> None:
        """Send an envelope, the next one unless `seq` is given; wait while the queue is full."""
        if seq is None:
            self._seq += 1
            seq = self._seq
        frames = encode(Envelope(m.PROTOCOL_VERSION, self.member.epoch, seq, ack, list(messages)), buffers)
        while not self.member.link.send(frames):
            time.sleep(0.001)

    def post(self, *said: tuple[m.AnyMessage, Sequence[Any]], within_s: float = 10.0) -> None:
        """Send messages of any size as a good peer does; return when all are acknowledged, or after `within_s`."""
        for message, buffers in said:
            self.session.send(message, [buffers] if buffers else ())
        until = time.monotonic() + within_s
        while (self.session.backlog or self.session.in_flight) and time.monotonic() < until:
            for frames in self.session.flush(time.monotonic()):
                while not self.member.link.send(frames):
                    time.sleep(0.001)
            time.sleep(0.005)
            self.receive()
            if self.session.closed_by_peer is not None:
                return

    def stay(self, seconds: float) -> None:
        """Send heartbeats, and acknowledge nothing."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.send(seq=0)
            time.sleep(0.2)

    def receive(self, *, acknowledge: bool = False) -> None:
        """Receive all messages; acknowledge them or not."""
        for frames in self.member.link.receive():
            with contextlib.suppress(ConcurrentError, ValueError):
                self.session.receive([bytes(frame) for frame in frames], time.monotonic())
        if acknowledge:
            self.send(seq=0, ack=self.session._received_seq)

    def function(self, called: Callable[..., object]) -> m.Function:
        """Send a function, and return it."""
        import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[called.__module__])
        body, _ = pickles.dumps(called)
        function = m.Function(digest_of(body), body)
        self.send(function)
        return function


def frames(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """One message of 2,000 frames of 1 MiB."""
    import zmq

    flooder = Flooder(info)
    piece = b"f" * MIB
    sock = flooder.member.link.socket
    sock.setsockopt(zmq.SNDTIMEO, 20_000)
    with contextlib.suppress(zmq.Again):
        for _ in range(int(2000 * scale)):
            sock.send(piece, zmq.SNDMORE, copy=False)
    time.sleep(stay_s)
    with contextlib.suppress(zmq.Again):
        sock.send(b"", copy=False)
    time.sleep(stay_s / 2)


def early(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """98 early envelopes of 16 MiB, and of 4 MiB, which are not too large; the one before them never arrives."""
    for size in (16 * MIB, 4 * MIB):
        flooder = Flooder(info)
        buffer = b"e" * size
        for seq in range(3, 3 + int(98 * scale)):
            flooder.send(m.Content(b"s" * 16, 0, seq, b"", (len(buffer),)), buffers=[buffer], seq=seq)
    flooder.stay(stay_s)


def functions(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """25 sessions with a function of 40 MiB each, and tasks for jobs that are not open."""
    flooders = []
    for number in range(int(25 * scale)):
        flooder = Flooder(info)
        flooders.append(flooder)
        body = b"%08d" % number + bytes(40 * MIB)
        digest = digest_of(body)
        submit = m.Submit(new_job_id(), digest, None, 0, [m.TaskFrame(0, 0, b"arguments")])
        flooder.post((m.Function(digest, b"", (len(body),)), [body]), (submit, ()))
    time.sleep(stay_s)


def make_result(size: int) -> bytes:
    return b"r" * size


def print_much(size: int) -> None:
    sys.stdout.write("p" * size + "\n")


def results(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """2,000 results of 1 MB that are never acknowledged, then 1,000 prints of 1 MB."""
    flooder = Flooder(info)
    for called, count in ((make_result, int(2000 * scale)), (print_much, int(1000 * scale))):
        function, job = flooder.function(called), new_job_id()
        body, _ = pickles.dumps((1_000_000,))
        flooder.send(m.OpenJob(job, called.__name__, False, False))
        for first in range(0, count, 100):
            tasks = [m.TaskFrame(index, 0, body) for index in range(first, min(count, first + 100))]
            flooder.send(m.Submit(job, function.digest, None, 0, tasks))
        until = time.monotonic() + 4.0 + 10 * scale
        while time.monotonic() < until:
            flooder.receive()
            flooder.send(seq=0)
            time.sleep(0.05)


def submits(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """1,000,448 tasks, nothing read."""
    flooder = Flooder(info)
    function, job = flooder.function(abs), new_job_id()
    body, _ = pickles.dumps((-1,))
    flooder.send(m.OpenJob(job, "many", False, False))
    for run in range(int(1954 * scale)):
        tasks = [m.TaskFrame(index, 0, body) for index in range(512 * run, 512 * run + 512)]
        flooder.send(m.Submit(job, function.digest, None, 0, tasks))
    flooder.stay(stay_s)


def contents(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """500 MiB of distinct contents, no task."""
    flooder = Flooder(info)
    for number in range(int(500 * scale)):
        buffer = b"%08d" % number + bytes(MIB - 8)
        flooder.send(m.Content(b"s" * 16, number * MIB, number, b"", (MIB,)), buffers=[buffer])
    flooder.stay(stay_s)


def post(info: ConnectionFile, calls: list[dict[str, Any]]) -> Any:
    """Send a batch of calls to the control channel."""
    host, _, port = info.endpoints[0].removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    headers = {"Authorization": f"Bearer {info.tokens['client']}", "Content-Type": "application/json"}
    body = json.dumps([{"jsonrpc": "2.0", "id": at, **call} for at, call in enumerate(calls)])
    connection.request("POST", jsonrpc.API_PATH, body, headers)
    answer = json.loads(connection.getresponse().read() or b"[]")
    connection.close()
    return answer


def registrations(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """9,800 registrations, in batches of 100, kept by heartbeats; then a batch that asks for the status 100 times."""
    sessions: list[dict[str, str]] = []
    versions = registration.versions()
    began = time.monotonic()
    for batch in range(int(98 * scale)):
        facts = {"versions": versions, "name": "flooder"}
        calls = [
            {"method": "register_client", "params": {"key": keys.fresh().public.decode(), **facts}} for _ in range(100)
        ]
        answers = post(info, calls)
        results = [each["result"] for each in answers if "result" in each]
        sessions += [{name: each[name] for name in ("session", "secret") if name in each} for each in results]
        if batch % 10 == 9:
            _beat(info, sessions)
    until = max(began + 20 * scale, time.monotonic() + stay_s)
    while time.monotonic() < until:
        _beat(info, sessions)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            post(info, [{"method": "status", "params": {}}] * 100)


def _beat(info: ConnectionFile, sessions: Sequence[dict[str, str]]) -> None:
    for first in range(0, len(sessions), 100):
        some = sessions[first : first + 100]
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            post(info, [{"method": "heartbeat_client", "params": session} for session in some])


def shared(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """3,000 segments of shared memory."""
    flooder = Flooder(info, shares=True)
    for _ in range(int(3000 * scale)):
        handle = segments.create(4096)
        flooder.send(m.Segment(handle.segment, handle.pid, handle.fd, handle.size))
    flooder.stay(stay_s)


def control(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """512 control connections of the client's token, each of which has made a call and stays open."""
    host, _, port = info.endpoints[0].removeprefix("http://").rpartition(":")
    headers = {"Authorization": f"Bearer {info.tokens['client']}", "Content-Type": "application/json"}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}})
    kept: list[http.client.HTTPConnection] = []
    until = time.monotonic() + stay_s + 4 * scale
    while time.monotonic() < until:
        while len(kept) < int(512 * scale):
            connection = http.client.HTTPConnection(host, int(port), timeout=2)
            kept.append(connection)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", jsonrpc.API_PATH, body, headers)
                connection.getresponse().read()
        for connection in list(kept):
            try:
                connection.request("POST", jsonrpc.API_PATH, body, headers)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
                kept.remove(connection)


def idle(info: ConnectionFile, scale: float, stay_s: float) -> None:
    """2,000 silent connections to the compute port, opened again when they are cut."""
    import zmq

    flooder = Flooder(info)
    endpoint = flooder.member.link.socket.getsockopt_string(zmq.LAST_ENDPOINT)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    until = time.monotonic() + stay_s + 4 * scale
    while time.monotonic() < until:
        kept = []
        for _ in range(int(2000 * scale)):
            with contextlib.suppress(OSError):
                kept.append(socket.create_connection((host, int(port)), timeout=2))
        time.sleep(1.0)
        for each in kept:
            each.close()


FLOODS: Final[dict[str, Callable[[ConnectionFile, float, float], None]]] = {
    flood.__name__: flood
    for flood in (frames, early, functions, results, submits, contents, registrations, shared, control, idle)
}
#: how much of each is enough to fail where nothing bounds it
SHORT: Final[dict[str, float]] = {"frames": 0.2, "early": 0.3, "functions": 0.4, "contents": 0.8}


# ----------------------------------------------------------------------------------------------------- what is measured


@dataclass(slots=True)
class Memory:
    """Memory and descriptors of a process."""

    rss_bytes: int  #: without shared memory
    shared_bytes: int  #: in segments of shared memory that it has open, its own or others', mapped or not
    fds: int


@dataclass(slots=True)
class Measured:
    """The effects of a flood."""

    name: str
    before: Memory
    peak_bytes: int = 0  #: its own and shared memory together
    peak_shared_bytes: int = 0
    peak_fds: int = 0
    after: Memory | None = None
    round_trips_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    status_s: list[float] = field(default_factory=list)
    log_lines: int = 0
    log_bytes: int = 0
    flooder: str = ""

    @property
    def left_share(self) -> float:
        """The growth of the master's memory by the flood, as a share of the memory before."""
        after = self.after or self.before
        return (after.rss_bytes + after.shared_bytes) / (self.before.rss_bytes + self.before.shared_bytes) - 1

    def misses(self) -> list[str]:
        """Return the missed targets."""
        missed = []
        if self.peak_bytes > PEAK_BYTES:
            missed.append("peak")
        if self.left_share > LEFT_SHARE:
            missed.append("after")
        if not self.round_trips_s or statistics.median(self.round_trips_s) > MEDIAN_S:
            missed.append("median")
        if any("status" in text for text in self.failed):
            missed.append("status")
        if any("task" in text for text in self.failed):
            missed.append("tasks")
        return missed


def _work(app: concurrent_nb.ApplicationNode, count: int) -> None:
    """Run so many tasks, which fill the master's log of the last tasks: it belongs to the memory before a flood."""
    for _ in range(0, count, 1000):
        concurrent.futures.wait([app.submit(abs, -1) for _ in range(1000)])


def memory_of(pid: int) -> Memory:
    """Measure a process of this machine."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = sum(int(size) for size in re.findall(r"Rss(?:Anon|File):\s+(\d+) kB", status))
    shared: dict[int, int] = {}
    names = os.listdir(f"/proc/{pid}/fd")
    for name in names:
        with contextlib.suppress(OSError):
            if "/memfd:concurrent_nb-" in os.readlink(f"/proc/{pid}/fd/{name}"):
                info = os.stat(f"/proc/{pid}/fd/{name}")
                shared[info.st_ino] = info.st_blocks * 512
    return Memory(own * 1024, sum(shared.values()), len(names))


class Asker:
    """Calls `status` as an admin all the time, each time over a new connection, as the command does."""

    def __init__(self, info: ConnectionFile, measured: Measured) -> None:
        self._info = info
        self._measured = measured
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.3):
            began = time.monotonic()
            try:
                info = self._info
                with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem, timeout_s=5.0) as asker:
                    asker.call("status")
            except (ConcurrentError, OSError) as error:
                self._measured.failed.append(f"status: {error}")
            self._measured.status_s.append(time.monotonic() - began)


def measure(name: str, scale: float = 1.0, rest_s: float = REST_S, stay_s: float = STAY_S) -> Measured:
    """Run one flood against a cluster of its own."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with concurrent_nb.Cluster(workers=2, log=log) as cluster:
            assert cluster.connection_file is not None
            app = cluster.application()
            _work(app, int(TASKS_KEPT * scale))
            info = connection_file.read(cluster.connection_file)
            measured = Measured(name, memory_of(info.pid))
            lines, size = _log_of(log)
            with Asker(info, measured):
                flooder = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.floods", "--flood", name, str(scale), str(stay_s)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                assert flooder.stdin is not None and flooder.stderr is not None
                flooder.stdin.write(str(cluster.connection_file))
                flooder.stdin.close()
                try:
                    until = time.monotonic() + FLOOD_MAX_S
                    while flooder.poll() is None and time.monotonic() < until:
                        _look(measured, app, info.pid)
                finally:
                    flooder.kill()
                    measured.flooder = flooder.stderr.read()[-2000:]
                    flooder.wait()
                    flooder.stderr.close()
                for _ in _ticks(rest_s):
                    _look(measured, app, info.pid)
            with contextlib.suppress(OSError):
                measured.after = memory_of(info.pid)
            lines_after, size_after = _log_of(log)
            measured.log_lines, measured.log_bytes = lines_after - lines, size_after - size
    return measured


def _ticks(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield None


def _look(measured: Measured, app: Any, pid: int) -> None:
    """Run a task of the good client, and measure the master."""
    began = time.monotonic()
    try:
        value = app.submit(abs, -7).result(20)
        if value != 7:
            measured.failed.append(f"task: {value!r}")
    except (ConcurrentError, RuntimeError, TimeoutError) as error:
        measured.failed.append(f"task: {error}")
        time.sleep(0.5)
    measured.round_trips_s.append(time.monotonic() - began)
    with contextlib.suppress(OSError):
        now = memory_of(pid)
        measured.peak_bytes = max(measured.peak_bytes, now.rss_bytes + now.shared_bytes)
        measured.peak_shared_bytes = max(measured.peak_shared_bytes, now.shared_bytes)
        measured.peak_fds = max(measured.peak_fds, now.fds)
    time.sleep(TICK_S)


def _log_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes() if path.exists() else b""
    return data.count(b"\n"), len(data)


HEAD: Final = (
    f"{'flood':14}{'before':>8}{'peak':>8}{'shm':>7}{'after':>8}{'left':>7}{'fds':>12}{'log':>7}"
    f"{'p50':>8}{'p95':>8}{'max':>9}{'status':>9}  missed"
)


def row(measured: Measured) -> str:
    """Describe it in one line."""
    times = sorted(measured.round_trips_s) or [0.0]
    after = measured.after
    gone = "gone" if after is None else f"{(after.rss_bytes + after.shared_bytes) / MIB:.0f}"
    fds = f"{measured.before.fds}-{measured.peak_fds}-{after.fds if after else 0}"
    return (
        f"{measured.name:14}{measured.before.rss_bytes / MIB:8.0f}{measured.peak_bytes / MIB:8.0f}"
        f"{measured.peak_shared_bytes / MIB:7.0f}{gone:>8}{measured.left_share:7.0%}{fds:>12}{measured.log_lines:7}"
        f"{statistics.median(times) * 1e3:8.1f}{times[int(0.95 * (len(times) - 1))] * 1e3:8.1f}{times[-1] * 1e3:9.1f}"
        f"{max(measured.status_s, default=0) * 1e3:9.0f}  {' '.join(measured.misses())}"
    )


def main() -> int:
    """Run floods, and print a table of MiB and milliseconds; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FLOODS], action="append")
    parser.add_argument("--short", action="store_true", help="smaller ones, which fail all the same where they can")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)  # a flooder's process: name, scale, stay_s
    options = parser.parse_args()
    if options.flood:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
        name, scale, stay_s = options.flood
        FLOODS[name](connection_file.read(Path(sys.stdin.read())), float(scale), float(stay_s))
        return 0
    print(HEAD, flush=True)
    missed = False
    for name in options.only or [*FLOODS]:
        measured = measure(name, SHORT.get(name, 0.3) if options.short else 1.0)
        print(row(measured), flush=True)
        for text, count in _counted(measured.failed):
            print(f"    {count} x {text}")
        if measured.flooder:
            print("    the flooder: " + measured.flooder.strip().splitlines()[-1][:200])
        missed = missed or bool(measured.misses())
    return 1 if missed else 0


def _counted(texts: Sequence[str]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for text in texts:
        short = re.sub(r"[0-9a-f]{6,}|\d+", "*", text)[:160]
        found[short] = found.get(short, 0) + 1
    return list(found.items())[:4]


if __name__ == "__main__":
    sys.exit(main())
