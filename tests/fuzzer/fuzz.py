"""A fuzzer of the real cores: a bad peer sends valid and invalid messages, beside good peers, who must not notice.

    seed -> role, actions (a seed each) -> FuzzedMaster, FuzzedSlave, FuzzedApplication -> Finding, shortened

After each sequence of actions: no unexpected exception was raised, the tasks of the good peers have ended correctly,
only the session of the bad peer is over, and the core holds none of its names. At the end: memory and descriptors are
as before. For tests, and by hand:

    python -m tests.fuzzer.fuzz --seconds 60 --seed 1
    python -m tests.fuzzer.fuzz --target client --seed 4711 --count 1 --trace
"""

import argparse
import contextlib
import gc
import logging
import os
import random
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tests.fuzzer.fuzzed_application import FuzzedApplication
from tests.fuzzer.fuzzed_master import FuzzedMaster, FuzzFailure
from tests.fuzzer.fuzzed_slave import FuzzedSlave

#: actions of a sequence, at most
ACTIONS_MAX: Final = 14
#: sequences that run in one rig, one after another
RIG_SEQUENCES: Final = 200
#: memory that this process may allocate after its start: a larger allocation fails
MEMORY_MAX_BYTES: Final = 2 * 1024**3
#: memory that all sequences together may leave
LEFT_MAX_BYTES: Final = 48 * 1024**2
#: sequences before memory is measured first: caches fill
WARM_SEQUENCES: Final = 100
#: tries to shorten a sequence
SHORTEN_MAX: Final = 60
_IDS: Final = re.compile(r"b'(\\.|[^'\\])*'|b\"(\\.|[^\"\\])*\"|[0-9a-f]{8,}|\[[0-9a-f]{8}\]|\d+")


class Rig(Protocol):
    """Good nodes, and one bad peer at a time."""

    trace: list[str]

    def run_sequence(self, role: str, seed: int, actions: Sequence[int]) -> None:
        """Run a bad peer of this role for a sequence of actions. Raises FuzzFailure, or an exception of the core."""

    def close(self) -> None:
        """Close all descriptors."""


#: by target: the rig, and the role of the bad peer
TARGETS: Final[dict[str, tuple[Callable[[int], Rig], str]]] = {
    "client": (FuzzedMaster, "client"),
    "slave": (FuzzedMaster, "slave"),
    "worker": (FuzzedSlave, "worker"),
    "worker's bytes": (FuzzedSlave, "bytes"),
    "slave's master": (FuzzedSlave, "master"),
    "application's master": (FuzzedApplication, "master"),
}


@dataclass(slots=True)
class Finding:
    """A failure."""

    signature: str  #: equal for failures that probably have one cause
    target: str
    seed: int
    after_s: float
    what: str
    trace: list[str]
    count: int = 1


@dataclass(slots=True)
class FuzzReport:
    """The result of a run."""

    sequences: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)
    left_bytes: int = 0
    left_fds: int = 0


def actions_of(target: str, seed: int) -> list[int]:
    """Return the actions of a seed."""
    chance = random.Random(f"{target} {seed}")
    return [chance.randrange(2**32) for _ in range(chance.randint(1, ACTIONS_MAX))]


def run_once(rig: Rig, target: str, seed: int, actions: Sequence[int]) -> tuple[str, str] | None:
    """Run one sequence; return the signature and the description of its failure, None if it has none."""
    rig.trace.clear()
    try:
        rig.run_sequence(TARGETS[target][1], seed, actions)
    except FuzzFailure as wrong:
        return _signature(str(wrong)), str(wrong)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.name}"
        return f"{type(error).__name__} in {place}: {_signature(str(error))[:60]}", traceback.format_exc()
    return None


def _signature(text: str) -> str:
    """Return a text without what differs from run to run."""
    return "; ".join(sorted({_IDS.sub("*", part)[:100] for part in text.split("; ")})[:2])


def shorten(target: str, seed: int, actions: Sequence[int], signature: str) -> tuple[list[int], list[str]] | None:
    """Leave out actions while a fresh rig fails in the same way. None if a fresh rig does not fail at all."""
    make, _ = TARGETS[target]
    traces: list[list[str]] = []

    def fails(tried: Sequence[int]) -> bool:
        rig = make(seed)
        try:
            found = run_once(rig, target, seed, tried)
            traces.append(list(rig.trace))
            return found is not None and found[0] == signature
        finally:
            with contextlib.suppress(Exception):  # it is broken: that is the finding
                rig.close()

    left = list(actions)
    if not fails(left):
        return None
    shortest = traces[-1]
    tries, at = 0, len(left) - 1
    while at >= 0 and tries < SHORTEN_MAX:
        tried = left[:at] + left[at + 1 :]
        tries += 1
        if fails(tried):
            left, shortest = tried, traces[-1]
        at -= 1
    return left, shortest


def fuzz(
    targets: Sequence[str],
    *,
    seconds: float,
    seed: int = 1,
    count: int = 0,
    on_finding: Callable[[str], None] | None = None,
) -> FuzzReport:
    """Run sequences for so many seconds, or `count` of them for each target."""
    report = FuzzReport()
    began = time.monotonic()
    for position, target in enumerate(targets):
        until = began + seconds * (position + 1) / len(targets)
        _fuzz_one(report, target, seed, count, until, began, on_finding or (lambda text: None))
    report.took_s = time.monotonic() - began
    return report


