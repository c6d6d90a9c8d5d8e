"""TAB completion in the lines of the magics: options, commands, and values if they are known.

    cell, cursor -> a line of our magics? -> Offer -> IPython, which then uses no other completion

In quotes, in the body of a cell and in all other lines IPython's own completion is used. Nothing is started here.
"""

import argparse
import re
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from concurrent_nb.errors import ConcurrentError
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.workers.slave_side.machine import cores

#: name of our matcher in IPython's configuration
MATCHER: Final = "concurrent_nb"
#: maximum time in seconds that TAB waits for the master
STATUS_TIMEOUT_S: Final = 0.5
#: commands of %concurrent that take options -> these options
OPTIONS_OF_COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "start": ("--workers", "--name", "--on", "--slaves", "--adapt"),
    "scale": ("--slaves", "--adapt"),
    "restart": ("--now",),
    "attach": ("--out",),
    "stop": ("--force",),
}
#: commands of %concurrent that take a file, which IPython completes
_COMMANDS_WITH_FILE: Final = frozenset({"connect"})
_IPYTHON_FILES: Final = "IPCompleter.file_matcher"
_MAGIC: Final = re.compile(r"\s*(%%?\w+)(?=\s)")

#: possible values by option or command, computed only when they are needed
Known = Mapping[str, Callable[[], Iterable[str]]]


@dataclass(frozen=True)
class Offer:
    """The possible words at the cursor."""

    fragment: str  #: the part that is already typed
    names: list[str]
    files: bool = False  #: a file name is possible too


def complete_magics(shell: InteractiveShell, magics: Mapping[str, Any], cluster: CurrentCluster) -> None:
    """Register the completion of the magics' lines.

    Args:
        magics: `documented` methods by their names with percent signs.
    """
    parsers = {name: magic.parser for name, magic in magics.items()}
    variables = _Variables(shell)
    known: Known = {
        "--out": variables,
        "--shared": variables,
        "--batch": lambda: ["auto"],
        "--needs": lambda: ["threads", "cores=all", *(f"cores={n}" for n in range(1, cores() + 1))],
        "kernel": SlaveNames(cluster),
        "cancel": lambda: _job_names(cluster),
        "attach": lambda: _job_names(cluster),
        "show": lambda: _job_names(cluster),
        "trace": lambda: _job_names(cluster),
        "stats": lambda: _job_names(cluster),
    }

    @context_matcher(identifier=MATCHER)  # type: ignore[untyped-decorator]
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        found = offer_in_cell(parsers, context.full_text, context.cursor_line, context.cursor_position, known)
        if found is None:
            return {"completions": [], "suppress": False}
        return {
            "completions": [SimpleCompletion(name) for name in found.names] or _NoCompletions(),
            "matched_fragment": found.fragment,
            "suppress": True,
            "do_not_suppress": {_IPYTHON_FILES} if found.files else set(),
            "ordered": True,
        }

    _matchers(shell).append(matcher)


def leave_magics(shell: InteractiveShell) -> None:
    """Undo `complete_magics`."""
    matchers = _matchers(shell)
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", None) != MATCHER]


def offer_in_cell(
    parsers: Mapping[str, argparse.ArgumentParser], cell: str, row: int, column: int, known: Known
) -> Offer | None:
    """Return the possible words at the cursor; None if it is not in the line of one of our magics.

    Args:
        parsers: by the name of the magic, with percent signs.
        row, column: the cursor, from 0.
    """
    lines = cell.split("\n")
    text, rest = lines[row][:column], lines[row][column:]
    first = next((at for at, line in enumerate(lines) if line.strip()), 0)
    if row != first and (head := _MAGIC.match(f"{lines[first]} ")) and head[1].startswith("%%") and head[1] in parsers:
        return None  # the body
    magic = _MAGIC.match(text)
    if magic is None or magic[1] not in parsers or (magic[1].startswith("%%") and row != first):
        return None
    return offer(parsers[magic[1]], text[magic.end() :], rest, known)


