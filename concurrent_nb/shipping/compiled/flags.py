"""Compiler flags that a cell may use: those of a list, because they are used on other machines, too.

Flags that could run a program, or read or write other files, are refused with the reason. Pure.
"""

import re
import shlex
from collections.abc import Sequence
from typing import Final

from concurrent_nb.errors import ConfigurationError

#: flags that are allowed as they are
_PLAIN: Final = frozenset(
    [
        "-O0",
        "-O1",
        "-O2",
        "-O3",
        "-Os",
        "-Og",
        "-Ofast",
        "-g",
        "-g0",
        "-w",
        "-pthread",
        "-fwrapv",
        "-fopenmp-simd",
        "-ffast-math",
        "-fno-fast-math",
        "-funsafe-math-optimizations",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fno-signed-zeros",
        "-fassociative-math",
        "-freciprocal-math",
        "-ffinite-math-only",
        "-ffp-contract=fast",
        "-ffp-contract=off",
        "-funroll-loops",
        "-fno-unroll-loops",
        "-ftree-vectorize",
        "-fno-tree-vectorize",
        "-fstrict-aliasing",
        "-fno-strict-aliasing",
        "-fomit-frame-pointer",
        "-fno-omit-frame-pointer",
        "-std=c99",
        "-std=c11",
        "-std=c17",
        "-std=gnu99",
        "-std=gnu11",
        "-std=gnu17",
        "-std=c++11",
        "-std=c++14",
        "-std=c++17",
        "-std=c++20",
        "-std=gnu++17",
        "-std=gnu++20",
        "-mtune=generic",
        "-lm",
        "-lpthread",
        "-ldl",
        "-lrt",
    ]
)
#: harmless flags with a free part: definitions and warnings
_FORMS: Final = (
    re.compile(r"-D[A-Za-z_]\w*(=[\w.+-]*)?"),
    re.compile(r"-U[A-Za-z_]\w*"),
    re.compile(r"-W(no-)?[a-z0-9+-]+"),
)
#: flags that need more than the first version of an architecture, and the level of x86-64 that has it
_LEVELS: Final = {
    **{f"-march=x86-64{suffix}": level for level, suffix in enumerate(("", "-v2", "-v3", "-v4"), 1)},
    "-msse3": 2,
    "-mssse3": 2,
    "-msse4.1": 2,
    "-msse4.2": 2,
    "-mpopcnt": 2,
    "-mavx": 3,
    "-mavx2": 3,
    "-mfma": 3,
    "-mbmi2": 3,
}

_RUNS: Final = "it makes the compiler run another program"
_READS: Final = "it makes the compiler read files that other machines do not have"
_WRITES: Final = "it makes the compiler write files elsewhere"
_HANDS_ON: Final = "it hands flags to another program unseen"
#: prefixes of flags that are refused, and why; the first match counts
_REFUSED: Final = (
    ("-fplugin", _RUNS),
    ("-B", _RUNS),
    ("-wrapper", _RUNS),
    ("-fuse-ld", _RUNS),
    ("-no-canonical-prefixes", _RUNS),
    ("-specs", _RUNS),
    ("--specs", _RUNS),
    ("-load", _RUNS),
    ("@", "it reads more flags from a file"),
    ("-Wl,", _HANDS_ON),
    ("-Wa,", _HANDS_ON),
    ("-Wp,", _HANDS_ON),
    ("-X", _HANDS_ON),
    ("-o", _WRITES),
    ("--output", _WRITES),
    ("-M", _WRITES),
    ("-save-temps", _WRITES),
    ("--save-temps", _WRITES),
    ("-fdump", _WRITES),
    ("-dump", _WRITES),
    ("-aux", _WRITES),
    ("-fprofile", "it reads and writes files of measurements"),
    ("--coverage", _WRITES),
    ("-include", _READS),
    ("-imacros", _READS),
    ("-isystem", _READS),
    ("-iquote", _READS),
    ("-idirafter", _READS),
    ("-iprefix", _READS),
    ("-isysroot", _READS),
    ("--sysroot", _READS),
    ("--include", _READS),
    ("-I", _READS),
    ("-L", _READS),
    ("-F", _READS),
    ("-l", "of libraries there are m, pthread, dl and rt, because every machine has those"),
    ("-march=native", "the binary travels to other machines: name a level instead, as in -march=x86-64-v3"),
    ("-mtune=native", "the binary travels to other machines"),
    ("-mcpu=native", "the binary travels to other machines"),
    ("-fopenmp", "write --openmp instead, so that tasks get all cores of their slave"),
    ("-x", "the language of a cell is known"),
)


def parse_flags(text: str) -> tuple[str, ...]:
    """Read the value of --flags. Raises ConfigurationError, which names the flag and the reason."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"--flags {text!r}: {str(error).lower()}") from error
    return check_flags(words)


def check_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Return the flags. Raises ConfigurationError for the first that is not allowed."""
    for flag in flags:
        if flag in _PLAIN or flag in _LEVELS:
            continue
        reason = next((why for start, why in _REFUSED if flag.startswith(start)), None)
        if reason is not None:
            raise ConfigurationError(f"--flags: {flag} is not allowed: {reason}")
        if not any(form.fullmatch(flag) for form in _FORMS):
            raise ConfigurationError(
                f"--flags: {flag} is not one of those that are allowed: -O0 to -O3, -ffast-math, -funroll-loops and the"
                " like, -march=x86-64-v2 to -v4, -D and -U, -std=, -W..., -lm"
            )
    return tuple(flags)


def cpu_level(flags: Sequence[str]) -> int:
    """Return the level of x86-64 that the flags need; 0 for none."""
    return max((_LEVELS.get(flag, 0) for flag in flags), default=0)
