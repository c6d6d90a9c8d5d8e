"""What the live feed costs, and whether those who watch slow others down: `python -m benchmarks.feed`.

`cpu`: the share of the master's processor time that the feed takes while no-ops go through at full load, without and
with a reader. `calls`: round trips of a good client's `ping` beside idle connections and readers, on an idle and on a
busy cluster. Both report misses of their targets, and the exit status is 1 then.
"""

import argparse
import base64
import contextlib
import json
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import psutil

import concurrent_nb
from benchmarks import workloads as work
from concurrent_nb.errors import ConcurrentError
from concurrent_nb.nodes.common import descriptors
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient

#: targets: the feed's share of the master's processor time with one reader, and the median of a call
SHARE_MAX, MEDIAN_S = 0.03, 0.050
#: seconds between two calls of the good client
PAUSE_S: Final = 0.01
#: seconds in which all connections must have been opened
WITHIN_S: Final = 60.0
#: connections that are opened in a second, and opened again when the master has closed them for newer ones
OPENED_PER_S, AGAIN_PER_S = 500, 50


# ------------------------------------------------------------------------------------------------- the process of peers


def peers(path: str, idle: int, watching: int) -> None:
    """Keep connections open, and open those again that the master closes, until standard input ends."""
    descriptors.raise_limit()
    info = connection_file.read(path)
    host, _, port = info.endpoints[0].removeprefix("http://").rpartition(":")
    address = (host, int(port))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    idle = min(idle, limit - watching - 50)
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    selector = selectors.DefaultSelector()
    counts = {"idle": 0, "watching": 0, "opened": 0, "received_bytes": 0}

    def connect(kind: str) -> None:
        sock = socket.socket()
        if kind == "idle":
            sock.setblocking(False)
            sock.connect_ex(address)  # the master accepts it when it comes to it
        else:
            sock.settimeout(5.0)
            sock.connect(address)
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [
                "GET /feed HTTP/1.1",
                f"Host: {host}:{port}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {key}",
                f"Authorization: Bearer {info.tokens['admin']}",
            ]
            text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {}}).encode()
            sock.sendall("\r\n".join([*lines, "", ""]).encode() + bytes((0x81, 0x80 | len(text))) + bytes(4) + text)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, kind)
        counts[kind] += 1
        counts["opened"] += 1

    reported = allowed = 0.0
    looked = time.monotonic()
    while not over.is_set():
        seconds, looked = time.monotonic() - looked, time.monotonic()
        per_s = OPENED_PER_S if counts["opened"] < idle + watching else AGAIN_PER_S
        allowed = min(allowed + seconds * per_s, OPENED_PER_S)
        for kind, wanted in (("watching", watching), ("idle", idle)):
            for _ in range(min(int(allowed), wanted - counts[kind])):
                allowed -= 1
                with contextlib.suppress(OSError):
                    connect(kind)
        for ready, _ in selector.select(0.05):
            sock = ready.fileobj
            assert isinstance(sock, socket.socket)
            try:
                data = sock.recv(1 << 18)
            except OSError:
                data = b""
            counts["received_bytes"] += len(data)
            if not data:
                selector.unregister(sock)
                sock.close()
                counts[ready.data] -= 1
        if time.monotonic() - reported > 0.2:
            reported = time.monotonic()
            sys.stdout.write(json.dumps(counts) + "\n")
            sys.stdout.flush()


