"""What no linter checks: one meaning per name, no import cycles, a reason beside each late import, no retired words."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("concurrent_nb", "tests/simulator", "tests/fuzzer")

#: file names that may occur more than once, each with the reason
REPEATED_FILE_NAMES = {
    "__init__": "Python's name for a package",
    "__main__": "Python's name for what `python -m` runs",
    "core": "the state machine without I/O of each node, and of the components",
    "process": "the entry point of each process, in the folder of its process",
    "loop": "the poll loop of each process, in the folder of its process",
    "status": "`concurrent-nb status` prints what the master's status builds",
    "results": "the application opens results, the notebook shows them",
}
#: comments that give no reason
NO_REASON = re.compile(r"#\s*(the same|as above|see above|ditto|noqa\b.*|type:.*)?\s*$", re.IGNORECASE)

RETIRED_WORDS = (
    "bulletin", "courier", "crew", "desk", "doorman", "furniture", "ledger", "lifeline", "seat", "shelf", "shelves",
)  # fmt: skip


class Module(NamedTuple):
    path: str
    name: str
    lines: list[str]
    tree: ast.Module


class Import(NamedTuple):
    line: int
    targets: list[str]
    in_function: bool


@cache
def modules() -> list[Module]:
    found = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        relative, text = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        found.append(Module(relative.as_posix(), name, text.splitlines(), ast.parse(text)))
    return found


@cache
def names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def imports(module: Module) -> list[Import]:
    """Return the imports of our own modules that run, so not those under `if TYPE_CHECKING`."""
    known = names()

    def targets(node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names if alias.name in known]
        source = node.module or ""
        if node.level:
            package = module.name if module.path.endswith("__init__.py") else module.name.rpartition(".")[0]
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*parts, *([source] if source else [])])
        return [
            f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source
            for alias in node.names
            if source in known
        ]

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                if found := targets(child):
                    yield Import(child.lineno, found, in_function)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from visit(ast.Module([other], []), in_function)
            else:
                yield from visit(child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(visit(module.tree, False))


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the sets of modules that reach each other (Tarjan's strongly connected components of two or more)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for target in graph.get(name, ()):
            if target not in number:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], number[target])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.add(frozenset(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in number:
            visit(name)
    return found


def words(line: str) -> set[str]:
    """Return the words of a line, those inside of identifiers too, lower case and in the singular."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", line)
    return {form for part in parts for form in (part.lower(), part.lower().removesuffix("s"))}


def test_no_class_name_is_defined_twice() -> None:
    """An underscore makes no other name: a reader says both in the same way."""
    places = defaultdict(list)
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{module.path}:{node.lineno}")
    doubled = {name: where for name, where in places.items() if len(where) > 1}
    assert not doubled, f"one class name must have one meaning: {doubled}"


def test_no_file_name_occurs_twice() -> None:
    places = defaultdict(list)
    for module in modules():
        places[Path(module.path).stem].append(module.path)
    doubled = {name: where for name, where in places.items() if len(where) > 1 and name not in REPEATED_FILE_NAMES}
    assert not doubled, f"rename one, or add the name with a reason to REPEATED_FILE_NAMES: {doubled}"


def test_no_modules_import_each_other_in_a_cycle() -> None:
    """Imports inside of functions count: they hide a cycle and do not remove it."""
    graph = {module.name: {target for found in imports(module) for target in found.targets} for module in modules()}
    found = cycles(graph)
    assert not found, f"import cycles: {[sorted(cycle) for cycle in found]}"


def test_each_late_import_has_its_reason_beside_it() -> None:
    bare = []
    for module in modules():
        for found in imports(module):
            own, above = module.lines[found.line - 1], module.lines[found.line - 2].strip()
            reason = own[own.index("#") :] if "#" in own else above if above.startswith("#") else "#"
            if found.in_function and NO_REASON.match(reason):
                bare.append(f"{module.path}:{found.line}")
    assert not bare, f"imports inside of functions need a comment with the reason, on their line or above: {bare}"


def test_retired_words_are_gone() -> None:
    places = [
        f"{module.path}:{number}: {word}"
        for module in modules()
        for number, line in enumerate(module.lines, 1)
        for word in sorted(words(line).intersection(RETIRED_WORDS))
    ]
    assert not places, f"use the field's words (ARCHITECTURE.md has a glossary): {places}"


def test_the_checks_find_what_they_are_for() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset({"b", "c"})}
    assert {"desk", "shelf"} <= words("class JobDesk: self._shelf = open_shelfX")
    assert "desk" not in words("desktop")
    assert NO_REASON.match("# the same") and NO_REASON.match("#") and not NO_REASON.match("# here: takes 60 ms")
    late = [found for module in modules() for found in imports(module) if found.in_function]
    assert late, "the search for imports inside of functions finds none at all"


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[\w.]+\.(?:py|md))?)`", text))
    missing = sorted(
        each for each in named if not any((root / each).exists() for root in (ROOT, ROOT / "concurrent_nb"))
    )
    missing = [each for each in missing if not list((ROOT / "concurrent_nb").glob(f"**/{each}"))]
    assert len(named) > 10
    assert not missing, f"{name} names what does not exist: {missing}"
