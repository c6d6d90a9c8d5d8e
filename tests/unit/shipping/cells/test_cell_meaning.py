"""A cell run as a task means what it means in the notebook: `exec` is the slow twin that it is compared with."""

import argparse
import ast
import builtins
import copy
import dataclasses
import enum
import functools
import inspect
import pathlib
import pydoc
import subprocess
import textwrap
import threading
import types
import typing
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import CaptureError
from concurrent_nb.shipping.cells.names import names_of
from concurrent_nb.shipping.serialization import pickles
from tests.cells import task_of_cell

#: what the notebook has before the cell runs
NOTEBOOK = {"a": 1, "b": 20, "c": 300}


def run_as_task(source: str, notebook: dict[str, Any]) -> Any:
    task = task_of_cell(source, {"__name__": "__main__", **notebook})
    return pickles.loads(*pickles.dumps(task.function))()


def run_in_notebook(source: str, notebook: dict[str, Any]) -> Any:
    namespace = {"__name__": "__main__", **copy.deepcopy(notebook)}
    *statements, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(statements, []), "<cell>", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)


def outcome(run: Any, source: str, notebook: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", run(source, notebook)
    except CaptureError:
        raise
    except NameError:
        return "NameError", None
    except Exception as error:  # noqa: BLE001  (whatever it is, both have to raise it)
        return type(error).__name__, str(error)


CELLS = {
    "a name that is assigned": "a += 1\na",
    "a name that is read only": "a + b",
    "an expression of several lines": "[\n  a,\n  b,\n]",
    "bound in one branch": "if a == 2:\n    b = 5\nb",
    "bound in both branches": "if a == 2:\n    d = 5\nelse:\n    d = 6\nd",
    "a loop's variable": "for b in range(a):\n    pass\nb",
    "a loop that does not run": "for b in ():\n    pass\nb",
    "a name read in the next round": "d = []\nfor i in range(3):\n    d.append(b)\n    b = i\nd",
    "while with break": "while True:\n    d = a\n    if d: break\nd",
    "try and except": "try:\n    d = 1 / (a - 1)\nexcept ZeroDivisionError as b:\n    d = str(b)\nd",
    "the name of an exception is gone": "try:\n    1 / 0\nexcept ZeroDivisionError as b:\n    pass\nb",
    "finally": "try:\n    d = a\nfinally:\n    e = b\nd, e",
    "with": "import contextlib\nwith contextlib.nullcontext(a) as b:\n    d = b + 1\nd",
    "a function of the cell": "def f(x):\n    return x + a\nf(b)",
    "a function that assigns a global": "def f():\n    global a\n    a += 1\nf()\nf()\na",
    "a global that the cell assigns too": "a = 5\ndef f():\n    global a\n    a *= 2\nf()\na",
    "a global read past a local of the same name": (
        "def f():\n    a = 'local'\n    def g():\n        global a\n        return a\n    return g()\na = 7\nf()"
    ),
    "a new global": "def f():\n    global d\n    d = 4\nf()\nd",
    "an annotated global": "a: int = 5\ndef f():\n    global a\n    a += 1\nf()\na",
    "functions that call each other": (
        "def odd(n):\n    return n and even(n - 1)\ndef even(n):\n    return not n or odd(n - 1)\neven(7)"
    ),
    "a function called before its name is bound": "def f():\n    return a\nd = f()\na = 50\nd, f()",
    "a function called through another": "def f():\n    return b\ndef g():\n    return f()\nd = g()\nb = 1\nd",
    "a decorator calls at once": "def now(f):\n    return f()\n@now\ndef d():\n    return a\na = 2\nd",
    "a lambda": "f = lambda x: x + a\nf(1)",
    "a lambda that calls itself": "f = lambda n: n and n + f(n - 1)\nf(4)",
    "a comprehension": "[a + i for i in range(3) if i < b]",
    "nested comprehensions": "[[a + i + j for i in range(2)] for j in range(2)]",
    "a comprehension over its own name": "[a for a in range(a + 2)]",
    "walrus": "(d := a + 1) and d",
    "walrus in a comprehension": "[(d := i) for i in range(3)]\nd",
    "a generator": "sum(a * i for i in range(4))",
    "a class": "class P:\n    x = a\n    def get(self):\n        return self.x + b\nP().get()",
    "a class that hides a name": "class P:\n    a = a + 1\n(P.a, a)",
    "a class in a function that hides a name": "a = 4\ndef f():\n    class P:\n        a = a + 1\n    return P.a\nf()",
    "a class that hides a name of the cell": "a = 4\nclass P:\n    a = a + 1\n(P.a, a)",
    "a class with a loop": "class P:\n    for a in range(3): pass\n    del a\n    x = [b for b in range(2)]\nP.x",
    "a class with a lambda over its name": "class P:\n    d = 3\n    f = lambda self, x=d: x\nP().f()",
    "a class with a comprehension over its name": "class P:\n    d = [1, 2]\n    x = [i for i in d]\nP.x",
    "a method does not see the class": "class P:\n    a = 'class'\n    def get(self):\n        return a\nP().get()",
    "a comprehension does not see the class": "class P:\n    a = 7\n    x = [a for _ in range(2)]\nP.x",
    "private names": "class P:\n    __x = 3\n    def get(self):\n        return self.__x\nP().get()",
    "super": "class P:\n    x = 1\nclass Q(P):\n    def get(self):\n        return super().x\nQ().get()",
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = a\n    y: 'P' = None\nrepr(P(2))"
    ),
    "an enumeration": "import enum\nclass E(enum.Enum):\n    one = a\n    two = b\n[e.name for e in E]",
    "names as in the notebook": "def f():\n    pass\nclass P:\n    def m(self): pass\nf.__qualname__, P.m.__qualname__",
    "del": "d = a\ndel a\nd",
    "del and use": "del a\na",
    "a match": "match [a, b]:\n    case [1, d]:\n        e = d\n    case _:\n        e = 0\ne",
    "a match on a mapping": "match {'x': a, 'y': b}:\n    case {'x': d, **e}:\n        pass\n(d, e)",
    "imports": "import os.path\nfrom math import pi as d\nos.path.sep, d",
    "an unpacking": "d, *e = [a, b, c]\nd, e",
    "future annotations": "from __future__ import annotations\ndef f(x: Nowhere) -> Nor: return x\nf(a)",
    "__name__": "__name__",
    "a builtin that the notebook hides": "len(str(a))",
    "an error": "a / 0",
    "a docstring": "'text'",
    "chained attributes": "str(a).join(['x', 'y']).upper()",
    "a conditional expression": "(d := 1) if a else (e := 2)\nd",
    "assert": "assert a == 1, c\na",
    "after raise": "def f():\n    return b\nd = f()\nif d == 20:\n    raise ValueError(d)\nd",
    "async functions": "import asyncio\nasync def f():\n    return a\nasyncio.run(f())",
    "a generator function": "def f():\n    yield a\n    yield b\nlist(f())",
    "nonlocal": "def f():\n    d = 1\n    def g():\n        nonlocal d\n        d += a\n    g()\n    return d\nf()",
    "default arguments": "def f(x=a, *, y=b):\n    return x + y\na = 100\nf()",
    "star arguments": "def f(*a, **b):\n    return a, b\nf(1, x=2)",
    "nested functions": "def f():\n    def g():\n        return a + b\n    return g\nf()()",
    "unused function": "def f():\n    return a\n5",
}


