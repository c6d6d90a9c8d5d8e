"""Objects of the libraries that people use travel: captured by a function, as arguments, as results."""

import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from concurrent_nb.shipping.serialization import pickler, pickles
from tests.cells import task_of_cell

MADE: dict[str, tuple[str, str, str]] = {
    # library: how an object is made, what is asked of it, what it answers
    "pandas": ("pd.DataFrame({'a': [1, 2], 'b': pd.Categorical(['x', 'y'])})", "int(it.a.sum())", "3"),
    "pandas series": ("pd.Series([1, 2]).rolling(2)", "float(it.sum().iloc[1])", "3.0"),
    "pandas groupby": ("pd.DataFrame({'a': [1, 2], 'b': [0, 0]}).groupby('b')", "int(it.a.sum()[0])", "3"),
    "polars": ("polars.DataFrame({'a': [1, 2]})", "int(it['a'].sum())", "3"),
    "polars lazy": ("polars.DataFrame({'a': [1, 2]}).lazy()", "it.collect().shape", "(2, 1)"),
    "pyarrow": ("pyarrow.table({'a': [1, 2]})", "it.num_rows", "2"),
    "xarray": ("xarray.Dataset({'a': ('x', [1, 2])})", "int(it.a.sum())", "3"),
    "sklearn": ("sklearn.linear_model.LinearRegression().fit([[1], [2]], [1, 2])", "round(it.predict([[3]])[0])", "3"),
    "scipy": ("scipy.sparse.csr_matrix(np.eye(3))", "int(it.nnz)", "3"),
    "scipy interpolator": ("scipy.interpolate.interp1d([1, 2], [1, 2])", "float(it(1.5))", "1.5"),
    "scipy distribution": ("scipy.stats.norm(2, 1)", "float(it.mean())", "2.0"),
    "statsmodels": ("statsmodels.api.OLS([1, 2, 3], [1, 2, 3]).fit()", "round(float(it.params[0]))", "1"),
    "sympy": ("sympy.symbols('x') ** 2", "int(it.subs('x', 3))", "9"),
    "sympy function": ("sympy.lambdify(sympy.symbols('x'), sympy.symbols('x') ** 2)", "it(3)", "9"),
    "networkx": ("networkx.path_graph(3)", "it.number_of_edges()", "2"),
    "PIL": ("PIL.Image.new('RGB', (3, 2))", "it.size", "(3, 2)"),
    "pydantic": ("make_pydantic()", "it.x + it.inner.x", "3"),
    "attrs": ("make_attrs()", "it.x + it.y", "3"),
    "tqdm": ("tqdm.tqdm(range(3))", "len(it)", "3"),
    "matplotlib": ("make_figure()", "len(it.axes)", "1"),
    "sqlalchemy": ("sqlalchemy.Table('t', sqlalchemy.MetaData(), sqlalchemy.Column('a'))", "it.c.a.name", "'a'"),
    "numpy masked": ("np.ma.masked_array([1, 2], [0, 1])", "int(it.sum())", "1"),
    "numpy vectorize": ("np.vectorize(lambda x: x + 1)", "int(it(2))", "3"),
    "like torch": ("Module()", "it.forward(3), it.ref() is it", "(6, True)"),
    "logger": ("logging.getLogger('science')", "it.name", "'science'"),
    "logger adapter": ("logging.LoggerAdapter(logging.getLogger('a.b'), {'x': 1})", "it.extra", "{'x': 1}"),
}
SOURCE = """
import collections, logging, threading, weakref
import numpy as np, pandas as pd

def make_pydantic():
    import pydantic
    class Inner(pydantic.BaseModel):
        x: int
    class Outer(Inner):
        inner: Inner
        @pydantic.field_validator("x")
        @classmethod
        def check(cls, x): return x
    return Outer(x=1, inner=Inner(x=2))

def make_attrs():
    import attrs
    @attrs.define
    class Both:
        x: int
        y: int = attrs.field(default=2, validator=attrs.validators.instance_of(int))
    return Both(1)

def make_figure():
    import matplotlib
    from matplotlib.figure import Figure
    figure = Figure()
    figure.subplots().plot([1, 2])
    return figure

class Module:
    def __init__(self):
        self.hooks = collections.OrderedDict()
        self.weight = 2
        self.lock, self.ref = threading.RLock(), weakref.ref(self)
    def __getstate__(self):
        return {"hooks": self.hooks, "weight": self.weight}
    def __setstate__(self, state):
        self.__dict__.update(state)
        self.lock, self.ref = threading.RLock(), weakref.ref(self)
    def forward(self, x):
        return x * self.weight
"""
CHILD = """
import pickle, sys, types
sys.modules["__main__"] = types.ModuleType("__main__")
answers = {}
for name, bodies in pickle.load(sys.stdin.buffer).items():
    try:
        function, argument, cell = map(pickle.loads, bodies)
        answers[name] = [repr(function()), repr(argument[0](argument[1])), repr(cell())]
    except BaseException as error:
        answers[name] = [f"{type(error).__name__}: {error}"]
sys.stdout.buffer.write(pickle.dumps(answers))
"""
_MODULES = {"scipy interpolator": "scipy.interpolate", "scipy": "scipy.sparse", "scipy distribution": "scipy.stats"}
_MODULES |= {"sklearn": "sklearn.linear_model", "statsmodels": "statsmodels.api", "PIL": "PIL.Image"}


