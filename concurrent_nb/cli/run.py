"""`concurrent-nb run`: run the samples that packages provide under the entry points `concurrent_nb.samples`.

A sample is a Component. The first line of its docstring describes it, its config items are its options, `ways` lists
the ways in which it can run, and `run(app, way, show)` runs it and returns the text to print.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final, Protocol, cast

from traitlets import TraitType

from concurrent_nb.api import ApplicationNode, Cluster, connect
from concurrent_nb.cli.config_options import read_items, whole_number
from concurrent_nb.cli.progress_line import ProgressLine
from concurrent_nb.components.config import BoolItem, read_value
from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.settings import files as settings

ENTRY_POINTS: Final = "concurrent_nb.samples"
#: ways for which the thesis had options: --task-batch, --no-task-batch
ALL_AT_ONCE, ONE_BY_ONE = "all-at-once", "one-by-one"

Items = dict[str, dict[str, Any]]


class Program(Protocol):
    """The interface of a sample, in addition to Component."""

    ways: ClassVar[tuple[str, ...]]  #: the values of --as, the default first

    def run(self, app: ApplicationNode, way: str, show: Callable[[str], None]) -> str:
        """Run; return the text to print. `show` displays a progress line."""


def run(name: str | None, arguments: list[str]) -> int:
    """Run a sample, or list the samples if `name` is None; return the exit code.

    Raises ConfigurationError for an unknown sample and for invalid options, and what the cluster raises.
    """
    samples = _samples()
    if name is None:
        print(listing(samples))
        return 0
    if name not in samples:
        raise ConfigurationError(f"unknown sample {name!r}: choose one of {', '.join(sorted(samples))}")
    kind = _load(samples[name])
    parser = _parser(name, kind)
    options, rest = parser.parse_known_args(arguments)
    try:
        items = read_items(rest)
    except ConfigurationError as error:
        parser.error(str(error))
    for item in kind.class_trait_names(config=True):
        if (text := getattr(options, item, None)) is not None:
            items.setdefault(kind.__name__, {})[item] = read_value(text) if isinstance(text, str) else text
    sample = _make(kind, {kind.__name__: items.pop(kind.__name__, {})})
    line = ProgressLine()
    with _application(options, items) as app:
        try:
            report = sample.run(app, options.way, line.show)
        finally:
            line.clear()
    print(report)
    return 0


def listing(samples: dict[str, EntryPoint]) -> str:
    """Return a line for each sample, with its description or the reason why it cannot be loaded."""
    names: dict[str, list[str]] = {}
    for name, entry in sorted(samples.items()):
        names.setdefault(entry.value, []).append(name)
    lines = []
    for each in names.values():
        try:
            text = _summary(_load(samples[each[0]]))
        except ConfigurationError as error:
            text = str(error)
        lines.append(f"  {' or '.join(each):<26} {text}")
    return "\n".join([*lines, "", "`concurrent-nb run NAME --help` lists the options of a sample."])


def _samples() -> dict[str, EntryPoint]:
    """Return the installed samples by name. Raises ConfigurationError if two have the same name, or there is none."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if (other := found.setdefault(entry.name, entry)).value != entry.value:
            text = f"sample {entry.name!r} is provided twice, by {other.value} and {entry.value}: uninstall one of them"
            raise ConfigurationError(text)
    if not found:
        raise ConfigurationError(
            "no sample is installed, not even those of concurrent_nb: its installation is older than its files; "
            "install it again (make, or pip install)"
        )
    return found


def _load(entry: EntryPoint) -> type[Component]:
    try:
        kind = entry.load()
    except Exception as error:  # code of another package
        raise ConfigurationError(f"sample {entry.name} ({entry.value}) cannot be imported: {error!r}") from error
    if not (isinstance(kind, type) and issubclass(kind, Component) and hasattr(kind, "run") and hasattr(kind, "ways")):
        raise ConfigurationError(f"sample {entry.name} ({entry.value}) is {kind!r}, not a Component with ways and run")
    return kind


def _make(kind: type[Component], items: Items) -> Program:
    manager = ComponentManager(settings.load(items))
    return cast(Program, manager.get(manager.register(kind)))


def _summary(kind: type[Component]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _parser(name: str, kind: type[Component]) -> argparse.ArgumentParser:
    """Return the parser of a sample's options."""
    parser = argparse.ArgumentParser(
        prog=f"concurrent-nb run {name}",
        description=_summary(kind),
        epilog=f"Configuration items of {kind.__name__} and of the nodes can be set as --Class.item=value.",
        allow_abbrev=False,
    )
    ways = cast(type[Program], kind).ways
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--connect", metavar="NAME_OR_FILE", help="cluster to run on (default: an embedded cluster)")
    where.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="workers of the embedded cluster (default: one per core)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--as", dest="way", choices=ways, default=ways[0], help="how the tasks are sent (default: %(default)s)"
    )
    for flag, way in (("task_batch", ALL_AT_ONCE), ("no_task_batch", ONE_BY_ONE)):
        if way in ways:
            _add(how, flag, f"the same as --as {way}", dest="way", action="store_const", const=way)
    own = parser.add_argument_group("options of the sample")
    for item, trait in kind.class_traits(config=True).items():
        _add_option(own, item, trait)
    return parser


def _add_option(group: Any, item: str, trait: TraitType[Any, Any]) -> None:
    default = "none" if trait.default() == "" else trait.default()
    text = f"{trait.help.rstrip('.')} (default: {default})".replace("%", "%%")
    if isinstance(trait, BoolItem):
        _add(group, item, text, dest=item, action=argparse.BooleanOptionalAction)
    else:
        _add(group, item, text, dest=item, metavar="X")


def _add(group: Any, name: str, text: str, **how: Any) -> None:
    """Add an option, spelled with hyphens; the spelling with underscores works too."""
    usual = name.replace("_", "-")
    group.add_argument(f"--{usual}", help=text, **how)
    if usual != name:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS, **how)


@contextlib.contextmanager
def _application(options: argparse.Namespace, items: Items) -> Iterator[ApplicationNode]:
    """Yield an application of the given cluster, or of an embedded one. Tasks that have not ended are cancelled."""
    if options.connect is None:
        with Cluster(workers=options.workers, config=items) as cluster:
            yield cluster.application()
        return
    if items:
        raise ConfigurationError(f"a running cluster takes no configuration items, but {', '.join(items)} was given")
    with contextlib.closing(connect(options.connect)) as app:
        yield app
