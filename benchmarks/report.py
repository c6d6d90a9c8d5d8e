"""From figures to words: medians, ranges, ratios, the table of targets, and the plot."""

import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
import psutil

from benchmarks.peers import CONTENDERS, OURS
from benchmarks.targets import OTHERS, TARGETS, Bound, Target, verdict

#: metric of errors: the note contains what went wrong
PROBLEM: Final = "problem"
#: roles of processes, in the order of a task's way
ROLES: Final = ("client", "master", "slave", "template", "workers", "other")
#: metrics that are reported by role, with title and unit
BY_ROLE: Final = (
    ("cpu_us/task", "Processor time per no-op, µs, by process"),
    ("idle_MiB", "Idle memory, MiB (PSS), by process"),
    ("queue_B/task", "Memory per queued task, B, by process"),
)
#: percentage of two cores below which other load on the machine makes figures unreliable
CALM_PERCENT: Final = 90.0
#: packages whose versions explain figures, beside the contenders'
PACKAGES: Final = ("numpy", "pyzmq", "msgspec", "cloudpickle", "psutil")


class Figure(msgspec.Struct, frozen=True):
    """One measurement: of a contender (a name of `peers.CONTENDERS`) in a round."""

    contender: str
    round: int
    metric: str
    value: float | None  #: None: missing, and the note contains the reason
    n: int | None = None  #: number of tasks or items
    note: str = ""


class Summary(NamedTuple):
    """One metric of one contender over all rounds."""

    median: float | None
    low: float
    high: float
    counts: tuple[int, ...]  #: smallest and largest number of tasks, if known
    notes: tuple[str, ...]


class Results:
    """All figures of a run, by metric and contender."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures: dict[tuple[str, str], list[Figure]] = {}
        for figure in figures:
            self._figures.setdefault((figure.metric, figure.contender), []).append(figure)

    def summary(self, metric: str, contender: str) -> Summary | None:
        """Summarise one metric of one contender; None if it does not occur."""
        found = self._figures.get((metric, contender))
        return summarise(found) if found else None

    def median(self, metric: str, contender: str) -> float | None:
        """Return the median over the rounds; None if there is no value."""
        summary = self.summary(metric, contender)
        return summary.median if summary else None

    def contenders(self, metric: str) -> list[str]:
        """Return the contenders with figures of this metric, in the order of `peers.CONTENDERS`."""
        return [name for name in CONTENDERS if (metric, name) in self._figures]

    def problems(self) -> list[Figure]:
        """Return what went wrong, by contender."""
        return [figure for name in self.contenders(PROBLEM) for figure in self._figures[PROBLEM, name]]

    def values(self, metric: str) -> list[float]:
        """Return every value of a metric, of all contenders."""
        return [
            figure.value
            for (key, _), figures in self._figures.items()
            if key == metric
            for figure in figures
            if figure.value is not None
        ]


class About(NamedTuple):
    """The conditions of a run."""

    command: str
    when: str
    took_s: float
    rounds: int
    size: str  #: a name of `measure.SIZES`
    machine: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    contenders: tuple[str, ...]
    absent: tuple[str, ...]  #: contenders that are not installed

    @classmethod
    def of_this_run(
        cls,
        arguments: Sequence[str],
        rounds: int,
        size: str,
        took_s: float,
        contenders: Sequence[str],
        absent: Sequence[str],
    ) -> Self:
        """Describe this machine and the installed packages."""
        command = shlex.join(["python", "-m", "benchmarks.run", *arguments])
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        distributions = [CONTENDERS[name].distribution for name in CONTENDERS if name in contenders]
        versions = tuple((name, version(name)) for name in (*filter(None, distributions), *PACKAGES))
        return cls(command, when, took_s, rounds, size, machine(), versions, tuple(contenders), tuple(absent))


# ---------------------------------------------------------------------------------------------------------------- pure


def summarise(figures: Sequence[Figure]) -> Summary:
    """Return median, range and counts of one metric's figures, without those that have no value."""
    values = [figure.value for figure in figures if figure.value is not None]
    counts = [figure.n for figure in figures if figure.n is not None]
    notes = tuple(dict.fromkeys(figure.note for figure in figures if figure.note))
    median = statistics.median(values) if values else None
    extremes = (min(counts), max(counts)) if counts else ()
    return Summary(median, min(values, default=0.0), max(values, default=0.0), tuple(dict.fromkeys(extremes)), notes)


