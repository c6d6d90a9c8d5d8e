"""DEAP in a notebook: its algorithms with `app.map`, and the classes that `creator.create` makes, in workers."""

from collections.abc import Iterator

import pytest

from tests.notebooks import Notebook

#: the classes are made in a function, not where the notebook's names are: the case of DEAP's issue 57
TOOLBOX = """
import random, warnings
import numpy
from deap import algorithms, base, creator, tools
import concurrent_nb
warnings.filterwarnings("ignore", "A class named", RuntimeWarning)

def make(weight, **more):
    creator.create("FitnessMax", base.Fitness, weights=(weight,))
    creator.create("Individual", list, fitness=creator.FitnessMax, **more)

def evaluate(individual):
    assert type(individual) is creator.Individual
    assert type(individual.fitness) is creator.FitnessMax
    return sum(individual),

def toolbox_with(map):
    toolbox = base.Toolbox()
    toolbox.register("bit", random.randint, 0, 1)
    toolbox.register("individual", tools.initRepeat, creator.Individual, toolbox.bit, 20)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluate)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("map", map)
    return toolbox

def best(map):
    random.seed(4)
    toolbox = toolbox_with(map)
    population, log = algorithms.eaSimple(toolbox.population(n=30), toolbox, 0.5, 0.2, 5, verbose=False)
    return [list(individual) for individual in population], [entry["nevals"] for entry in log]

app = concurrent_nb.application()
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("deap"))
    try:
        assert notebook.run("%concurrent start --workers 2").error is None
        assert notebook.run("%%concurrent_task\n1").value == "1"  # the slave has come by then
        answer = notebook.run(TOOLBOX)
        assert answer.error is None, answer.traceback
        yield notebook
    finally:
        notebook.close()


def value_of(notebook: Notebook, source: str) -> str | None:
    answer = notebook.run(source)
    assert answer.error is None, answer.traceback
    return answer.value


def test_a_function_of_a_task_can_name_a_class_that_no_worker_has_received(notebook: Notebook) -> None:
    make = "make(1.0)\ndef born():\n    return creator.Individual([1, 0, 1])\n"
    assert value_of(notebook, f"{make}[type(app.submit(born).result()) is creator.Individual]") == "[True]"
    assert value_of(notebook, '%%concurrent_task --for "n in range(2)"\nlen(creator.Individual([n] * 3))') == "[3, 3]"


def test_algorithms_run_unchanged_and_give_the_same_as_without_a_cluster(notebook: Notebook) -> None:
    assert value_of(notebook, "make(1.0)\nbest(app.map) == best(map)") == "True"
    assert value_of(notebook, "min(map(sum, best(app.map)[0])) > 10") == "True"


def test_classes_made_anew_replace_those_of_before_in_workers_too(notebook: Notebook) -> None:
    before = "make(1.0)\nold = creator.Individual([1, 1])\nmake(-1.0, strategy=7)\n"
    assert value_of(notebook, f"{before}best(app.map) == best(map)") == "True"
    assert value_of(notebook, "max(map(sum, best(app.map)[0])) < 10") == "True"  # now it minimises
    same = "def same(individual):\n    return individual, creator.Individual.strategy\n"
    ask = "[[type(one), strategy] for one, strategy in app.map(same, [old, creator.Individual([0])])]"
    assert value_of(notebook, f"{same}{ask} == [[type(old), 7], [creator.Individual, 7]]") == "True"


def test_individuals_that_come_back_are_the_notebook_s_and_leave_its_classes_alone(notebook: Notebook) -> None:
    change = "def grown(one):\n    one.append(5)\n    one.fitness.values = (3,)\n    return one\n"
    run = "make(1.0)\nkind = creator.Individual\nback = list(app.map(grown, [kind([n]) for n in range(30)]))\n"
    ask = "[{type(one) for one in back} == {kind}, creator.Individual is kind, back[2].fitness.values, list(back[2])]"
    assert value_of(notebook, f"{change}{run}{ask}") == "[True, True, (3.0,), [2, 5]]"


def test_genomes_may_be_arrays(notebook: Notebook) -> None:
    make = 'creator.create("Vector", numpy.ndarray, fitness=creator.FitnessMax)\n'
    double = "def double(vector):\n    assert type(vector) is creator.Vector\n    return vector * 2\n"
    ask = "[numpy.asarray(one).tolist() for one in app.map(double, [creator.Vector([1.0, n]) for n in range(2)])]"
    assert value_of(notebook, f"make(1.0)\n{make}{double}{ask}") == "[[2.0, 0.0], [2.0, 2.0]]"
