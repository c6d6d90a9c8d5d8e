"""What each worker does before its first task, and how many it runs: `Cluster(initializer=, max_tasks_per_worker=)`."""

import collections
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

from concurrent_nb import Cluster, Needs
from concurrent_nb.errors import ClusterStartFailed, ConfigurationError, InitializerFailed, NotPicklable
from tests import clusters

PATIENCE_S = 30


def remember(*what: Any) -> None:
    """Keep something where a task of this worker finds it."""
    sys.modules["remembered"] = what  # type: ignore[assignment]


def remembered(_: Any = None) -> tuple[int, Any]:
    return os.getpid(), sys.modules.get("remembered")


def remembered_in_a_thread() -> Any:
    assert threading.current_thread() is not threading.main_thread()
    return sys.modules.get("remembered")


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(text: str) -> None:
    raise LookupError(text)


def test_an_initializer_runs_in_every_worker_also_in_later_ones_and_in_threads() -> None:
    secret = numpy.arange(3)
    with Cluster(workers=2, initializer=lambda *what: remember(*what), initargs=(secret, "b")) as cluster:
        app = cluster.application()
        told = list(app.map(remembered, range(50), chunksize=1))
        assert {value[1] for _, value in told} == {"b"}
        assert all((value[0] == secret).all() for _, value in told)
        with pytest.raises(Exception, match="died of SIGKILL"):
            app.submit(die).result(PATIENCE_S)
        clusters.settle(cluster)
        cluster.scale(3)
        clusters.settle(cluster)
        told = list(app.map(remembered, range(100), chunksize=1))
        assert {value[1] for _, value in told} == {"b"}
        # What tasks start is not to find the initializer.
        assert "CONCURRENT_NB_INITIALIZER" not in app.submit(lambda: dict(os.environ)).result(PATIENCE_S)
        assert app.options(needs=Needs(kind="thread")).submit(remembered_in_a_thread).result(PATIENCE_S)[1] == "b"


@pytest.mark.parametrize(
    ("initializer", "initargs", "said"),
    [
        (refuse, ("no model here",), "LookupError: no model here"),
        (lambda: sys.exit("not today"), (), "SystemExit: not today"),
        (die, (), "3 workers ended in a row .* died of SIGKILL .* while it was initialized"),
        (remember, (numpy.random.default_rng,) * 2, ""),
    ],
    ids=["raises", "exits", "dies", "works"],
)
def test_a_failing_initializer_ends_open_futures_and_refuses_others(
    initializer: Any, initargs: tuple[Any, ...], said: str
) -> None:
    with Cluster(workers=2, initializer=initializer, initargs=initargs) as cluster:
        app = cluster.application()
        futures = [app.submit(remembered) for _ in range(10)]
        if not said:
            assert all(future.result(PATIENCE_S)[1] == initargs for future in futures)
            return
        for future in futures:
            with pytest.raises(InitializerFailed, match=f"(?s){said}") as failure:
                future.result(PATIENCE_S)
            assert isinstance(failure.value, (concurrent.futures.BrokenExecutor, ClusterStartFailed))
        with pytest.raises(InitializerFailed):
            app.submit(remembered)
        with pytest.raises(InitializerFailed):
            cluster.status()


def test_what_makes_no_sense_is_refused_before_anything_starts() -> None:
    for limit in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigurationError, match="max_tasks_per_worker"):
            Cluster(max_tasks_per_worker=limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="initializer"):
        Cluster(initializer="load")  # type: ignore[arg-type]
    with pytest.raises(NotPicklable):
        Cluster(initializer=remember, initargs=(threading.Lock(),))


def test_workers_run_so_many_tasks_and_nothing_is_lost_or_run_twice() -> None:
    with Cluster(workers=2, max_tasks_per_worker=3) as cluster:
        app = cluster.application()
        counts = collections.Counter(app.map(pid_after, [0.0] * 60))
        assert max(counts.values()) == 3
        assert len(counts) >= 20
        counts = collections.Counter(
            future.result(PATIENCE_S) for future in [app.submit(os.getpid) for _ in range(100)]
        )
        assert sum(counts.values()) == 100
        assert max(counts.values()) <= 3
        # A chunk that was asked for is one task, large results outlive their worker, and errors count as results do.
        counts = collections.Counter(app.map(pid_after, [0.0] * 60, chunksize=10))
        assert max(counts.values()) in (10, 20, 30)
        arrays = list(app.map(numpy.ones, [100_000] * 12))
        assert all(array.sum() == 100_000 for array in arrays)
        futures = [app.submit(refuse, "x") for _ in range(20)]
        assert all(isinstance(future.exception(PATIENCE_S), LookupError) for future in futures)
        # Slow tasks, of which some are recalled from behind others.
        slow = [app.submit(pid_after, 0.05 if index % 5 else 0.2) for index in range(20)]
        counts = collections.Counter(future.result(PATIENCE_S) for future in slow)
        assert sum(counts.values()) == 20
        assert max(counts.values()) <= 3
        (slave,) = cluster.status()["slaves"]
        assert slave["slots"] == 2


def test_the_command_line_takes_the_number_too() -> None:
    with clusters.running("start", "--name", "few", "--workers", "1", "--max-tasks-per-worker", "2", says="running"):
        import concurrent_nb

        app = concurrent_nb.connect("few")
        pids = [app.submit(os.getpid).result(PATIENCE_S) for _ in range(6)]
        app.close()
    assert max(collections.Counter(pids).values()) == 2


#: as it is typed in a script: globals of the script, and of a module beside it, are set once in each worker
SCRIPT = """
import functools, os, pathlib, sys
import concurrent_nb

folder = pathlib.Path(sys.argv[1])
(folder / "kept.py").write_text(
    "import functools\\nG = None\\ncalls = 0\\n"
    "def init(x):\\n    global G\\n    G = x\\n"
    "def get(_=0): return G\\n"
    "@functools.cache\\ndef load(n):\\n    global calls\\n    calls += 1\\n    return n\\n"
    "def count(): return calls\\n"
)
(folder / "later.py").write_text("")
sys.path.insert(0, str(folder))
import kept

model = None

def init(x):
    global model, unit
    model, unit = x, "g"

def predict(x):
    return model * x, unit

def helper(x):
    return predict(x)

class Score:
    def __call__(self, x):
        return model + x

if __name__ == "__main__":
    with concurrent_nb.Cluster(workers=1, initializer=init, initargs=(5,)) as cluster:
        app = cluster.application()
        print(app.submit(predict, 2).result(), list(app.map(helper, [1, 2])), app.submit(Score(), 1).result())
        print(app.submit(lambda: predict(3)).result(), app.submit(functools.partial(predict, 1)).result())
    with concurrent_nb.Cluster(workers=1, initializer=kept.init, initargs=(7,)) as cluster:
        app = cluster.application()
        values = [app.submit(kept.get).result()]
        import later
        values.append(app.submit(kept.get).result())
        os.environ["LATER"] = "1"
        print(values + list(app.map(kept.get, range(2))))
        app.submit(kept.load, 4).result()
        os.environ["LATER"] = "2"
        app.submit(lambda: kept.load(4)).result()
        print(app.submit(kept.count).result())
"""


def test_tasks_find_the_globals_that_an_initializer_has_set(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert told.stdout.splitlines() == [
        "(10, 'g') [(5, 'g'), (10, 'g')] 6",
        "(15, 'g') (5, 'g')",
        "[7, 7, 7, 7]",
        "1",
    ], told.stderr
