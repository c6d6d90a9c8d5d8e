"""Cells and options are looked through before anything runs: what has no meaning in a task is refused by name."""

import ast
import itertools

import pytest

from concurrent_nb.errors import CellError, ConfigurationError, TooLarge
from concurrent_nb.shipping.cells.cell_code import parse_cell, parse_for, parse_until


@pytest.mark.parametrize(
    ("source", "line", "word"),
    [
        ("x = 1\nreturn x", 2, "`return`"),
        ("if 1:\n    return", 2, "`return`"),
        ("await f()", 1, "`await`"),
        ("x = 1\nasync with f() as g: pass", 2, "`await`"),
        ("async for x in y: pass", 1, "`await`"),
        ("[x async for x in y]", 1, "`async for`"),
        ("[await x for x in y]", 1, "`await`"),
        ("\n\nyield 3", 3, "`yield`"),
        ("x = yield", 1, "`yield`"),
        ("yield from y", 1, "`yield`"),
        ("from math import *", 1, "`import *`"),
        ("def f(x=(yield)): pass", 1, "`yield`"),
        ("%timeit 3", 1, "magics"),
        ("x = 1\n!ls", 2, "magics"),
        ("x = %pwd", 1, "magics"),
        ("x = !ls", 1, "magics"),
        ("a, b = !ls", 1, "magics"),
        ("%%time\n3", 1, "magics"),
        ("?len", 1, "magics"),
        ("len?", 1, "magics"),
        ("x = 1\nlen??", 2, "magics"),
    ],
)
def test_unsupported_code_is_refused_with_its_line(source: str, line: int, word: str) -> None:
    with pytest.raises(CellError) as raised:
        parse_cell(source)
    message = str(raised.value)
    assert message.startswith(f"line {line}: ")
    assert word in message
    assert message.splitlines()[-1].strip() == source.splitlines()[line - 1].strip()


@pytest.mark.parametrize("source", ["", "\n\n", "# only a comment", "   \n\t\n", "\n# one\n\n# two\n"])
def test_an_empty_cell_is_refused(source: str) -> None:
    with pytest.raises(CellError, match="is empty"):
        parse_cell(source)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return 1",
        "async def f():\n    await g()\n    async for x in y: pass",
        "def f():\n    yield 1",
        "lambda: (yield)",
        "'a % b ! c?'",
        "(8\n% 3)",
        "class A:\n    def f(self): return 1",
        "from math import pi",
    ],
)
def test_what_only_looks_like_it_is_not_refused(source: str) -> None:
    parse_cell(source)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("x = = 3", 1),
        ("x = 1\ndef f(:\n    pass", 2),
        ("x = 1\n\nbreak", 3),
        ("def f():\n    nonlocal x", 2),
        ("x = 1\nglobal x", 2),
        ("'abc", 1),
        ("(1,\n2", 1),
        ("if 1:\nx", 2),
    ],
)
def test_a_syntax_error_is_python_s_own_with_the_cell_s_line(source: str, line: int) -> None:
    with pytest.raises(SyntaxError) as raised:
        parse_cell(source, "<cell In[3]>", header="%%concurrent_task")
    error = raised.value
    assert error.filename == "<cell In[3]>"
    assert error.lineno == line + 1
    assert (error.text or "").strip() == source.splitlines()[line - 1].strip()


def test_an_indented_cell_is_read_as_ipython_reads_it() -> None:
    cell = parse_cell("\n    if True:\n        n = 1\n    n\n", header="%%concurrent_task")
    assert ast.unparse(cell.tree) == "if True:\n    n = 1\nn"
    assert cell.tree.body[1].lineno == 5
    with pytest.raises(SyntaxError):
        parse_cell("n = 1\n    n")


def test_what_python_cannot_read_at_all_is_refused() -> None:
    with pytest.raises((CellError, SyntaxError)):
        parse_cell("x = '\0'")
    with pytest.raises((CellError, SyntaxError)):
        parse_cell("(" * 500 + ")" * 500)