@pytest.mark.parametrize("source", CELLS.values(), ids=CELLS.keys())
def test_a_cell_means_the_same_as_a_task(source: str) -> None:
    assert outcome(run_as_task, source, NOTEBOOK) == outcome(run_in_notebook, source, NOTEBOOK)


@pytest.mark.parametrize("source", CELLS.values(), ids=CELLS.keys())
def test_a_cell_means_the_same_where_it_was_run_before(source: str) -> None:
    # What the cell binds is in the notebook now, with values that it must not take for its own.
    notebook = {**NOTEBOOK, **dict.fromkeys("defgiPQ", 9), **dict.fromkeys(("os", "odd", "even", "now"), 9)}
    assert outcome(run_as_task, source, notebook) == outcome(run_in_notebook, source, notebook)


def test_functions_of_the_notebook_share_their_globals_with_the_cell() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__", "count": 5, "log": []}
    exec("def bump():\n    global count\n    count += 1\n    log.append(count)\n    return count", notebook)
    task = task_of_cell("bump()\nbump()\ncount, log", notebook)
    function = pickles.loads(*pickles.dumps(task.function))
    assert function() == (7, [6, 7])
    assert function() == (7, [6, 7])  # each task has its own
    assert (notebook["count"], notebook["log"]) == (5, [])