def number(value: float | None) -> str:
    """Format with three significant digits, and all digits before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def advantage(target: Target, ours: float | None, theirs: float | None) -> str:
    """Return how many times better ours is, for metrics of either direction."""
    if not ours or not theirs:
        return "-"
    return f"{number(ours / theirs if target.more_is_better else theirs / ours)} x"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Write a Markdown table; the columns `numbers` are aligned to the right."""
    right = set(numbers)
    lines = [head, ["--:" if column in right else "---" for column in range(len(head))], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def spread(summary: Summary | None) -> str:
    """Write median and range."""
    if summary is None or summary.median is None:
        return "-"
    return f"{number(summary.median)} [{number(summary.low)} .. {number(summary.high)}]"


def found(bounds: Sequence[Bound], target: Target, results: Results) -> str:
    """Return the ratios that are compared with the bounds' limits."""
    parts = []
    for bound in bounds:
        if bound.peer:
            ratio = bound.measured(target.metric, results.median)
            title = CONTENDERS[bound.peer].title
            parts.append(f"{number(ratio)} x {title}" if ratio is not None else f"{title}: not measured")
    return ", ".join(dict.fromkeys(parts))


def best_peer(target: Target, results: Results) -> str:
    """Return the best of the others and its median."""
    medians = {name: results.median(target.metric, name) for name in CONTENDERS if name != OURS}
    known = {name: value for name, value in medians.items() if value is not None}
    if not known:
        return "-"
    best = (max if target.more_is_better else min)(known, key=lambda name: known[name])
    return f"{CONTENDERS[best].title} {number(known[best])}"


def targets_table(results: Results) -> str:
    """Write the table of targets: promised, measured, and whether the target is met."""
    rows = []
    for target in TARGETS:
        ours = results.summary(target.metric, OURS)
        rows.append(
            (
                target.what,
                ", ".join(map(str, target.promised)),
                ", ".join(map(str, target.stretch)),
                f"{spread(ours)} {target.unit}"
                if ours and ours.median is not None
                else "; ".join(ours.notes if ours else ()),
                found([*target.promised, *target.stretch], target, results),
                best_peer(target, results),
                verdict(target.promised, target.metric, results.median).value,
                verdict(target.stretch, target.metric, results.median).value,
            )
        )
    head = ("what", "target", "stretch", "ours: median [range]", "ratio", "best peer", "target is", "stretch is")
    return table(head, rows)


def contenders_table(target: Target, results: Results) -> str:
    """Write one metric of all contenders that have it, the best first."""
    ours = results.median(target.metric, OURS)
    rows = []
    for name in results.contenders(target.metric):
        summary = results.summary(target.metric, name)
        assert summary is not None
        counts = "n=" + " .. ".join(f"{count:,}" for count in summary.counts) if summary.counts else ""
        notes = "; ".join(filter(None, (counts, *summary.notes)))
        ratio = advantage(target, ours, summary.median) if name != OURS else ""
        low, high = (number(summary.low), number(summary.high)) if summary.median is not None else ("-", "-")
        key = float("inf") if summary.median is None else summary.median * (-1 if target.more_is_better else 1)
        rows.append((key, (CONTENDERS[name].title, number(summary.median), low, high, ratio, notes)))
    rows.sort(key=lambda row: row[0])
    head = ("contender", f"median, {target.unit}", "min", "max", "ours is better by", "tasks, notes")
    return table(head, [cells for _, cells in rows], range(1, 5))


def roles_table(metric: str, results: Results) -> str:
    """Write a metric's medians by role of the processes."""
    rows = []
    for name in results.contenders(metric):
        values = [results.median(f"{metric}, {role}", name) for role in ROLES]
        total = results.median(metric, name)
        if total is not None:
            rows.append((CONTENDERS[name].title, number(total), *map(number, values)))
    return table(("contender", "all", *ROLES), rows, range(1, len(ROLES) + 2))


def render(figures: Iterable[Figure], about: About, plot: str = "") -> str:
    """Write the whole report as Markdown; `plot` is the name of the picture beside it."""
    results = Results(figures)
    calm = results.values("calm_%")
    parts = [
        "# Benchmarks",
        f"`{about.command}`, {about.when}, {about.took_s / 60:.1f} minutes. Rounds: {about.rounds}; each contender "
        "in turn in a fresh process, with 2 workers. Medians over the rounds; a ratio is one of medians. Ratios of one "
        "run hold, absolute figures follow the machine.",
        *(
            [f"**Counts are of size {about.size!r}: no verdict below is the promised one.**"]
            if about.size != "full"
            else []
        ),
        *([f"**The machine was busy: {calmness(calm)}.**"] if calm and statistics.median(calm) < CALM_PERCENT else []),
        "## Targets",
        targets_table(results),
        *([f"![Ours and the peers]({plot})"] if plot else []),
        *(f"## {title}\n\n{roles_table(metric, results)}" for metric, title in BY_ROLE if results.contenders(metric)),
        *(
            f"## {target.what[0].upper()}{target.what[1:]}\n\n{contenders_table(target, results)}"
            for target in (*TARGETS, *OTHERS)
            if results.contenders(target.metric)
        ),
        "## Contenders",
        table(("contender", "version", "set up"), contenders_rows(about)),
        "## Machine",
        table(("", ""), [*about.machine, ("how calm", calmness(calm))]),
        table(("package", "version"), about.versions),
        "## What the figures mean",
        MEANINGS,
        "## Problems",
        problems_text(results),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def contenders_rows(about: About) -> list[tuple[str, str, str]]:
    """Write version and set-up of each requested contender, or that it is not installed."""
    versions = dict(about.versions)
    rows = []
    for name in about.contenders:
        contender = CONTENDERS[name]
        installed = versions.get(contender.distribution, "standard library")
        rows.append((contender.title, "not installed" if name in about.absent else installed, contender.note))
    return rows


def calmness(calm: Sequence[float]) -> str:
    """Write how much of two cores two bare processes got."""
    if not calm:
        return "not measured"
    low, high = number(min(calm)), number(max(calm))
    return f"two bare processes got {number(statistics.median(calm))} % of two cores [{low} .. {high}]"


def problems_text(results: Results) -> str:
    """List what went wrong."""
    problems = results.problems()
    if not problems:
        return "None: every contender came to its end and left nothing behind."
    return "\n".join(
        f"- round {figure.round + 1}, {CONTENDERS[figure.contender].title}: {figure.note}" for figure in problems
    )


MEANINGS: Final = """
- *n*: how many tasks or items were run, where a slow contender's count was cut. Times are scaled up to the full count.
- *no-ops*: one `submit` for each of 10,000, and all results read; for `map` and these, the median of up to five times
  that take 2 s together. Processor time is that of all processes of the contender during those, the measuring one
  included, by what the process does.
- *map*: the API's own call without a chunk size. With errors kept, the inputs are whole numbers, fractions, texts,
  tuples and None, and one in a thousand raises; where a map ends at the first error, it maps a wrapper that returns it.
- *a lone no-op*: submitted when the answer of the one before is there.
- *of two bare processes*: two processes do the same work in a plain loop, each taking the next item when it is done
  with one, just before and just after the contender; 100 % is as fast as those, and what is above is the host's noise
  between these runs. Burning is by processor time, so a framework that uses a core itself shows it.
- *there and back*: MiB moved in both directions for each second; the task returns a new array, `a + 1`.
- *handed over once*: through the API's own way of sharing (`put`, `scatter`, `push`), which is in the time.
  *Passed*: as a plain argument of each submit. The array is another one each time.
- *cold start*: interpreter and imports included, until both workers have answered.
- *memory*: PSS counts what n processes share as an nth for each. Per queued task it is the growth of resident memory
  (RSS) while two tasks hold the workers; of the peers in the first round only.
"""


# ---------------------------------------------------------------------------------------------------- machine and files


def machine() -> tuple[tuple[str, str], ...]:
    """Describe this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        ("cores", str(cores)),
        ("processor", cpu_model()),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("commit", commit()),
    )


def cpu_model() -> str:
    """Return the processor's name, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def commit() -> str:
    """Return the checked-out commit, and whether there are changes since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def version(distribution: str) -> str:
    """Return the installed version of a package."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write(path: Path, figures: Sequence[Figure], about: About) -> str:
    """Write the report to `path`, and the plot beside it under the same name, ending in .svg; return the report."""
    picture = path.with_suffix(".svg").name.lower()
    plot(Results(figures), path.with_name(picture))
    text = render(figures, about, picture)
    path.write_text(text, encoding="utf-8")
    return text


def write_section(path: Path, title: str, text: str) -> None:
    """Put a section with this title into a report, in place of the one that it has; a new one goes to its end."""
    report = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    head = f"## {title}\n"
    before, _, rest = f"\n{report}".partition(f"\n{head}")
    _, next_head, after = rest.partition("\n## ")
    section = f"{before[1:].rstrip()}\n\n{head}\n{text.strip()}\n"
    path.write_text(f"{section}\n{next_head.strip()} {after.lstrip()}" if after else section, encoding="utf-8")


def about_section(module: str, arguments: Sequence[str]) -> str:
    """Write how a section was made: its command, time, machine and load."""
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *arguments])
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    facts = "; ".join(f"{name}: {value}" for name, value in machine())
    return f"`{command}`, {when}. {facts}; load at the end: {os.getloadavg()[0]:.1f}."