def _fuzz_one(
    report: FuzzReport,
    target: str,
    seed: int,
    count: int,
    until: float,
    began: float,
    on_finding: Callable[[str], None],
) -> None:
    make, _ = TARGETS[target]
    fds, memory = _fds(), 0
    done = 0
    rig: Rig | None = None
    while done < count if count else time.monotonic() < until:
        if rig is None:
            rig = make(seed)
        if done == WARM_SEQUENCES:
            memory = _rss_bytes()
        actions = actions_of(target, seed + done)
        found = run_once(rig, target, seed + done, actions)
        done += 1
        if found is not None:
            _record(report, target, seed + done - 1, actions, found, rig.trace, time.monotonic() - began, on_finding)
        if found is not None:
            with contextlib.suppress(Exception):  # it is broken: that is the finding
                rig.close()
            rig = None
        elif done % RIG_SEQUENCES == 0:
            rig.close()
            rig = None
    if rig is not None:
        rig.close()
    report.sequences[target] = done
    del rig
    gc.collect()
    report.left_fds += _fds() - fds
    report.left_bytes = max(report.left_bytes, _rss_bytes() - memory if memory else 0)


def _record(
    report: FuzzReport,
    target: str,
    seed: int,
    actions: Sequence[int],
    found: tuple[str, str],
    trace: Sequence[str],
    after_s: float,
    on_finding: Callable[[str], None],
) -> None:
    signature, what = found
    known = report.findings.get(signature)
    if known is not None:
        known.count += 1
        return
    shorter = shorten(target, seed, actions, signature)
    lines = list(trace) if shorter is None else shorter[1]
    finding = Finding(signature, target, seed, after_s, what, lines)
    if shorter is None:
        finding.what += "\n(not in a fresh rig: it needs earlier sequences)"
    report.findings[signature] = finding
    on_finding(describe(finding))


def describe(finding: Finding) -> str:
    """Return a description of a failure, and the command that repeats it."""
    return "\n".join(
        [
            f"--- {finding.target}, after {finding.after_s:.1f} s: {finding.signature}",
            *(f"    {line[:1000]}" for line in finding.trace[-8:]),
            *(f"    {line}" for line in finding.what.rstrip().splitlines()[-7:]),
            "    repeat: python -m tests.fuzzer.fuzz "
            f"--target {shlex.quote(finding.target)} --seed {finding.seed} --count 1 --trace",
        ]
    )


def verdict(report: FuzzReport) -> list[str]:
    """Return the failures of a run; an empty list if there are none."""
    wrong = [finding.signature for finding in report.findings.values()]
    if not wrong and report.left_bytes > LEFT_MAX_BYTES:
        wrong.append(f"{report.left_bytes / 1e6:.0f} MB of memory are left")
    if not wrong and report.left_fds > 0:
        wrong.append(f"{report.left_fds} descriptors are left open")
    return wrong


def bound_memory() -> None:
    """Limit the memory of this process, so that a nonsensical size fails here and does not exhaust the machine."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return
    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_MAX_BYTES, hard))


def _rss_bytes() -> int:
    gc.collect()
    import psutil

    return int(psutil.Process().memory_info().rss)


def _fds() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; return 1 if there was a failure."""
    parser = argparse.ArgumentParser(description="Fuzz the real cores, with good peers beside the bad one.")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=0, help="number of sequences of each target, instead of --seconds")
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="the bad peer (default: each in turn)")
    parser.add_argument("--trace", action="store_true", help="print all actions of the bad peer; log as usual")
    options = parser.parse_args(arguments)
    targets = options.target or [*TARGETS]
    if options.trace:
        logging.basicConfig(level=logging.INFO)
    else:
        logging.disable(logging.CRITICAL)
    bound_memory()
    if options.trace and options.count == 1:
        return _show(targets[0], options.seed)
    report = fuzz(
        targets,
        seconds=options.seconds,
        seed=options.seed,
        count=options.count,
        on_finding=lambda text: print(text, flush=True),  # noqa: T201
    )
    wrong = verdict(report)
    done = sum(report.sequences.values())
    lines = [f"{finding.count:6} x {finding.target}: {finding.signature}" for finding in report.findings.values()]
    lines.append(
        f"{done} sequences {report.sequences} in {report.took_s:.0f} s ({done / report.took_s:.0f}/s); "
        f"left: {report.left_bytes / 1e6:.1f} MB, {report.left_fds} descriptors; "
        f"{len(wrong)} failures"
    )
    if wrong and not report.findings:
        lines += wrong
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if wrong else 0


def _show(target: str, seed: int) -> int:
    """Run one seed, and print its whole trace."""
    rig = TARGETS[target][0](seed)
    found = run_once(rig, target, seed, actions_of(target, seed))
    sys.stdout.write("\n".join([*rig.trace, found[1] if found else "no failure"]) + "\n")
    rig.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
