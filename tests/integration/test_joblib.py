"""`joblib.Parallel` and scikit-learn on a cluster."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.tree import DecisionTreeClassifier

import concurrent_nb.joblib
from concurrent_nb import ApplicationNode, Cluster, Needs, task_functions
from concurrent_nb.errors import ConfigurationError, NotPicklable, TaskTimeout
from concurrent_nb.nodes.application import progress_bar
from tests import fixtures, work
from tests.clusters import eventually

WORKERS = 3
cluster = fixtures.shared_cluster(workers=WORKERS)
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind


@pytest.fixture(autouse=True)
def on_the_cluster(app: ApplicationNode) -> Iterator[None]:
    with app.joblib():
        yield
    eventually(lambda: not app.open_submits(), "all calls have ended")


def nap(seconds: float) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic()


def pid_of(n: int) -> int:
    return os.getpid()


def done(cluster: Cluster) -> int:
    return int(sum(slave["done"] for slave in cluster.status()["slaves"]))


def meet(folder: Path, count: int) -> int:
    """Return when `count` processes are here."""
    (folder / str(os.getpid())).touch()
    eventually(lambda: len(list(folder.iterdir())) == count, "all are here")
    return os.getpid()


def fail(n: int) -> int:
    if n == 7:
        raise KeyError("seven")
    return n


def running(cluster: Cluster) -> int:
    return int(sum(slave["busy"] for slave in cluster.status()["slaves"]))


# ------------------------------------------------------------------------------------------------------------- results


def test_calls_run_in_workers_and_their_values_come_in_order() -> None:
    assert Parallel()(delayed(pow)(2, n) for n in range(2000)) == [2**n for n in range(2000)]
    assert os.getpid() not in Parallel()(delayed(pid_of)(n) for n in range(20))
    assert Parallel()(delayed(lambda a, *, b: a - b)(n, b=1) for n in range(50)) == [n - 1 for n in range(50)]
    assert Parallel()([]) == []


def test_the_backend_is_found_by_its_name_and_uses_the_default_application(app: ApplicationNode) -> None:
    task_functions.use(lambda: app)
    try:
        with joblib.parallel_config(backend="concurrent_nb", name="by name"):
            assert joblib.effective_n_jobs(-1) == WORKERS
            assert os.getpid() not in Parallel()(delayed(pid_of)(n) for n in range(4))
        assert os.getpid() not in Parallel(n_jobs=2, backend="concurrent_nb")(delayed(pid_of)(n) for n in range(4))
    finally:
        task_functions.use(None)


@pytest.mark.parametrize("options", [{"pre_dispatch": "all"}, {"batch_size": 7}, {"n_jobs": 2}, {"verbose": 1}])
def test_options_of_parallel(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert Parallel(**options)(delayed(abs)(-n) for n in range(500)) == list(range(500))
    assert ("finished" in capsys.readouterr().err) == ("verbose" in options)


def test_one_parallel_is_called_many_times() -> None:
    with Parallel() as parallel:
        for count in (10, 0, 300):
            assert parallel(delayed(abs)(-n) for n in range(count)) == list(range(count))
        with pytest.raises(KeyError):
            parallel(delayed(fail)(n) for n in range(20))
        assert parallel(delayed(abs)(-n) for n in range(10)) == list(range(10))


def test_scikit_learn_finds_the_same_as_alone() -> None:
    X, y = make_classification(n_samples=400, random_state=0)

    def found() -> list[Any]:
        n_jobs = 1 if hasattr(joblib.parallel.get_active_backend()[0], "uses_threads") else None
        search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4, 6]}, n_jobs=n_jobs).fit(X, y)
        forest = RandomForestClassifier(12, random_state=0, n_jobs=n_jobs).fit(X, y)
        scores = cross_val_score(LogisticRegression(), X, y, cv=5, n_jobs=n_jobs)
        return [
            search.cv_results_["mean_test_score"].tolist(),
            search.best_params_,
            forest.predict_proba(X).tolist(),
            scores.tolist(),
        ]

    here = found()
    with joblib.parallel_config(backend="sequential"):
        assert found() == here


def test_an_array_that_all_calls_get_does_not_travel_with_each(app: ApplicationNode) -> None:
    array = numpy.arange(1_000_003, dtype=numpy.float64)  # a size of its own: no other test had one at its address
    store = app._packer._store
    values = Parallel(batch_size=1)(delayed(lambda a, n: float(a[n]))(array, n) for n in range(30))
    assert values == [float(n) for n in range(30)]
    # A function is large, too, if this process has imported large modules that travel.
    assert [stored.slice.size for stored in store._stored.values()].count(array.nbytes) == 1


def test_arguments_that_have_been_sent_are_not_kept() -> None:
    gone: list[int] = []
    kept_most = 0

    def new_array(n: int) -> Any:
        nonlocal kept_most
        kept_most = max(kept_most, n - len(gone))
        array = numpy.full(3, n)
        weakref.finalize(array, gone.append, n)
        return array

    assert Parallel(batch_size=1)(delayed(max)(new_array(n)) for n in range(300)) == list(range(300))
    assert kept_most < 50 and len(gone) == 300


def fill(array: Any, n: int, *, also: Any) -> None:
    array[n] = also["row"][n] = n


def test_calls_fill_an_array_in_a_file(tmp_path: Path) -> None:
    array, row = (numpy.memmap(tmp_path / name, numpy.float64, "w+", shape=(40,)) for name in ("array", "row"))
    Parallel()(delayed(fill)(array[10:], n, also={"row": row}) for n in range(30))
    assert array.tolist() == [0.0] * 10 + list(range(30)) and row.tolist() == [*range(30), *[0.0] * 10]


def test_short_calls_travel_together_to_the_very_end(cluster: Cluster) -> None:
    before = done(cluster)
    assert Parallel()(delayed(abs)(-n) for n in range(5000)) == list(range(5000))
    assert done(cluster) - before < 100
    assert Parallel(batch_size=50)(delayed(abs)(-n) for n in range(500)) == list(range(500))


def test_what_is_read_before_the_calls_begin_travels_together_too(cluster: Cluster) -> None:
    before = done(cluster)
    assert Parallel(pre_dispatch="all")(delayed(abs)(-n) for n in range(5000)) == list(range(5000))
    assert Parallel(pre_dispatch=3000)(delayed(abs)(-n) for n in range(5000)) == list(range(5000))
    assert done(cluster) - before < 500


def test_short_calls_do_not_wait_for_a_slow_input() -> None:
    parallel = Parallel(n_jobs=2)

    def slow_input() -> Iterator[Any]:
        for n in range(300):
            time.sleep(0.005)
            behind.append(n - parallel.n_completed_tasks)
            yield delayed(abs)(-n)

    behind: list[int] = []
    assert parallel(slow_input()) == list(range(300))
    assert sorted(behind)[150] < 64  # the input takes longer than all calls: most have ended


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize("item", [(), (abs,), (abs, (1,), [2])])
def test_items_that_are_no_calls_are_an_error(item: Any, return_as: str) -> None:
    with pytest.raises((IndexError, TypeError, AttributeError)):
        list(Parallel(return_as=return_as)([delayed(abs)(1), item, delayed(abs)(1)]))


def test_prints_of_calls_come_out_here(capfd: pytest.CaptureFixture[str]) -> None:
    Parallel()(delayed(print)(f"<{n}>") for n in range(5))
    assert sorted(capfd.readouterr().out.split()) == [f"<{n}>" for n in range(5)]


# ---------------------------------------------------------------------------------------------------------- generators


def test_results_are_generated_in_order_or_as_they_come() -> None:
    calls = [delayed(nap)(0.3), *(delayed(nap)(0.0) for _ in range(20))]
    ordered = list(Parallel(return_as="generator", batch_size=1)(calls))
    assert ordered[0][1] - ordered[0][0] >= 0.3
    unordered = list(Parallel(return_as="generator_unordered", batch_size=1)(calls))
    assert unordered[0][1] - unordered[0][0] < 0.3
    assert len(unordered) == 21


def test_an_endless_input_is_read_as_results_are_taken_and_closing_ends_it(app: ApplicationNode) -> None:
    read = itertools.count()
    generated = Parallel(return_as="generator", batch_size=1)(delayed(abs)(n) for n in read)
    assert list(itertools.islice(generated, 10)) == list(range(10))
    with pytest.warns(UserWarning, match="not used|cancelled"):
        generated.close()
    eventually(lambda: not app.open_submits(), "its calls have ended")


def test_the_results_of_one_parallel_are_the_input_of_another() -> None:
    first = Parallel(return_as="generator")(delayed(abs)(-n) for n in range(100))
    second = Parallel(return_as="generator")(delayed(pow)(n, 2) for n in first)
    assert Parallel()(delayed(str)(n) for n in second) == [str(n * n) for n in range(100)]


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_a_call_raises_is_raised_here_and_stops_the_others(
    cluster: Cluster, app: ApplicationNode, tmp_path: Path
) -> None:
    calls = [delayed(fail)(7), *(delayed(work.tell_pid_and_stay)(tmp_path) for _ in range(5))]
    with pytest.raises(KeyError, match="seven") as caught:
        Parallel(batch_size=1)(calls)
    assert "in fail" in str(caught.value.__cause__)
    eventually(lambda: not app.open_submits() and running(cluster) == 0, "all have been stopped")


def test_what_the_input_raises_is_raised_here(app: ApplicationNode) -> None:
    def broken() -> Iterator[Any]:
        for n in range(30):
            yield delayed(abs)(n)
        raise LookupError("no more input")

    for options in ({}, {"return_as": "generator"}):
        with pytest.raises(LookupError, match="no more input"):
            list(Parallel(**options)(broken()))


def test_what_cannot_be_pickled_is_named(app: ApplicationNode) -> None:
    with pytest.raises(NotPicklable, match="lock"):
        Parallel()(delayed(id)(threading.Lock()) for _ in range(3))
    lock = threading.Lock()
    with pytest.raises(NotPicklable, match="lock"):
        Parallel()(delayed(lambda n: lock)(n) for n in range(3))
    with pytest.raises(NotPicklable, match="lock"):  # after the first calls, when a callback sends it
        Parallel(batch_size=1)(delayed(id)(lock if n == 20 else n) for n in range(30))
    with pytest.raises(NotPicklable, match="lock"):
        list(Parallel(batch_size=1, return_as="generator")(delayed(id)(lock if n == 20 else n) for n in range(30)))


def test_a_worker_that_dies_is_replaced_and_its_calls_run_again(tmp_path: Path) -> None:
    def die_once(n: int) -> int:
        if n == 5 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    assert Parallel()(delayed(die_once)(n) for n in range(20)) == list(range(20))


def test_timeouts(cluster: Cluster, app: ApplicationNode, tmp_path: Path) -> None:
    calls = [delayed(work.tell_pid_and_stay)(tmp_path) for _ in range(3)]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.2)(calls)
    eventually(lambda: not app.open_submits() and running(cluster) == 0, "all have been stopped")
    with app.joblib(timeout_s=0.2), pytest.raises(TaskTimeout):
        Parallel()(calls)
    assert Parallel(timeout=work.PATIENCE_S)(delayed(abs)(n) for n in range(100)) == list(range(100))


def test_an_interrupt_stops_the_calls(cluster: Cluster, app: ApplicationNode, tmp_path: Path) -> None:
    def interrupt() -> None:
        eventually(lambda: len(list(tmp_path.iterdir())) == WORKERS, "the calls run")
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel()(delayed(work.tell_pid_and_stay)(tmp_path) for _ in range(10))
    killer.join()
    eventually(lambda: not app.open_submits() and running(cluster) == 0, "all have been stopped")


def test_options_that_there_are_not(app: ApplicationNode) -> None:
    with pytest.raises(TypeError, match="no option colour"):
        Parallel(n_jobs=2, colour="red")([delayed(abs)(1)])
    with pytest.raises(ConfigurationError, match="retries"):
        app.joblib(retries=-1)
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)([delayed(abs)(1)])


# ---------------------------------------------------------------------------------------------------- how many at once


def most_at_once(spans: list[tuple[float, float]]) -> int:
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


def test_an_application_that_is_closed_says_so(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    closed = concurrent_nb.connect(cluster.connection_file)
    closed.close()
    with closed.joblib(), pytest.raises(RuntimeError, match="after shutdown"):
        Parallel()(delayed(abs)(n) for n in range(3))
    assert not caplog.records


def test_n_jobs_limits_how_many_run_at_once(tmp_path: Path) -> None:
    assert most_at_once(Parallel(n_jobs=2)(delayed(nap)(0.02) for _ in range(12))) <= 2
    calls = [delayed(meet)(tmp_path, WORKERS) for _ in range(WORKERS)]
    assert len(set(Parallel()(calls))) == WORKERS


def test_one_job_runs_here() -> None:
    assert Parallel(n_jobs=1)(delayed(pid_of)(n) for n in range(3)) == [os.getpid()] * 3


def test_calls_with_several_cores(app: ApplicationNode) -> None:
    with joblib.parallel_config(backend=joblib.parallel.get_active_backend()[0], inner_max_num_threads=3, n_jobs=-1):
        spans = Parallel()(delayed(nap)(0.02) for _ in range(4))
    assert most_at_once(spans) == 1
    with app.joblib(needs=Needs(cores=3)):
        assert joblib.effective_n_jobs(-1) == 2  # not 1, which joblib would run here
        assert most_at_once(Parallel()(delayed(nap)(0.02) for _ in range(4))) == 1


# -------------------------------------------------------------------------------------------------------------- nested


def inner(n: int, n_jobs: int | None) -> tuple[int, list[int]]:
    return os.getpid(), Parallel(n_jobs=n_jobs)(delayed(pow)(n, exponent) for exponent in range(4))


def middle(n: int) -> list[list[int]]:
    return [values for _, values in Parallel(n_jobs=2)(delayed(inner)(n, 2) for _ in range(2))]


def test_a_parallel_in_a_call() -> None:
    for n_jobs in (None, 1, 2, -1):
        found = Parallel()(delayed(inner)(n, n_jobs) for n in range(5))
        assert [values for _, values in found] == [[n**exponent for exponent in range(4)] for n in range(5)]
        assert os.getpid() not in [pid for pid, _ in found]
    assert Parallel()(delayed(middle)(n) for n in range(3)) == [[[n**e for e in range(4)]] * 2 for n in range(3)]


# ----------------------------------------------------------------------------------------------------------- notebook


def test_progress_is_shown_while_the_main_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int, int]] = []

    class Bar:
        def move(self, done: int, total: int) -> None:
            moves.append((done, total))

        def close(self) -> None:
            moves.append((-1, -1))

    monkeypatch.setattr(progress_bar, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(progress_bar.SHOWN, "make", lambda kind, name: Bar())
    Parallel(batch_size=1)([delayed(abs)(n) for n in range(30)])
    assert moves[-2:] == [(30, 30), (-1, -1)] and len({done for done, _ in moves}) > 5


SCRIPT = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "concurrent_nb")
assert "joblib" not in sys.modules, "it takes 0.2 s, which few notebooks need"
import joblib, os
shell.run_line_magic("concurrent", "connect " + sys.argv[1])
with joblib.parallel_config(backend="concurrent_nb"):
    pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
assert os.getpid() not in pids
shell.run_line_magic("unload_ext", "concurrent_nb")
"""


def test_loading_the_extension_registers_the_backend(cluster: Cluster) -> None:
    command = [sys.executable, "-c", SCRIPT, str(cluster.connection_file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=work.PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_public_module_registers_the_backend() -> None:
    assert joblib.parallel.BACKENDS["concurrent_nb"] is concurrent_nb.joblib.make_backend