def plot(results: Results, path: Path) -> None:
    """Draw a panel of bars for each row that has peers, with ranges."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # letters as letters: smaller, and a search finds them
    from matplotlib import pyplot as plt

    shown = [target for target in TARGETS if len(results.contenders(target.metric)) > 1]
    columns = 3
    rows = max(1, -(-len(shown) // columns))
    drawing, axes = plt.subplots(rows, columns, figsize=(15, 2.7 * rows), layout="constrained", squeeze=False)
    for axis, target in zip(axes.flat, shown, strict=False):
        known = {name: results.summary(target.metric, name) for name in reversed(results.contenders(target.metric))}
        bars = {name: summary for name, summary in known.items() if summary and summary.median is not None}
        medians = [summary.median or 0.0 for summary in bars.values()]
        below = [(summary.median or 0.0) - summary.low for summary in bars.values()]
        above = [summary.high - (summary.median or 0.0) for summary in bars.values()]
        colours = ["tab:orange" if name == OURS else "tab:blue" for name in bars]
        titles = [CONTENDERS[name].title for name in bars]
        axis.barh(titles, medians, color=colours, xerr=[below, above], ecolor="dimgray", capsize=2)
        if medians and min(medians) > 0 and max(medians) / min(medians) > 30:
            axis.set_xscale("log")
        better = "more" if target.more_is_better else "less"
        axis.set_title(target.what.split(", default chunks")[0].replace("`", ""), fontsize=9)
        axis.set_xlabel(f"{target.unit} ({better} is better)", fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)
