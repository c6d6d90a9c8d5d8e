"""Which cells only define functions."""

import pytest

from concurrent_nb.errors import CellError
from concurrent_nb.shipping.cells.cell_code import parse_cell
from concurrent_nb.shipping.cells.definitions import functions_defined


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(): pass", ["f"]),
        ("def f(): pass\ndef g(): pass\ndef f(): pass", ["f", "g"]),
        ('"""What they are for."""\nimport math\nfrom os import path\nclass A: pass\ndef f(): pass', ["f"]),
        ("@cache\ndef f(): pass", ["f"]),
        ("import math", []),
        ("class A: pass", []),
        ("def f(): pass\nf()", []),
        ("n = 1\ndef f(): pass", []),
        ("def f(): pass\n'text'", []),
        ("1", []),
    ],
)
def test_a_cell_of_definitions(source: str, names: list[str]) -> None:
    assert functions_defined(parse_cell(source)) == names


def test_an_async_function_is_refused_by_name() -> None:
    with pytest.raises(CellError, match="line 3: `async def g` cannot be a task function"):
        functions_defined(parse_cell("def f(): pass\nasync def g(): pass", header="%%concurrent_task"))
