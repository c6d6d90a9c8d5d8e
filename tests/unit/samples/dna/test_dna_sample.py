"""The DNA samples, here: their systems and tasks give what the whole sequence gives, in any order."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.dna import dna_tasks, helix
from concurrent_nb.samples.dna.dna_sample import DnaCoordinatesSample, DnaCurvatureSample, DnaNaiveSample
from concurrent_nb.samples.dna.wedge_models import MODELS
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import Task


def made(kind: type[Sample], **items: Any) -> Any:
    manager = ComponentManager(Config({kind.__name__: Config(items)}))
    return manager.get(manager.register(kind))


def travelled(task: Task) -> Any:
    return pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(task))()))


def answer_of_system(sample: Sample, seed: int) -> tuple[Any, list[Task]]:
    """Run a system here, its tasks in an order of chance; give its result and its tasks as they ran."""
    system: Any = pickle.loads(pickle.dumps(sample.system()))
    chance, ran = random.Random(seed), []
    system.init_system(None)
    waiting = list(system.generate_tasks(None))
    while waiting:
        ran.append(waiting.pop(chance.randrange(len(waiting))))
        waiting += system.task_finished(None, ran[-1], travelled(ran[-1]), None) or ()
    return system.gather_result(None), ran


@pytest.mark.parametrize("factor", [7, 50, 1000])
def test_curvature_is_the_same_in_a_system_and_in_an_application(factor: int) -> None:
    sample = made(DnaCurvatureSample, repeats=13, factor=factor, model="desantis")
    expected = helix.sequence_profile(sample.dna.sequence, MODELS["desantis"])
    answer, ran = answer_of_system(sample, 1)
    assert len(ran) == sample.count
    assert_allclose(answer, expected, atol=1e-10)
    tasks = list(sample.tasks())
    random.Random(2).shuffle(tasks)
    assert (sample.gather(map(travelled, tasks)) == answer).all()


@pytest.mark.parametrize("factor", [1, 7, 64, 1000])
def test_coordinates_are_a_scan_of_two_phases(factor: int) -> None:
    sample = made(DnaCoordinatesSample, repeats=13, factor=factor)
    answer, ran = answer_of_system(sample, factor)
    assert len(ran) == sample.count
    assert {type(task) for task in ran[: sample.count // 2]} == {dna_tasks.BlockProductTask}
    assert_allclose(answer, helix.coordinates(sample.dna.sequence, MODELS["trifonov"]), atol=1e-9)
    lines = sample.describe(answer, 1.5).splitlines()
    assert lines[0].startswith("curvature 0.584")
    assert lines[2] == f"130 nucleotides, model trifonov, in {sample.count} tasks (1.50 s)"


@pytest.mark.parametrize("factor", [1, 4, 1000])
def test_the_naive_split_moves_what_it_must(factor: int) -> None:
    sample = made(DnaNaiveSample, repeats=2, factor=factor)
    answer, ran = answer_of_system(sample, factor)
    assert sample.gather(travelled(task) for task in sample.tasks()) == answer
    assert (answer.tasks, answer.result_bytes) == (len(ran), 128 * sum(range(1, 20)))
    assert answer.tasks == sample.count
    assert ": right\n" in sample.describe(answer, 1.0)
    assert "WRONG" in sample.describe(answer._replace(checksum=answer.checksum + 1), 1.0)


def test_a_naive_task_is_the_original_s() -> None:
    sample = made(DnaNaiveSample, repeats=2)
    last = list(sample.tasks())[-1]
    [[points, matrix]] = last.work
    assert points.shape == (4, 19, 4)
    assert_allclose(points[:, 7], helix.start_points())
    assert_allclose(matrix, helix.step_matrices(sample.dna.sequence, MODELS["trifonov"])[18])
    assert made(DnaNaiveSample).count == 9_999


@pytest.mark.parametrize("kind", [DnaCurvatureSample, DnaCoordinatesSample, DnaNaiveSample])
def test_a_task_that_fails_ends_its_system_with_the_error(kind: type[Sample]) -> None:
    with pytest.raises(MemoryError, match="all gone"):
        made(kind).system().task_finished(Any, Any, None, MemoryError("all gone"))


def test_payloads_of_chunks_are_small() -> None:
    sizes = [len(pickle.dumps(task)) for task in made(DnaCurvatureSample).tasks()]
    assert max(sizes) < 1000


def test_the_files_that_were_asked_for_are_written(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\n" + "ATGCAAATTG" * 9 + "\n>b x\n" + "GAGGGCCCTA" * 9)
    paths = {name: str(tmp_path / f"out.{name}") for name in ("csv", "pdb")}
    sample = made(DnaCoordinatesSample, fasta=str(tmp_path / "in.fa"), record="b", **paths)
    assert sample.dna.sequence == "GAGGGCCCTA" * 9
    answer, _ = answer_of_system(sample, 1)
    plot = str(tmp_path / "out.svg")
    assert list(sample.write(answer)) == [f"wrote {path}" for path in paths.values()]
    assert "TITLE     b" in Path(paths["pdb"]).read_text()
    assert len(Path(paths["csv"]).read_text().splitlines()) == 91
    curvature = made(DnaCurvatureSample, sequence="kinetoplast", plot=plot, csv=paths["csv"])
    assert list(curvature.write(np.zeros((3, 414)))) == [f"wrote {paths['csv']}", f"wrote {plot}"]
    assert "<svg" in Path(plot).read_text()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"sequence": "ATGX"}, "nucleotide 4 of the sequence is 'X'"),
        ({"sequence": "A", "repeats": 1}, "has 1 nucleotides: give at least 2"),
        ({"fasta": "/no/such/file"}, "the sequence cannot be read: .*No such file"),
        ({"model": "bent"}, "DnaCurvatureSample.model cannot be 'bent'"),
        ({"factor": 0}, "DnaCurvatureSample.factor cannot be 0"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_a_cluster_starts(items: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(DnaCurvatureSample, **items)


def test_a_file_with_several_sequences_needs_a_choice(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nATGC\n>b\nATGC")
    with pytest.raises(ConfigurationError, match="has 2 sequences: choose one with --record of a, b"):
        made(DnaCurvatureSample, fasta=str(tmp_path / "in.fa"))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"csv": "{}/no/rows.csv"}, "--csv .*: there is no folder .*no"),
        ({"csv": "{}"}, "--csv .* is a folder: name a file in it"),
        ({"plot": "{}/plot.xyz"}, "--plot .*: its name must end in .png, .svg, .pdf"),
        ({"pdb": "{}/helix.pdb"}, "--pdb .*: the PDB format holds at most 9999 residues, the sequence has 10000"),
    ],
)
def test_files_that_could_not_be_written_are_refused_before_it_runs(
    items: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(DnaCoordinatesSample, **{name: path.format(tmp_path) for name, path in items.items()})


def test_two_sequences_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nACGT\n>a\nTTTT\n")
    with pytest.raises(ConfigurationError, match="2 sequences named 'a': rename one"):
        made(DnaCurvatureSample, fasta=str(tmp_path / "in.fa"), record="a")