def offer(parser: argparse.ArgumentParser, text: str, rest: str, known: Known) -> Offer | None:
    """Return the possible words at the cursor in a magic's line; None in quotes.

    Args:
        text: the line from the end of the magic's name to the cursor.
        rest: the line from the cursor.
    """
    fragment = "" if not text or text[-1].isspace() else text.split()[-1]
    try:
        before = shlex.split(text[: len(text) - len(fragment)])
    except ValueError:
        return None
    if re.search(r"['\"\\]", fragment):
        return None
    options = parser._option_string_actions
    waiting, given = _read(options, before)
    name, equals, value = fragment.partition("=")
    if waiting is None and equals and name in options:
        waiting, fragment = options[name], value
    if waiting is not None:
        return _fitting(fragment, _values(waiting, waiting.option_strings[0], known))
    command = given[0] if given else ""
    positional = [action for action in parser._actions if not action.option_strings][len(given) :]
    if (command in _COMMANDS_WITH_FILE and len(given) == 1) or (command == "trace" and len(given) == 2):
        return Offer(fragment, [], files=True)
    if len(given) > 1:
        positional = []  # only `trace` takes a second argument
    names = [] if fragment.startswith("-") or not positional else _values(positional[0], command, known)
    if not names and (not command or command in OPTIONS_OF_COMMANDS):
        after = rest.split() if rest[:1].isspace() else rest.split()[1:]
        there = {word.partition("=")[0] for word in [*before, *after]}
        names = [
            option
            for option, action in options.items()
            if (option not in there or isinstance(action, argparse._AppendAction))
            and option in OPTIONS_OF_COMMANDS.get(command, options)
        ]
    return _fitting(fragment, names)


def _read(options: Mapping[str, argparse.Action], words: Iterable[str]) -> tuple[argparse.Action | None, list[str]]:
    """Return the option whose value must follow the words, and the words that belong to no option."""
    waiting: argparse.Action | None = None
    given: list[str] = []
    for word in words:
        if waiting is not None:
            waiting = None
        elif (action := options.get(word)) is not None:
            waiting = action if action.nargs != 0 else None
        elif not word.startswith("-"):
            given.append(word)
    return waiting, given


def _values(action: argparse.Action, key: str, known: Known) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return list(known[key]()) if key in known else []


def _fitting(fragment: str, names: Iterable[str]) -> Offer:
    return Offer(fragment, [_as_word(name) for name in names if name.startswith(fragment)])


def _as_word(name: str) -> str:
    return shlex.quote(name) if re.search(r"[\s'\"\\]", name) else name


def _matchers(shell: InteractiveShell) -> list[Any]:
    assert shell.Completer is not None
    return shell.Completer.custom_matchers


class _NoCompletions(Iterator[SimpleCompletion]):
    """No completions, which still suppress those of others: IPython checks the length before it allows that."""

    def __len__(self) -> int:
        return 1

    def __next__(self) -> SimpleCompletion:
        raise StopIteration


class _Variables:
    """Returns the variables of the user, without modules."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    def __call__(self) -> list[str]:
        hidden = self._shell.user_ns_hidden
        return sorted(
            name
            for name, value in list(self._shell.user_ns.items())
            if not name.startswith("_")
            and not isinstance(value, ModuleType)
            and not (name in hidden and hidden[name] is value)
        )


class SlaveNames:
    """Returns the slaves of the notebook's current cluster; an empty list if the master does not answer in time.

    Args:
        timeout_s: maximum time to wait for the master.
    """

    def __init__(self, cluster: CurrentCluster, timeout_s: float = STATUS_TIMEOUT_S) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._asking: threading.Thread | None = None
        self._names: list[str] = []

    def __call__(self) -> list[str]:
        app = self._cluster.current_application
        if app is None:
            return []
        if self._asking is None or not self._asking.is_alive():  # otherwise the previous request is still open
            self._names = []
            self._asking = threading.Thread(target=self._ask, args=(app.status,), name="slaves for TAB", daemon=True)
            self._asking.start()
        self._asking.join(self._timeout_s)
        return self._names

    def _ask(self, status: Callable[[], dict[str, Any]]) -> None:
        try:
            self._names = [str(slave["name"]) for slave in status().get("slaves", [])]
        except ConcurrentError:
            return  # the next use of the cluster reports it


def _job_names(cluster: CurrentCluster) -> list[str]:
    """Return names for `%concurrent cancel`, `show` and `stats`: running jobs first, then the latest first."""
    jobs = [*cluster.jobs]
    jobs.reverse()
    jobs.sort(key=lambda job: job.done())
    return list(dict.fromkeys(job.name if job.name.isprintable() and job.name else job.id.hex()[:8] for job in jobs))