@pytest.mark.parametrize(
    "module", [argparse, dataclasses, enum, functools, pathlib, pydoc, subprocess, textwrap, threading, typing]
)
def test_no_name_of_real_code_is_missed_or_invented(module: types.ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    names = names_of(tree)
    implied = {"__name__", "__file__", "__path__", "__all__", "__doc__", "__spec__"}
    nowhere = names.needed.keys() - names.bound - set(dir(builtins)) - implied
    assert nowhere <= names.hinted | {"WindowsError"}
    bound = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert bound <= names.bound


NAMES = st.sampled_from("abcde")
ATOM = NAMES | st.integers(0, 3).map(str)


def blocks(statements: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Statements of lines, made of simpler ones."""

    def indented(lines: list[str]) -> list[str]:
        return [f"    {line}" for line in lines or ["pass"]]

    def branch(test: str, one: list[str], other: list[str]) -> list[str]:
        return [f"if {test}:", *indented(one), "else:", *indented(other)]

    def attempt(one: list[str], other: list[str], last: list[str]) -> list[str]:
        return ["try:", *indented(one), "except NameError:", *indented(other), "finally:", *indented(last)]

    def function(shared: list[str], body: list[str], value: str, call: bool) -> list[str]:
        head = [f"global {', '.join(shared)}"] if shared else []
        return ["def f():", *indented([*head, *body, f"return {value}"]), *(["f()"] if call else [])]

    def group(body: list[str]) -> list[str]:
        return ["class P:", *indented(body)]

    def loop(target: str, times: int, body: list[str], leave: bool) -> list[str]:
        return [f"for {target} in range({times}):", *indented([*body, *(["break"] if leave else [])])]

    def again(body: list[str]) -> list[str]:
        return ["while True:", *indented([*body, "break"])]

    shared = st.lists(NAMES, max_size=2, unique=True)
    return st.one_of(
        st.builds(branch, ATOM, statements, statements),
        st.builds(attempt, statements, statements, statements),
        st.builds(function, shared, statements, ATOM, st.booleans()),
        st.builds(group, statements),
        st.builds(loop, NAMES, st.integers(0, 2), statements, st.booleans()),
        st.builds(again, statements),
        st.builds(lambda one, other: [*one, *other], statements, statements),
    )


SIMPLE = st.one_of(
    st.builds(lambda name, value: [f"{name} = {value}"], NAMES, ATOM),
    st.builds(lambda name, one, other: [f"{name} = [{one}, {other}][0]"], NAMES, ATOM, ATOM),
    st.builds(lambda name, value: [f"{name} += {value}"], NAMES, ATOM),
    st.builds(lambda name: [f"del {name}"], NAMES),
    st.builds(lambda name, value: [f"{name} = (lambda: {value})()"], NAMES, ATOM),
    st.builds(lambda name, value: [f"{name} = [{value} for b in range(2)][-1]"], NAMES, ATOM),
    st.builds(lambda name, value: [f"[({name} := {value}) for _ in range(1)]"], NAMES, ATOM),
)
PROGRAMS = st.recursive(SIMPLE, blocks, max_leaves=8)


@settings(max_examples=300)
@given(PROGRAMS, st.lists(NAMES, min_size=1, max_size=3))
def test_any_cell_means_the_same_as_a_task(lines: list[str], last: list[str]) -> None:
    source = "\n".join([*lines, f"({', '.join(last)},)"])
    try:
        compile(source, "<cell>", "exec")
    except SyntaxError:  # a name used before its `global`, for example
        assume(False)
    try:
        found = outcome(run_as_task, source, NOTEBOOK)
    except CaptureError:
        assume(False)  # it names what is nowhere; Python would only find out when it comes there
    assert found == outcome(run_in_notebook, source, NOTEBOOK)