class Peers:
    """The process of `peers`, for the time of a `with`."""

    def __init__(self, info_path: str, idle: int, watching: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.feed", "--peers", info_path, str(idle), str(watching)]
        self.counts: dict[str, int] = {"idle": 0, "watching": 0, "opened": 0, "received_bytes": 0}

    def __enter__(self) -> "Peers":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                self.counts = json.loads(line)


# ----------------------------------------------------------------------------------------------------- what is measured


@contextlib.contextmanager
def busy(app: concurrent_nb.ApplicationNode) -> Iterator[list[int]]:
    """Have no-ops computed all the time; yields a list with the number that is done."""
    done, over = [0], threading.Event()

    def run() -> None:
        while not over.is_set():
            futures = [app.submit(work.noop, number) for number in range(5000)]
            for future in futures:
                future.result()
            done[0] += len(futures)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


class Watch:
    """Processor time of a master, and what its feed has taken of it."""

    def __init__(self, info: ConnectionFile) -> None:
        self._process = psutil.Process(info.pid)
        self._control = ControlClient(info.endpoints, info.tokens["admin"])
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        for _ in range(10):
            with contextlib.suppress(ConcurrentError):  # its connection was closed for newer ones, as those of `ping`
                self._control.call("ping")
                break
        times = self._process.cpu_times()
        return time.monotonic(), times.user + times.system, self._control.call("status")["feed"]["cpu_s"]

    def lap(self) -> tuple[float, float, float]:
        """Return seconds, and seconds of processor time of master and feed, since the last call."""
        before, self._before = self._before, self._now()
        seconds, master, feed = (after - earlier for after, earlier in zip(self._before, before, strict=True))
        return seconds, master, feed

    def close(self) -> None:
        self._control.close()


def cpu(seconds: float, rounds: int) -> list[str]:
    """Measure the feed's share, in turns without and with one reader. Returns missed targets."""
    missed = []
    with concurrent_nb.Cluster(workers=2) as cluster:
        path, app = str(cluster.connection_file), cluster.application()
        list(app.map(work.noop, range(1000)))
        watch = Watch(connection_file.read(path))
        shares: dict[int, list[float]] = {0: [], 1: []}
        per_task: dict[int, list[float]] = {0: [], 1: []}
        with busy(app) as done:
            for _ in range(rounds):
                for readers in (0, 1):
                    with Peers(path, 0, readers) as others:
                        while others.counts["watching"] < readers:
                            time.sleep(0.01)
                        time.sleep(1.0)  # the first snapshot is not what goes on
                        watch.lap()
                        before = done[0]
                        time.sleep(seconds)
                        _, master_s, feed_s = watch.lap()
                        tasks = done[0] - before
                    shares[readers].append(feed_s / master_s)
                    per_task[readers].append(master_s / max(1, tasks) * 1e6)
                    show(
                        f"{readers} readers: {tasks / seconds:8,.0f} tasks/s, "
                        f"master {master_s / seconds:5.1%} of a core, {per_task[readers][-1]:5.1f} us/task, "
                        f"feed {shares[readers][-1]:6.2%} of the master"
                    )
        watch.close()
    show(f"median per task: {statistics.median(per_task[0]):.1f} us without, {statistics.median(per_task[1]):.1f} with")
    if statistics.median(shares[1]) > SHARE_MAX:
        missed.append(
            f"cpu: the feed takes {statistics.median(shares[1]):.2%} of the master, more than {SHARE_MAX:.0%}"
        )
    if any(shares[0]):
        missed.append("cpu: the feed takes processor time although nobody watches")
    return missed


def calls(seconds: float, idle: int, watching: int) -> list[str]:
    """Measure round trips of `ping` beside connections. Returns missed targets."""
    missed = []
    with concurrent_nb.Cluster(workers=2) as cluster:
        path, app = str(cluster.connection_file), cluster.application()
        list(app.map(work.noop, range(1000)))
        info = connection_file.read(path)
        watch = Watch(info)
        for name, idle_now, watching_now, is_busy in (
            ("alone", 0, 0, False),
            ("idle connections", idle, 0, False),
            ("readers", 0, watching, False),
            ("both", idle, watching, False),
            ("both, busy", idle, watching, True),
        ):
            with contextlib.ExitStack() as stack:
                done = stack.enter_context(busy(app)) if is_busy else [0]
                others = stack.enter_context(Peers(path, idle_now, watching_now))
                until = time.monotonic() + WITHIN_S
                while others.counts["watching"] < watching_now or others.counts["opened"] < idle_now:
                    if time.monotonic() > until:
                        missed.append(f"{name}: only {others.counts} within {WITHIN_S:.0f} s")
                        break
                    time.sleep(0.05)
                time.sleep(1.0)
                watch.lap()
                before, received = done[0], others.counts["received_bytes"]
                times_s, failed = ping(info, seconds)
                took_s, master_s, feed_s = watch.lap()
                counts = others.counts
            times_s.sort()
            median_s, p99_s = times_s[len(times_s) // 2], times_s[-1 - len(times_s) // 100]
            show(
                f"{name:17}: {counts['idle']:6,} idle ({counts['opened']:,} opened), {counts['watching']:4} watching, "
                f"ping p50 {median_s * 1e3:6.2f} p99 {p99_s * 1e3:6.1f} max {times_s[-1] * 1e3:6.1f} ms, "
                f"n={len(times_s)}, {failed} failed, "
                f"master {master_s / took_s:4.0%} of a core, feed {feed_s / took_s:5.1%}, "
                f"{(counts['received_bytes'] - received) / took_s / work.MIB:5.1f} MiB/s read, "
                f"{(done[0] - before) / took_s:7,.0f} tasks/s"
            )
            if median_s > MEDIAN_S:
                missed.append(
                    f"{name}: the median of a call is {median_s * 1e3:.1f} ms, more than {MEDIAN_S * 1e3:.0f}"
                )
        watch.close()
    return missed


def ping(info: ConnectionFile, seconds: float) -> tuple[list[float], int]:
    """Return the seconds of round trips, and how many failed. Each tenth is on a new connection, as a command's is."""
    times_s: list[float] = []
    failed = 0
    until = time.monotonic() + seconds
    with ControlClient(info.endpoints, info.tokens["client"]) as control:
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                if len(times_s) % 10:
                    control.call("ping")
                else:
                    with ControlClient(info.endpoints, info.tokens["client"]) as fresh:
                        fresh.call("ping")
            except ConcurrentError:  # its connection was closed for newer ones of strangers, before its token came
                failed += 1
            times_s.append(time.monotonic() - began)
            time.sleep(PAUSE_S)
    return times_s, failed


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=__doc__)
    parser.add_argument("--only", choices=["cpu", "calls"])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurement of processor time")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections, as far as descriptors allow")
    parser.add_argument("--watching", type=int, default=500, help="readers")
    parser.add_argument("--peers", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peers:
        peers(options.peers[0], int(options.peers[1]), int(options.peers[2]))
        return 0
    missed = []
    if options.only != "calls":
        missed += cpu(options.seconds, options.rounds)
    if options.only != "cpu":
        missed += calls(options.seconds, options.idle, options.watching)
    for text in missed:
        show(f"missed: {text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
