"""A graph in a line: each function once, those that need others to the right of them."""

from typing import Any

from concurrent_nb.telemetry.graph_text import NAMED_MAX, graph_line, ranks_of


def function(name: str, tasks: int = 4, **counts: int) -> list[Any]:
    states = ("blocked", "waiting", "running", "done", "failed", "cancelled")
    return [name, tasks, *(counts.get(state, 0) for state in states)]


def line(functions: list[list[Any]], *edges: tuple[int, int]) -> str:
    return graph_line({"functions": functions, "edges": [[*edge, 1] for edge in edges]})


def test_functions_are_in_the_order_in_which_results_travel() -> None:
    functions = [function("add", 9), function("load", 10, done=10), function("clean", 10, done=4, running=2)]
    assert line(functions, (2, 0), (1, 2), (0, 0)) == "load 10/10 -> clean 4/10 (2 running) -> add 0/9"


def test_functions_beside_each_other_have_a_comma() -> None:
    functions = [function("load"), function("fit"), function("plot"), function("gather"), function("alone")]
    text = "load 0/4, alone 0/4 -> fit 0/4, plot 0/4 -> gather 0/4"
    assert line(functions, (0, 1), (0, 2), (1, 3), (2, 3), (0, 3)) == text


def test_failed_and_cancelled_tasks_are_named() -> None:
    assert line([function("load", 2000, done=1500, failed=2, cancelled=1)]) == (
        "load 1,500/2,000 (2 failed, 1 cancelled)"
    )


def test_functions_that_need_each_other_have_an_order() -> None:
    assert ranks_of(3, [[0, 1, 1], [1, 0, 1], [1, 2, 1], [2, 2, 1]]) == [0, 1, 2]
    assert ranks_of(0, []) == []
    chain = [[number, number + 1, 1] for number in range(100)]
    assert ranks_of(101, [*chain, [100, 0, 1]]) == list(range(101))


def test_a_long_graph_is_cut_and_names_are_one_line() -> None:
    functions = [function(f"f{number}") for number in range(NAMED_MAX + 2)]
    edges = [(number, number + 1) for number in range(NAMED_MAX + 1)]
    assert line(functions, *edges).endswith(f"f{NAMED_MAX - 1} 0/4 and 2 more functions")
    assert "\n" not in line([function("a\nb\x1b[2J")])
