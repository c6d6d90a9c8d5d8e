"""A fuzzer of the real cores: bad peers do what messages allow, and more, beside good ones, who must not notice.

    seed -> role, acts (a seed each) -> FuzzedMaster, FuzzedSlave, FuzzedApplication -> Finding, shortened

After each sequence of acts: nothing was raised but what may be, the good ones' tasks have ended right, nothing but the
bad one's session is over, no book holds anything of it. After all: memory and descriptors are where they were.
For tests, and by hand:

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
from tests.fuzzer.fuzzed_master import FuzzedMaster, Wrong
from tests.fuzzer.fuzzed_slave import FuzzedSlave

#: acts of a sequence, at most
ACTS_MAX: Final = 14
#: sequences that one rig has, one after another
RIG_SEQUENCES: Final = 200
#: memory of this process, above what it has when it begins: what is asked for beyond is refused, not taken
MEMORY_MAX_BYTES: Final = 2 * 1024**3
#: what all sequences together may leave
LEFT_MAX_BYTES: Final = 48 * 1024**2
#: sequences before memory is looked at first: caches fill
WARM_SEQUENCES: Final = 100
#: tries to shorten a sequence
SHORTEN_MAX: Final = 60
_IDS: Final = re.compile(r"b'(\\.|[^'\\])*'|b\"(\\.|[^\"\\])*\"|[0-9a-f]{8,}|\[[0-9a-f]{8}\]|\d+")


class Rig(Protocol):
    """Good nodes, and a bad peer at a time."""

    trace: list[str]

    def play(self, role: str, seed: int, acts: Sequence[int]) -> None:
        """Have a bad peer of this role do something for each act. Raises what goes wrong."""

    def close(self) -> None:
        """Give all descriptors back."""


#: by target: what is fuzzed, and in which role
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
    """Something that went wrong."""

    signature: str  #: equal for what is probably the same fault
    target: str
    seed: int
    after_s: float
    what: str
    trace: list[str]
    count: int = 1


@dataclass(slots=True)
class FuzzReport:
    """What a run has found."""

    sequences: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)
    left_bytes: int = 0
    left_fds: int = 0


def acts_of(target: str, seed: int) -> list[int]:
    """Give the acts of a seed."""
    chance = random.Random(f"{target} {seed}")
    return [chance.randrange(2**32) for _ in range(chance.randint(1, ACTS_MAX))]


def play_once(rig: Rig, target: str, seed: int, acts: Sequence[int]) -> tuple[str, str] | None:
    """Play one sequence; give the signature and the story of what went wrong, None if nothing did."""
    rig.trace.clear()
    try:
        rig.play(TARGETS[target][1], seed, acts)
    except Wrong as wrong:
        return _signature(str(wrong)), str(wrong)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.name}"
        return f"{type(error).__name__} in {place}: {_signature(str(error))[:60]}", traceback.format_exc()
    return None


def _signature(text: str) -> str:
    """Leave out of a text what is different each time."""
    return "; ".join(sorted({_IDS.sub("*", part)[:100] for part in text.split("; ")})[:2])


def shorten(target: str, seed: int, acts: Sequence[int], signature: str) -> tuple[list[int], list[str]] | None:
    """Leave out acts as long as the same goes wrong in a fresh rig. None if it does not go wrong there at all."""
    make, _ = TARGETS[target]
    traces: list[list[str]] = []

    def fails(tried: Sequence[int]) -> bool:
        rig = make(seed)
        try:
            found = play_once(rig, target, seed, tried)
            traces.append(list(rig.trace))
            return found is not None and found[0] == signature
        finally:
            with contextlib.suppress(Exception):  # it is broken, which is what was found
                rig.close()

    left = list(acts)
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
    targets: Sequence[str], *, seconds: float, seed: int = 1, count: int = 0, said: Callable[[str], None] | None = None
) -> FuzzReport:
    """Play sequences for so many seconds, or `count` of them for each target."""
    report = FuzzReport()
    began = time.monotonic()
    for position, target in enumerate(targets):
        until = began + seconds * (position + 1) / len(targets)
        _fuzz_one(report, target, seed, count, until, began, said or (lambda text: None))
    report.took_s = time.monotonic() - began
    return report


def _fuzz_one(
    report: FuzzReport, target: str, seed: int, count: int, until: float, began: float, said: Callable[[str], None]
) -> None:
    make, _ = TARGETS[target]
    fds, memory = _fds(), 0
    played = 0
    rig: Rig | None = None
    while played < count if count else time.monotonic() < until:
        if rig is None:
            rig = make(seed)
        if played == WARM_SEQUENCES:
            memory = _rss_bytes()
        acts = acts_of(target, seed + played)
        found = play_once(rig, target, seed + played, acts)
        played += 1
        if found is not None:
            _note(report, target, seed + played - 1, acts, found, rig.trace, time.monotonic() - began, said)
        if found is not None:
            with contextlib.suppress(Exception):  # it is broken, which is what was found
                rig.close()
            rig = None
        elif played % RIG_SEQUENCES == 0:
            rig.close()
            rig = None
    if rig is not None:
        rig.close()
    report.sequences[target] = played
    del rig
    gc.collect()
    report.left_fds += _fds() - fds
    report.left_bytes = max(report.left_bytes, _rss_bytes() - memory if memory else 0)


def _note(
    report: FuzzReport,
    target: str,
    seed: int,
    acts: Sequence[int],
    found: tuple[str, str],
    trace: Sequence[str],
    after_s: float,
    said: Callable[[str], None],
) -> None:
    signature, what = found
    known = report.findings.get(signature)
    if known is not None:
        known.count += 1
        return
    shorter = shorten(target, seed, acts, signature)
    lines = list(trace) if shorter is None else shorter[1]
    finding = Finding(signature, target, seed, after_s, what, lines)
    if shorter is None:
        finding.what += "\n(not in a fresh rig: it needs what came before)"
    report.findings[signature] = finding
    said(describe(finding))


def describe(finding: Finding) -> str:
    """Tell what went wrong, and how to see it again."""
    return "\n".join(
        [
            f"--- {finding.target}, after {finding.after_s:.1f} s: {finding.signature}",
            *(f"    {line[:1000]}" for line in finding.trace[-8:]),
            *(f"    {line}" for line in finding.what.rstrip().splitlines()[-7:]),
            "    again: python -m tests.fuzzer.fuzz "
            f"--target {shlex.quote(finding.target)} --seed {finding.seed} --count 1 --trace",
        ]
    )


def verdict(report: FuzzReport) -> list[str]:
    """List what is wrong after a run; nothing if all is well."""
    wrong = [finding.signature for finding in report.findings.values()]
    if not wrong and report.left_bytes > LEFT_MAX_BYTES:
        wrong.append(f"{report.left_bytes / 1e6:.0f} MB of memory are left")
    if not wrong and report.left_fds > 0:
        wrong.append(f"{report.left_fds} descriptors are left open")
    return wrong


def bound_memory() -> None:
    """Have this process get no more memory than a run needs, so that nonsense is refused and no machine goes down."""
    try:
        import resource
    except ImportError:  # there is none on Windows
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
    """Fuzz; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description="Fuzz the real cores, with good peers beside the bad one.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, all targets together")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=0, help="so many sequences of each target, instead of --seconds")
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="who is bad (default: each in turn)")
    parser.add_argument("--trace", action="store_true", help="tell everything that a bad peer does; log as usual")
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
        said=lambda text: print(text, flush=True),  # noqa: T201
    )
    wrong = verdict(report)
    played = sum(report.sequences.values())
    lines = [f"{finding.count:6} x {finding.target}: {finding.signature}" for finding in report.findings.values()]
    lines.append(
        f"{played} sequences {report.sequences} in {report.took_s:.0f} s ({played / report.took_s:.0f}/s); "
        f"left: {report.left_bytes / 1e6:.1f} MB, {report.left_fds} descriptors; "
        f"{'nothing is' if not wrong else f'{len(wrong)} things are'} wrong"
    )
    if wrong and not report.findings:
        lines += wrong
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if wrong else 0


def _show(target: str, seed: int) -> int:
    """Play one seed, and tell everything."""
    rig = TARGETS[target][0](seed)
    found = play_once(rig, target, seed, acts_of(target, seed))
    sys.stdout.write("\n".join([*rig.trace, found[1] if found else "nothing went wrong"]) + "\n")
    rig.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
