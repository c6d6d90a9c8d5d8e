"""The data analysis samples, here: their systems go through the phases of their plans, tasks in any order."""

import pickle
import random
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.testing import assert_allclose
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.samples.data_analysis.analysis_samples import (
    AnalysisSample,
    LandmarkMdsSample,
    LdaSample,
    MdsSample,
    PcaSample,
)
from concurrent_nb.samples.phased_plan import run_plan

SMALL = {"rows": 2000, "columns": 6, "block_rows": 150}


def made(kind: type[AnalysisSample], **items: Any) -> Any:
    manager = ComponentManager(Config({kind.__name__: Config(items)}))
    return manager.get(manager.register(kind))


def answer_of_system(sample: AnalysisSample) -> tuple[Any, list[str]]:
    """Run a system here, its tasks in an order of chance; give its result and the names of its tasks as they ran."""
    system: Any = pickle.loads(cloudpickle.dumps(sample.system()))
    chance, ran = random.Random(3), []
    system.init_system(None)
    waiting = list(system.generate_tasks(None))
    while waiting:
        task = pickle.loads(cloudpickle.dumps(waiting.pop(chance.randrange(len(waiting)))))
        ran.append(task.name)
        waiting += system.task_finished(None, task, pickle.loads(pickle.dumps(task())), None) or ()
    return system.gather_result(None), ran


@pytest.mark.parametrize(
    ("kind", "items", "report"),
    [
        (PcaSample, SMALL, "2000 rows of 6 columns in 14 blocks, tsqr (1.00 s)"),
        (PcaSample, {**SMALL, "method": "incremental"}, "2000 rows of 6 columns in 14 blocks, incremental (1.00 s)"),
        (PcaSample, {**SMALL, "method": "randomised", "passes": 2}, "in 14 blocks, randomised (1.00 s)"),
        (LdaSample, SMALL, "2000 rows of 6 columns, 4 classes (1.00 s)"),
        (MdsSample, {"rows": 30, "starts": 3}, "30 points, 3 starts (1.00 s)"),
        (LandmarkMdsSample, SMALL, "2000 points by 50 landmarks, spread "),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_sample_runs_all_of_its_phases(kind: type[AnalysisSample], items: dict[str, Any], report: str) -> None:
    sample = made(kind, **items)
    answer, ran = answer_of_system(sample)
    assert len(ran) == sample.count
    described = sample.describe(answer, 1.0)
    assert report in described
    assert sample.describe(run_plan(None, made(kind, **items).plan), 1.0) == described


def test_phases_follow_each_other() -> None:
    _, ran = answer_of_system(made(PcaSample, **SMALL, method="randomised", passes=2, parts=3))
    assert [name.partition(",")[0] for name in ran] == 3 * ["pass 1"] + 3 * ["pass 2"] + 3 * ["components"]


def test_pca_of_a_file(tmp_path: Path) -> None:
    data = made(PcaSample, **SMALL).made()
    np.save(tmp_path / "rows.npy", np.concatenate([data.block(number) for number in range(data.count)]))
    from_file = made(PcaSample, file=str(tmp_path / "rows.npy"), block_rows=700)
    assert (from_file.blocks, from_file.count) == (3, 3)
    answer, _ = answer_of_system(from_file)
    assert_allclose(answer.components, answer_of_system(made(PcaSample, **SMALL))[0].components, atol=1e-9)


def test_a_task_that_fails_ends_its_system_with_the_error() -> None:
    with pytest.raises(MemoryError, match="all gone"):
        made(PcaSample).system().task_finished(Any, Any, None, MemoryError("all gone"))


def test_only_blocks_travel_not_their_rows() -> None:
    tasks = made(PcaSample, rows=10**9, block_rows=10**5).plan.begin()
    assert max(len(cloudpickle.dumps(task)) for task in tasks) < 2000
