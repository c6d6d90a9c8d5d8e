"""The driver: every contender in turn, round after round, each time in a fresh process; then the table.

    python -m benchmarks.run [--rounds 3] [--size full|quick] [--results FILE.md] [CONTENDER ...]

The order rotates from round to round. A contender that takes longer than its limit is ended with all its processes, and
the table shows that. Nothing of a run stays: it writes into a folder of its own.
"""

import argparse
import contextlib
import importlib.util
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import psutil

from benchmarks import processes, report
from benchmarks.measure import SIZES, START_TIMEOUT_S, WORKERS, roles
from benchmarks.peers import CONTENDERS, OURS, QUICK
from benchmarks.report import Figure

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED_MEMORY: Final = Path("/dev/shm")
#: limit in seconds for one contender in one round without its start, by group
LIMIT_S: Final = {"figures": 90.0, "queue": 40.0, "scheduler": 90.0}
#: processes that are still there this many seconds after the contender has stopped count as left over
EXIT_PATIENCE_S: Final = 5.0
#: seconds in which processes may clean up when the process that started them has been killed
ORPHANS_PATIENCE_S: Final = 2.0


class Line(msgspec.Struct):
    """A figure from a measuring process."""

    metric: str
    value: float | None
    n: int | None
    note: str


class Run:
    """One contender in a process of its own, with all its child processes, which end with the block."""

    def __init__(self, name: str, size: str, group: str) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.name = name
        self._group = group
        self._size = SIZES[size]
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))  # short: some contenders put sockets there
        self._shared_before = shared_memory()
        self._known: dict[int, psutil.Process] = {}
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._began = time.time()
        self._deadline = time.monotonic() + LIMIT_S[group] + START_TIMEOUT_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measure", name, self.id, size, group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=self._environment(),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def figures(self) -> Iterator[Line]:
        """Yield figures as they arrive, and at the end those about how it ended."""
        for line in self._until_end():
            if line.metric == "ready":
                assert line.value is not None
                yield Line("start_s", line.value - self._began, None, "")
                workers = {int(pid) for pid in line.note.split()}
                if len(workers) < WORKERS:
                    yield Line("problem", None, None, f"only {len(workers)} of {WORKERS} workers answered")
                yield from self._idle(workers)
                self._deadline = time.monotonic() + LIMIT_S[self._group]
                assert self._process.stdin is not None
                self._process.stdin.write(b"go on\n")
                self._process.stdin.flush()
            elif line.metric == "end":
                if self._group == "figures":
                    yield from self._exit()
            else:
                yield line

    def close(self) -> None:
        """End all remaining processes: first the root, so that the others can clean up, then the rest."""
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + ORPHANS_PATIENCE_S
        while processes.members(self.id) and time.monotonic() < deadline:
            time.sleep(0.02)
        processes.end(self.id, self._known.values())
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # killed processes may have written until now

    def clear_shared_memory(self) -> list[str]:
        """Return what this ended run has left in shared memory; remove entries with a pid of the run in their name."""
        new = shared_memory() - self._shared_before
        if new:
            new -= processes.holding(SHARED_MEMORY)  # of other users' new processes
        for name in new:
            if {int(number) for number in re.findall(r"\d+", name)} & {*self._known, self._process.pid}:
                path = SHARED_MEMORY / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return sorted(new)

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "IPYTHON", "XDG_", "RAY_", "DASK_"))
        }
        return kept | {
            processes.MARK: self.id,
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _until_end(self) -> Iterator[Line]:
        while True:
            try:
                text = self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                yield Line("problem", None, None, f"{self._group}: took more than {LIMIT_S[self._group]:.0f} s, ended")
                return
            if not text:
                self._log.seek(0)
                words = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
                note = f"{self._group}: ended with exit code {self._process.wait()}: {' '.join(words)}"
                yield Line("problem", None, None, note[:300])
                return
            line = msgspec.json.decode(text, type=Line)
            if line.metric == "end":
                self._remember()
                yield line
                return
            yield line

    def _remember(self) -> None:
        self._known |= processes.members(self.id)

    def _idle(self, workers: set[int]) -> Iterator[Line]:
        """Yield the memory of the processes that wait for their first task."""
        time.sleep(self._size.idle_s)
        self._remember()
        if not psutil.LINUX:
            yield Line("idle_cluster_MiB", None, None, "only Linux reports PSS")
            return
        mib = {pid: size / 2**20 for pid, size in processes.pss_bytes(self.id).items()}
        by_role = roles(CONTENDERS[self.name](), mib, processes.commands(self.id), workers, self._process.pid)
        yield Line("idle_MiB", sum(mib.values()), None, "")
        yield Line("idle_cluster_MiB", sum(mib.values()) - by_role.get("client", 0.0), None, "")
        for role, size in by_role.items():
            yield Line(f"idle_MiB, {role}", size, None, "")

    def _exit(self) -> Iterator[Line]:
        """Yield the time until all processes have ended, after the contender has been stopped."""
        stopped = time.monotonic()
        while (waited_s := time.monotonic() - stopped) < EXIT_PATIENCE_S:
            if self._process.poll() is not None and not processes.members(self.id):
                yield Line("exit_s", waited_s, None, "")
                return
            time.sleep(0.01)
        left = processes.commands(self.id)
        shown = ", ".join(sorted({command[:60] for command in left.values()}))
        yield Line("problem", None, None, f"{len(left)} processes were left after it had stopped: {shown}")


def shared_memory() -> set[str]:
    """Return the names in this machine's shared memory."""
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def measured(name: str, number: int, size: str, group: str) -> Iterator[Figure]:
    """Run one contender once; return its figures."""
    run = Run(name, size, group)
    problems: list[str] = []
    finished = False
    try:
        for line in run.figures():
            if line.metric == "problem":
                problems.append(line.note)
            else:
                yield Figure(name, number, line.metric, line.value, line.n, line.note)
        finished = not problems and group == "figures"
    finally:
        run.close()
        left = run.clear_shared_memory()
        if left and finished:  # a run that we ended is not at fault
            problems.append(f"left in {SHARED_MEMORY}: {', '.join(left)}")
    for note in problems:
        yield Figure(name, number, report.PROBLEM, None, None, note)


def in_turn(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, name): each name once per round, and each round begins with another name."""
    for number in range(rounds):
        shift = number * max(1, len(names) // rounds) % len(names)
        for name in [*names[shift:], *names[:shift]]:
            yield number, name


def groups(name: str, number: int) -> list[str]:
    """Return the groups to measure in a round. A peer's queue takes long and its memory hardly varies: once."""
    if name == OURS:
        return ["figures", "queue", "scheduler"]
    return ["figures", "queue"] if number == 0 else ["figures"]


def installed(name: str) -> bool:
    """Return whether this Python has the contender."""
    return importlib.util.find_spec(CONTENDERS[name].module.partition(".")[0]) is not None


def collect(names: Sequence[str], rounds: int, size: str) -> Iterator[Figure]:
    """Measure all contenders; print the progress on standard error."""
    present = [name for name in names if installed(name)]
    for number, name in in_turn(present, rounds):
        began = time.monotonic()
        for group in groups(name, number):
            yield from measured(name, number, size, group)
        sys.stderr.write(f"round {number + 1} of {rounds}: {name} took {time.monotonic() - began:.0f} s\n")
        sys.stderr.flush()


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=f"of {', '.join(CONTENDERS)}; all if none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="full", help="quick: smaller counts, for `make bench-quick`")
    parser.add_argument("--results", type=Path, help="write the table to this file, and a plot beside it")
    parser.add_argument("--figures", type=Path, help="keep every single figure in this file, a JSON object a line")
    options = parser.parse_args()
    names = options.contenders or list(QUICK if options.size == "quick" else CONTENDERS)
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"there is no contender {', '.join(sorted(unknown))}: take some of {', '.join(CONTENDERS)}")
    signal.signal(signal.SIGTERM, _interrupt)  # so that started processes are ended
    began = time.monotonic()
    figures = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(options.figures.open("wb")) if options.figures else None
        for figure in collect(names, options.rounds, options.size):
            figures.append(figure)
            if log is not None:
                log.write(msgspec.json.encode(figure) + b"\n")
                log.flush()
    absent = [name for name in names if not installed(name)]
    took_s = time.monotonic() - began
    about = report.About.of_this_run(sys.argv[1:], options.rounds, options.size, took_s, names, absent)
    text = report.write(options.results, figures, about) if options.results else report.render(figures, about)
    sys.stdout.write(text)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