def made(name: str) -> tuple[dict[str, Any], Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, "<cell>", "exec"), names)
    library = name.split()[0]
    if library not in ("numpy", "pandas", "like", "logger"):
        module = pytest.importorskip(_MODULES.get(name, library))
        names[library] = sys.modules[library]
        assert isinstance(module, types.ModuleType)
    if library == "tqdm":
        names["tqdm"].tqdm.monitor_interval = 0  # no thread
    return names, eval(MADE[name][0], names)


@pytest.fixture(scope="module")
def child() -> Callable[[dict[str, list[bytes]]], dict[str, list[str]]]:
    def ask(bodies: dict[str, list[bytes]]) -> dict[str, list[str]]:
        command = [sys.executable, "-W", "ignore", "-c", CHILD]
        made = subprocess.run(command, input=pickle.dumps(bodies), stdout=subprocess.PIPE, check=True, timeout=100)
        found: dict[str, list[str]] = pickle.loads(made.stdout)
        return found

    return ask


@pytest.mark.filterwarnings("ignore")
def test_they_travel_captured_as_globals_of_helpers_and_as_arguments(child: Callable[..., Any]) -> None:
    bodies, left_out = {}, []
    for name, (_, question, _) in MADE.items():
        try:
            names, thing = made(name)
        except pytest.skip.Exception:
            left_out.append(name)
            continue
        names["it"] = thing
        exec(f"def ask(): return {question}\ndef use(): return ask()\ndef of(it): return {question}", names)
        things = (names["use"], (names["of"], thing), task_of_cell("use()", names).function)
        bodies[name] = [pickler.dumps(it) for it in things]
    assert child(bodies) == {name: [MADE[name][2]] * 3 for name in MADE if name not in left_out}


def test_a_figure_that_arrives_is_not_open() -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([1, 2])
    try:
        there = pickle.loads(pickler.dumps(figure))
        assert len(there.axes[0].lines) == 1
        assert plt.get_fignums() == [figure.number]
        assert plt.figure(figure.number) is figure
    finally:
        plt.close(figure)


def test_a_large_frame_leaves_its_buffers_out_of_the_pickle() -> None:
    names, _ = made("pandas")
    body, buffers = pickles.dumps(names["pd"].DataFrame(np.zeros((100_000, 2))))
    assert sum(map(len, buffers)) == 1_600_000
    assert len(body) < 10_000
