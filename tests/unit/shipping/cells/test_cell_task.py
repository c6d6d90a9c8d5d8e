"""A cell task as a whole: calls, --until, tracebacks."""

import linecache
import traceback
from typing import Any

import numpy as np
import pytest

from concurrent_nb.errors import CaptureError, ConfigurationError
from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.cells.cell_task import CellTask
from concurrent_nb.shipping.serialization import pickles
from tests.cells import task_of_cell


def values(task: CellTask) -> list[Any]:
    function = pickles.loads(*pickles.dumps(task.function))
    return [function(*call) for call in task.calls]


def notebook(source: str = "", /, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def test_without_for_a_cell_is_one_task() -> None:
    task = task_of_cell("x + 1", notebook(x=1))
    assert (task.is_loop, task.until, task.has_value, list(task.calls)) == (False, False, True, [()])
    assert values(task) == [2]


def test_for_gives_its_names_to_the_cell() -> None:
    task = task_of_cell("n += x\n(n, k)", notebook(x=10, n="hidden"), for_text="n in range(2) for k in 'ab'")
    assert task.is_loop
    assert values(task) == [(10, "a"), (10, "b"), (11, "a"), (11, "b")]


def test_names_of_for_can_be_globals_of_functions() -> None:
    task = task_of_cell("def f():\n    global n\n    n *= 10\nf()\nn", notebook(), for_text="n in range(3)")
    assert values(task) == [0, 10, 20]


def test_a_cell_without_a_value_gives_none() -> None:
    assert values(task_of_cell("x = 1", notebook())) == [None]
    assert values(task_of_cell("1;", notebook())) == [None]


def test_the_search_of_the_thesis() -> None:
    source = (
        "import hashlib\n"
        "lo, hi = 1 + n * step, min(1 + (n + 1) * step, 2_000_001)\n"
        "next((i for i in range(lo, hi) if hashlib.md5(str(i).encode()).hexdigest() == target), None)"
    )
    task = task_of_cell(
        source,
        notebook(target="28238d467c88ae233a214d38c02dbccd", step=15625),
        for_text="n in (111, 112)",
        until_text="result is not None",
    )
    assert [captured.name for captured in task.captured] == ["step", "target"]
    assert values(task) == [None, Hit(1763965)]


def test_until_sees_the_result_the_names_of_for_and_the_notebook() -> None:
    task = task_of_cell("n * 2", notebook(limit=3), for_text="n in range(3)", until_text="result > limit and n == 2")
    assert values(task) == [0, 2, Hit(4)]
    alone = task_of_cell("5", notebook(), until_text="result")
    assert values(alone) == [Hit(5)]


def test_an_error_in_until_is_the_task_s_error() -> None:
    task = task_of_cell("5", notebook(), until_text="result.nothing")
    with pytest.raises(AttributeError) as raised:
        values(task)
    assert traceback.extract_tb(raised.value.__traceback__)[-1].line == "result.nothing"


def test_until_does_not_see_the_cell_s_variables() -> None:
    with pytest.raises(CaptureError, match="--until: y is a variable of the cell"):
        task_of_cell("y = 1\ny", notebook(), until_text="y > 0")
    with pytest.raises(CaptureError, match=r"^--until: resul is not defined in the notebook; did you mean result\?"):
        task_of_cell("1", notebook(), until_text="resul")
    with pytest.raises(CaptureError, match="g is a generator"):
        task_of_cell("1", notebook(g=(i for i in [1])), until_text="g")


def test_result_is_no_name_for_for() -> None:
    with pytest.raises(ConfigurationError, match="another name"):
        task_of_cell("1", notebook(), for_text="result in range(3)", until_text="result")
    assert values(task_of_cell("result", notebook(), for_text="result in range(2)")) == [0, 1]


def test_a_traceback_ends_in_the_cell_s_own_lines() -> None:
    namespace = notebook()
    helper = "def helper(x):\n    return 1 / x\n"
    linecache.cache["<cell In[1]>"] = (len(helper), None, helper.splitlines(True), "<cell In[1]>")
    exec(compile(helper, "<cell In[1]>", "exec"), namespace)
    task = task_of_cell("x = 0\nhelper(x)", namespace, filename="<cell In[2]>", header="%%concurrent_task")
    body, buffers = pickles.dumps(task.function)
    linecache.cache.pop("<cell In[1]>")  # a worker has never seen it
    with pytest.raises(ZeroDivisionError) as raised:
        pickles.loads(body, buffers)()
    frames = traceback.extract_tb(raised.value.__traceback__)[-2:]
    assert [(f.filename, f.lineno, f.name, f.line) for f in frames] == [
        ("<cell In[2]>", 3, "<cell>", "helper(x)"),
        ("<cell In[1]>", 2, "helper", "return 1 / x"),
    ]


def test_cells_of_one_name_do_not_mix_up_their_lines() -> None:
    one, two = (task_of_cell(f"x = {n}\nx / 0", notebook(), filename="<cell In[5]>").function for n in (1, 2))
    for function, line in [(one, "x = 1"), (two, "x = 2"), (one, "x = 1")]:
        with pytest.raises(ZeroDivisionError):
            function()
        assert linecache.getline("<cell In[5]>", 1).strip() == line


def test_what_a_cell_defines_can_be_returned() -> None:
    task = task_of_cell(
        "class P:\n    def get(self):\n        return k\ndef f():\n    return P()\nk = 3\nf", notebook()
    )
    [f] = values(task)
    again = pickles.loads(*pickles.dumps(f))
    assert again().get() == 3


def test_a_task_of_unchanging_things_costs_little() -> None:
    # No unpickling per call: what is shared is the very same object.
    task = task_of_cell("f, text", notebook("def f():\n    return text", text="x" * 100))
    function = pickles.loads(*pickles.dumps(task.function))
    assert function() == function()
    assert function()[0] is function()[0]


# ------------------------------------------------------------------------------------------------------- --shared


def test_a_shared_name_is_one_for_all_tasks_of_a_worker() -> None:
    namespace = notebook(seen=[], free=[])
    source = "seen.append(n)\nfree.append(n)\nlen(seen), len(free)"
    assert values(task_of_cell(source, namespace, for_text="n in range(3)", per_worker_names=["seen"])) == [
        (1, 1),
        (2, 1),
        (3, 1),
    ]
    assert (namespace["seen"], namespace["free"]) == ([], [])


def test_a_shared_array_can_be_written_to() -> None:
    namespace = notebook(a=np.zeros(100_000))
    assert values(
        task_of_cell("a[0] += 1\nint(a[0])", namespace, for_text="n in range(3)", per_worker_names=["a"])
    ) == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1", "the cell does not use a variable x"),
        ("x = x + 1", "the cell assigns x, so each task has its own variable"),
    ],
)
def test_a_name_that_cannot_be_shared_is_refused(source: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        task_of_cell(source, notebook(x=1), per_worker_names=["x"])


class NotOpened:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_the_name_of_a_value_that_cannot_be_unpickled_is_said() -> None:
    task = task_of_cell("len(odd) + n", notebook(odd=NotOpened(), n=1))
    with pytest.raises(ZeroDivisionError) as raised:
        values(task)
    assert raised.value.__notes__ == ["raised where a value was unpickled for the task: odd"]
