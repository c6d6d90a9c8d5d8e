"""What a test leaves behind: processes, threads, open descriptors, shared memory, files.

`conftest.py` calls `held` before each test and `left_since` after it. Whatever was not there before the test is a leak,
except for the few third-party helpers named below, each with its reason.
"""

import contextlib
import gc
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

#: What is held now: a key that tells one thing from another of its kind, and words for people.
Held = Mapping[tuple[object, ...], str]

#: How long a thing may take to go after a test, in seconds.
PATIENCE_S = 3.0
POLL_S = 0.01

SHARED_MEMORY = Path("/dev/shm")

#: Every process that descends from this test run has this variable, so that orphans are found as well.
MARK = "CONCURRENT_NB_TEST_RUN"

#: Templates and workers have this in their command lines; how many a template has, and has had at most.
WORKER = "concurrent_nb.nodes.worker.process"
_PARENTS: dict[tuple[object, ...], int] = {}
_WORKERS: Counter[int] = Counter()
_MOST_WORKERS: Counter[int] = Counter()
_MOST_WORKERS_BEFORE: dict[int, int] = {}

#: Threads of other people's libraries that live as long as the process, by name.
KNOWN_THREADS = {
    "IPythonHistorySavingThread": "lives as long as IPython's shell, which is a singleton",
    "Dask-Offload_0": "Dask's pool for compressing, one for the process",
    "Dask-Callback-Thread_0": "Dask's pool for callbacks of futures, one for the process",
}
#: Files that those keep open, by the end of their names.
KNOWN_OPEN_FILES = {
    "/history.sqlite": "IPython's history",
    "/history.sqlite-journal": "IPython's history",
    ".ttf": "fonts that matplotlib has drawn with",
}
#: Files that other people's libraries leave in the temporary folder or in shared memory, by the start of their names.
KNOWN_FILES = {
    "ipykernel_": "sources of cells, kept for the debugger",
    "mpich_shm_": "of MPI's processes, in another process of this run, too; MPI removes it",
}


#: Descriptors that other people's libraries keep until the process ends, with what they pointed to.
_KEPT: set[tuple[object, ...]] = set()


def keep_descriptors(before: Held) -> None:
    """Know the descriptors that were opened since `before` as a library's own, which it keeps until the process ends.

    For Ray, which closes its sockets and logs only then. Shared memory of ours is never among them.
    """
    _KEPT.update(
        key
        for key in descriptors()
        if key not in before and "/memfd:concurrent_nb-" not in str(key[2]) and not str(key[2]).startswith("pipe:")
    )


def held(folders: Sequence[Path] = ()) -> Held:
    """Everything that this process holds now; `folders` are watched for files along with shared memory."""
    found = _held(folders)
    _MOST_WORKERS_BEFORE.update(_MOST_WORKERS)
    return found


def _held(folders: Sequence[Path]) -> Held:
    return {**processes(), **threads(), **descriptors(), **files(SHARED_MEMORY, *folders)}


def left_since(before: Held, folders: Sequence[Path] = (), patience_s: float = PATIENCE_S) -> list[str]:
    """Name each thing that is held now and was not held `before`.

    Waits up to `patience_s` seconds for things to go. Returns as soon as nothing is left, which is at once for a clean
    test.
    """
    left = _difference(before, folders)
    if not left:
        return []
    gc.collect()
    deadline = time.monotonic() + patience_s
    while left := _difference(before, folders):
        _stop_idle_helpers()
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    if not left:
        return []
    ours = left.keys() - _held_by_strangers(list(left))
    ours &= _difference(before, folders).keys()  # strangers that have ended meanwhile have removed theirs
    return [words for key, words in left.items() if key in ours]


def kill_since(before: Held) -> None:
    """Kill every process of this run that was not there `before`, so that a failed run leaves the machine as it was."""
    for kind, pid, *_ in processes().keys() - before.keys():
        assert kind == "process"
        assert isinstance(pid, int)
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def processes() -> Held:
    """Children, their children, and orphans that carry this run's mark. A zombie counts: nobody waited for it."""
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for pid in _marked_pids():
        if pid not in found and pid != os.getpid():
            try:
                found[pid] = psutil.Process(pid)
            except psutil.NoSuchProcess:
                continue
    result: dict[tuple[object, ...], str] = {}
    workers: Counter[int] = Counter()
    for pid, process in found.items():
        try:
            born = process.create_time()
            parent = process.ppid()
            zombie = process.status() == psutil.STATUS_ZOMBIE
            command = process.name() + ", a zombie: nobody waited for it" if zombie else " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        result["process", pid, born] = f"process {pid} ({command})"
        if WORKER in command:
            workers[parent] += 1
            _PARENTS[pid, born] = parent
    for parent, count in workers.items():
        _MOST_WORKERS[parent] = max(count, _MOST_WORKERS[parent])
        _WORKERS[parent] = count
    return result


