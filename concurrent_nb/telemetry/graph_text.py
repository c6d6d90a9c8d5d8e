"""A graph that is folded by function, as one line of text: `load 10/10 -> clean 4/10 (2 running) -> add 0/9`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from concurrent_nb.telemetry.amounts import visible

#: most functions that a line names
NAMED_MAX: Final = 12


def graph_line(graph: Mapping[str, Any]) -> str:
    """Return a line for a graph in an answer of the master's method `status`.

    Each function has the number of its tasks that are done, and of all. An arrow leads from functions to those that
    need their results, directly or not; a comma stands between others.

    >>> functions = [["load", 10, 0, 0, 0, 10, 0, 0], ["clean", 10, 0, 4, 2, 4, 0, 0], ["add", 9, 9, 0, 0, 0, 0, 0]]
    >>> graph_line({"functions": functions, "edges": [[0, 1, 10], [1, 2, 10], [2, 2, 8]]})
    'load 10/10 -> clean 4/10 (2 running) -> add 0/9'
    """
    functions = graph["functions"]
    ranks = ranks_of(len(functions), graph["edges"])
    columns: list[list[str]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    order = sorted(range(len(functions)), key=ranks.__getitem__)
    for number in order[:NAMED_MAX]:
        columns[ranks[number]].append(_function_text(functions[number]))
    line = " -> ".join(", ".join(column) for column in columns if column)
    more = len(functions) - NAMED_MAX
    return f"{line} and {more:,} more function{'s' * (more != 1)}" if more > 0 else line


def ranks_of(count: int, edges: Sequence[Sequence[int]]) -> list[int]:
    """Return the column of each of `count` functions: to the right of all whose results it needs.

    An edge that closes a circle, as of functions that call each other in turn, is left out.
    """
    following: list[list[int]] = [[] for _ in range(count)]
    for source, target, _ in edges:
        if source != target:
            following[source].append(target)
    ordered = _ordered(following)
    place = {number: at for at, number in enumerate(ordered)}
    ranks = [0] * count
    for number in ordered:
        for target in following[number]:
            if place[target] > place[number]:
                ranks[target] = max(ranks[target], ranks[number] + 1)
    return ranks


def _ordered(following: Sequence[Sequence[int]]) -> list[int]:
    """Return the functions in an order in which edges lead forward, but for those that close a circle."""
    finished: list[int] = []
    seen: set[int] = set()
    for root in range(len(following)):
        if root in seen:
            continue
        seen.add(root)
        path = [(root, iter(following[root]))]
        while path:
            number, targets = path[-1]
            target = next((each for each in targets if each not in seen), None)
            if target is None:
                finished.append(number)
                path.pop()
            else:
                seen.add(target)
                path.append((target, iter(following[target])))
    return finished[::-1]


def _function_text(function: Sequence[Any]) -> str:
    name, tasks, _, _, running, done, failed, cancelled = function
    notes = [(running, "running"), (failed, "failed"), (cancelled, "cancelled")]
    text = ", ".join(f"{count:,} {what}" for count, what in notes if count)
    return f"{visible(name)} {done:,}/{tasks:,}{f' ({text})' if text else ''}"
