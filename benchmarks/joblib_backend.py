"""joblib's `Parallel` and scikit-learn on our backend and on loky, in turn in one process. 2 workers each.

    python -m benchmarks.joblib_backend [--rounds 5] [--only WORD] [--results FILE.md]

Every round measures each workload once with each backend, in turn; a figure is the time from the call to the last
result. Quote the ratios of one run: absolute figures vary with the machine's load. The results of both must be equal.
Promised: at most 1.1 x loky's time for tasks of 10 ms and more, at most 0.7 x for many short ones.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import joblib
import numpy
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.tree import DecisionTreeClassifier

import concurrent_nb
from benchmarks import report
from benchmarks.workloads import pass_time

WORKERS = 2
#: of loky's time, by the first word of a workload; what has no promise is shown only
AT_MOST: Final = {"short": 0.7, "long": 1.1, "arrays": 1.1, "sklearn": 1.1}


def nothing(n: int) -> int:
    return n


def total(array: Any, n: int) -> float:
    return float(array[n])


def calls(count: int, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: Parallel(n_jobs=WORKERS)(delayed(function)(*args) for _ in range(count))


def many_calls(times: int, count: int, duration_s: float) -> Callable[[], Any]:
    return lambda: [calls(count, pass_time, duration_s)() for _ in range(times)]


def passes(count: int, size: int) -> Callable[[], Any]:
    array = numpy.arange(size, dtype=numpy.float64)
    return lambda: Parallel(n_jobs=WORKERS)(delayed(total)(array, n) for n in range(count))


def returns(count: int, size: int) -> Callable[[], Any]:
    return lambda: [len(it) for it in Parallel(n_jobs=WORKERS)(delayed(numpy.ones)(size) for _ in range(count))]


def workloads() -> dict[str, Callable[[], Any]]:
    X, y = make_classification(n_samples=2000, n_features=20, random_state=0)
    large_x, large_y = make_classification(n_samples=20_000, n_features=50, random_state=0)
    grid = {"max_depth": [2, 4, 6, 8], "min_samples_leaf": [1, 5]}
    return {
        "short: 1,000 of nothing": lambda: Parallel(n_jobs=WORKERS)(delayed(nothing)(n) for n in range(1000)),
        "short: 10,000 of nothing": lambda: Parallel(n_jobs=WORKERS)(delayed(nothing)(n) for n in range(10_000)),
        "short: 100,000 of nothing": lambda: Parallel(n_jobs=WORKERS)(delayed(nothing)(n) for n in range(100_000)),
        "short: 10,000 of 10 us": calls(10_000, pass_time, 10e-6),
        "short: 5,000 of 50 us": calls(5_000, pass_time, 50e-6),
        "short: 1,000 of 100 us": calls(1_000, pass_time, 100e-6),
        "short: 20 calls, 20 of 0.1 ms each": many_calls(20, 20, 100e-6),
        "medium: 500 of 1 ms": calls(500, pass_time, 1e-3),
        "medium: 5 calls, 20 of 1 ms each": many_calls(5, 20, 1e-3),
        "long: 100 of 10 ms": calls(100, pass_time, 10e-3),
        "long: 20 of 50 ms": calls(20, pass_time, 50e-3),
        "arrays: one of 64 MB to 50": passes(50, 8_000_000),
        "arrays: 50 of 8 MB come back": returns(50, 1_000_000),
        "sklearn: GridSearchCV, 40 fits of 2,000 rows": lambda: (
            GridSearchCV(DecisionTreeClassifier(random_state=0), grid, n_jobs=WORKERS)
            .fit(X, y)
            .cv_results_["mean_test_score"]
            .tolist()
        ),
        "sklearn: cross_val_score, 10 folds of 20,000 rows": lambda: cross_val_score(
            LogisticRegression(max_iter=200), large_x, large_y, cv=10, n_jobs=WORKERS
        ).tolist(),
        "sklearn: RandomForestClassifier, 20 trees": lambda: (
            RandomForestClassifier(20, random_state=0, n_jobs=WORKERS)
            .fit(large_x, large_y)
            .predict_proba(large_x[:100])
            .tolist()
        ),
    }


def measured(name: str, run: Callable[[], Any], app: concurrent_nb.ApplicationNode, rounds: int) -> list[str]:
    """Measure a workload; return a row: name, milliseconds of both, ratio, what is promised, whether kept."""
    took: dict[str, list[float]] = {"loky": [], "ours": []}
    results: dict[str, Any] = {}
    for number in range(rounds + 1):
        for contender in ("loky", "ours"):
            context = joblib.parallel_config(backend="loky") if contender == "loky" else app.joblib()
            with context:
                start = time.perf_counter()
                results[contender] = run()
                if number:  # the first round starts workers and imports
                    took[contender].append(time.perf_counter() - start)
    assert results["loky"] == results["ours"], name
    ratios = [ours / loky for ours, loky in zip(took["ours"], took["loky"], strict=True)]
    milliseconds = [f"{1000 * statistics.median(took[contender]):,.1f}" for contender in took]
    ratio, at_most = statistics.median(ratios), AT_MOST.get(name.partition(":")[0])
    verdict = ["", ""] if at_most is None else [f"≤ {at_most}", "met" if ratio <= at_most else "missed"]
    return [name, *milliseconds, f"{ratio:.2f} [{min(ratios):.2f}-{max(ratios):.2f}]", *verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description="joblib on our backend and on loky")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure the workloads with this word in their names")
    parser.add_argument("--results", type=Path, help="put the table into this report, as a section")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"joblib {joblib.__version__}, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds")
    head = ("workload", "loky, ms", "ours, ms", "ratio [range]", "promised", "is")
    rows = []
    with concurrent_nb.Cluster(workers=WORKERS) as cluster:
        app = cluster.application()
        for name, run in workloads().items():
            if given.only in name:
                rows.append(measured(name, run, app, given.rounds))
                print("{:52}{:>10}{:>10}{:>22}{:>8} {}".format(*rows[-1]), flush=True)
        print(f"load {os.getloadavg()[0]:.1f}")
    if given.results is not None:
        about = report.about_section("joblib_backend", sys.argv[1:])
        words = "Medians of rounds; a ratio is the median of the rounds' ratios. The results of both are equal."
        text = f"{about} joblib {joblib.__version__}. {words}\n\n{report.table(head, rows, (1, 2, 3))}"
        report.write_section(given.results, "joblib: our backend and loky", text)


if __name__ == "__main__":
    main()