@pytest.mark.parametrize(
    ("source", "has_value"),
    [
        ("1", True),
        ("1;", False),
        ("1; 2", True),
        ("x = 1", False),
        ("1;  # a comment", False),
        ("1  # a; comment;", True),
        ("'a;'", True),
        ("x = 1; x", True),
        ("def f(): pass", False),
        ("1;\n\n# end\n", False),
        ("if 1:\n    2", False),
        ("(1\n)", True),
    ],
)
def test_a_last_expression_without_semicolon_is_the_value(source: str, has_value: bool) -> None:
    assert parse_cell(source).has_value is has_value


@pytest.mark.parametrize(
    ("text", "targets", "calls"),
    [
        ("n in range(3)", ("n",), [(0,), (1,), (2,)]),
        ("n in range(5) if n % 2", ("n",), [(1,), (3,)]),
        ("i, j in pairs", ("i", "j"), [(1, 2), (3, 4)]),
        ("(i, *r) in [(1, 2, 3)]", ("i", "r"), [(1, [2, 3])]),
        ("i in range(2) for j in range(i + 1)", ("i", "j"), [(0, 0), (1, 0), (1, 1)]),
        ("[a, b] in pairs if a > limit", ("a", "b"), [(3, 4)]),
        ("x in {'a': 1}.items()", ("x",), [(("a", 1),)]),
        ("x in [y for y in range(2)]", ("x",), [(0,), (1,)]),
        ("x in [(lambda z: z + limit)(1)]", ("x",), [(3,)]),
        ("_ in range(2)", ("_",), [(0,), (1,)]),
        ("n in ()", ("n",), []),
        ("é in 'ü'", ("é",), [("ü",)]),
        ("n in range(2)  # a comment", ("n",), [(0,), (1,)]),
        ("n in [\n1,\n2]", ("n",), [(1,), (2,)]),
    ],
)
def test_for_takes_what_a_comprehension_takes(text: str, targets: tuple[str, ...], calls: list[object]) -> None:
    clause = parse_for(text)
    assert clause.targets == targets
    assert clause.calls({"pairs": [(1, 2), (3, 4)], "limit": 2}) == calls


@pytest.mark.parametrize(
    "text",
    [
        "n in",
        "in range(3)",
        "n",
        "range(3)",
        "for n in range(3)",
        "n in range(3)) + (0 for i in range(2)",
        "n in range(3)), (1",
        "n in range(3)] + [1",
        "n in range(3)); import os; (1",
        "x.y in z",
        "x[0] in z",
        "n in (m := range(3))",
        "n in range(3) if (m := n)",
        "n in await x",
        "n in (yield)",
        "n async in x",
        "1 in x",
        "n in \0",
        "n in x := 3",
    ],
)
def test_for_takes_nothing_else(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--for"):
        parse_for(text)


def test_the_iterable_of_for_is_evaluated_once_and_changes_nothing() -> None:
    evaluations = itertools.count()
    namespace = {"produce": lambda: [next(evaluations), 5], "n": "mine"}
    clause = parse_for("n in produce()")
    assert clause.calls(namespace) == [(0,), (5,)]
    assert next(evaluations) == 1
    assert namespace["n"] == "mine"


def test_an_endless_for_is_refused() -> None:
    with pytest.raises(TooLarge, match="more than 100 tasks"):
        parse_for("n in iter(int, 1)").calls({}, most=100)


@pytest.mark.parametrize(
    "text", ["", "# nothing", "result >", "x = 1", "await result", "(yield)", "result) or (1,", "return 1", "\0"]
)
def test_until_takes_an_expression_only(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--until"):
        parse_until(text)


def test_until_has_the_names_that_it_uses() -> None:
    assert set(parse_until("result and any(result > limit for _ in range(n))").names.needed) == {
        "result",
        "limit",
        "any",
        "range",
        "n",
    }