def threads() -> Held:
    """Every thread that Python knows, and the line that it stands on."""
    frames = sys._current_frames()
    result: dict[tuple[object, ...], str] = {}
    for thread in threading.enumerate():
        if thread.name in KNOWN_THREADS:
            continue
        frame = frames.get(thread.ident or 0)
        place = f", in {frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        result["thread", thread] = f"thread {thread.name!r}{place}"
    return result


def descriptors() -> Held:
    """Every open descriptor of this process and what it points to."""
    result: dict[tuple[object, ...], str] = {}
    for name in os.listdir("/dev/fd"):
        try:
            target = os.readlink(f"/dev/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
        except OSError:
            target = "unknown"  # a system that does not tell
        if not target.endswith(tuple(KNOWN_OPEN_FILES)):
            result["descriptor", name, target] = f"descriptor {name} -> {target}"
    return result


def files(*folders: Path) -> Held:
    """The entries of each folder, not of the folders in it."""
    return {
        ("file", str(path)): f"file {path}"
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if not path.name.startswith(tuple(KNOWN_FILES))
    }


def _difference(before: Held, folders: Sequence[Path]) -> dict[tuple[object, ...], str]:
    now = _held(folders)
    # An application keeps shared memory for its next tasks, threads for what they print and whom they tell. One that
    # was there before may keep more now; what it keeps after its end is found at the end of the run.
    goes_on = any(key[0] == "thread" and _is_of_an_application(key[1]) for key in before.keys() & now.keys())
    return {
        key: words
        for key, words in now.items()
        if key not in before
        and key not in _KEPT
        and not (goes_on and _is_kept_by_an_application(key))
        and not _is_replaced(key, before)
    }


def _is_replaced(key: tuple[object, ...], before: Held) -> bool:
    """Say whether this is a worker in the place of another one, of a template that was there before the test.

    A task that is stopped in the middle of an import, or does not heed it, costs its worker.
    """
    parent = _PARENTS.get(key[1:]) if key[0] == "process" else None
    if parent is None or not any(known[:2] == ("process", parent) for known in before):
        return False
    return _WORKERS[parent] <= _MOST_WORKERS_BEFORE.get(parent, 0)


def _is_kept_by_an_application(key: tuple[object, ...]) -> bool:
    if key[0] == "thread":
        return (
            isinstance(key[1], threading.Thread)
            and _is_of_an_application(key[1])
            and key[1].name.endswith((" output", " callbacks"))
        )
    return key[0] == "descriptor" and "/memfd:concurrent_nb-" in str(key[2])


def _is_of_an_application(thread: object) -> bool:
    return isinstance(thread, threading.Thread) and thread.name.startswith("concurrent_nb ")


def _stop_idle_helpers() -> None:
    """Stop what other people's libraries keep for their next call. Each starts anew when it is needed."""
    # pyzmq starts a thread at the first zero-copy send.
    if module := sys.modules.get("zmq.utils.garbage"):
        collector = module.gc
        # Buffers that ZeroMQ still holds belong to a socket that somebody left open.
        if collector.is_alive() and not collector.refs:
            collector.stop()
    # Jupyter's blocking clients keep an event loop for each thread.
    if module := sys.modules.get("jupyter_core.utils"):
        loop = module.ensure_event_loop()
        if not loop.is_running():
            loop.close()


def _marked_pids() -> list[int]:
    mark = f"{MARK}={os.environ[MARK]}".encode() if MARK in os.environ else None
    if mark is None or not Path("/proc/self/environ").exists():
        return []
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                environment = Path("/proc", entry, "environ").read_bytes()
            except OSError:
                continue  # gone, or somebody else's
            if mark in environment.split(b"\0"):
                pids.append(int(entry))
    return pids


def _held_by_strangers(left: Sequence[tuple[object, ...]]) -> set[tuple[object, ...]]:
    """Shared memory that a process outside this run made or has open or mapped: that of another run on this machine."""
    paths = {str(key[1]): key for key in left if key[0] == "file" and str(key[1]).startswith(f"{SHARED_MEMORY}/")}
    if not paths:
        return set()
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True)), *_marked_pids()}
    found: set[str] = set()
    for path in paths:
        maker = re.match(r"(?:joblib_memmapping_folder_|sem\.loky-)(\d+)[_-]", Path(path).name)
        if maker and int(maker[1]) not in ours and psutil.pid_exists(int(maker[1])):
            found.add(path)
    for process in psutil.process_iter():
        if process.pid not in ours:
            try:
                found |= {entry.path for entry in process.memory_maps()} | {
                    entry.path for entry in process.open_files()
                }
            except psutil.Error:
                continue
    return {key for path, key in paths.items() if path in found}
