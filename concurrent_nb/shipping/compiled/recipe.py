"""The recipe of a Cython cell: its text, the flags, and the name that follows from both. Pure.

The name of the module is a digest, because Python cannot load a second module of the same name, and the name is part of
the binary. So a name stands for the same content on every machine.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import CellError
from concurrent_nb.shipping.compiled.flags import check_flags, cpu_level

#: increased when the same text is built differently
FORMAT: Final = 1
#: names of modules of compiled cells
MODULE: Final = re.compile(r"_cython_cell_[0-9a-f]{24}")

#: `# cython:` directives that are allowed. Others read or write files, or are for Cython's own tests.
DIRECTIVES: Final = frozenset(
    [
        "always_allow_keywords",
        "annotation_typing",
        "auto_pickle",
        "binding",
        "boundscheck",
        "c_api_binop_methods",
        "c_string_encoding",
        "c_string_type",
        "ccomplex",
        "cdivision",
        "cdivision_warnings",
        "cpow",
        "cpp_locals",
        "embedsignature",
        "embedsignature.format",
        "emit_code_comments",
        "fast_getattr",
        "fast_gil",
        "freethreading_compatible",
        "infer_types",
        "infer_types.verbose",
        "initializedcheck",
        "iterable_coroutine",
        "language_level",
        "legacy_implicit_noexcept",
        "nonecheck",
        "optimize.inline_defnode_calls",
        "optimize.unpack_method_calls",
        "optimize.use_switch",
        "overflowcheck",
        "overflowcheck.fold",
        "profile",
        "py2_import",
        "remove_unreachable",
        "show_performance_hints",
        "subinterpreters_compatible",
        "type_version_tag",
        "unraisable_tracebacks",
        "warn",
        "warn.maybe_uninitialized",
        "warn.multiple_declarators",
        "warn.undeclared",
        "warn.unreachable",
        "warn.unused",
        "warn.unused_arg",
        "warn.unused_result",
        "wraparound",
    ]
)
_SETTING: Final = re.compile(r"\s*#\s*(?P<who>cython|distutils)\s*:(?P<what>.*)")
_CPLUS: Final = re.compile(r"\s*language\s*=\s*c\+\+\s*")


@dataclass(frozen=True)
class Recipe:
    """A cell and the options of its build.

    Args:
        source: the cell, without the line of the magic.
        flags: for the C compiler; see `flags`.
        openmp: compiled for OpenMP; its tasks get all cores of their slave.
        cython: version of Cython.

    Raises CellError and ConfigurationError for what may not be built.
    """

    source: str
    flags: tuple[str, ...]
    openmp: bool
    cython: str

    def __post_init__(self) -> None:
        check_flags(self.flags)
        check_settings(self.source)

    @property
    def module(self) -> str:
        """Return the name of the module, which contains the digest of everything that it is made from."""
        parts = [FORMAT, self.source, self.flags, self.openmp, self.cython]
        return f"_cython_cell_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"

    @property
    def cplus(self) -> bool:
        """Return whether the cell is C++."""
        return check_settings(self.source)

    @property
    def cpu_level(self) -> int:
        """Return the level of x86-64 that the code needs; 0 for any."""
        return cpu_level(self.flags)

    @property
    def pyx(self) -> str:
        """Return the text for Cython.

        Its first line stands for that of the magic, so that line numbers are those of the cell.
        """
        return f"#\n{self.source}"


def check_settings(source: str, first_line: int = 2) -> bool:
    """Check the `# cython:` and `# distutils:` lines of a cell; return whether it is C++.

    Raises CellError, which names the line, for a directive that is not allowed.
    """
    cplus = False
    for number, line in enumerate(source.split("\n"), first_line):
        setting = _SETTING.fullmatch(line)
        if setting is None:
            if line.strip() and not line.lstrip().startswith("#"):
                break  # directives come before the first statement
        elif setting["who"] == "cython":
            _check_directives(setting["what"], number)
        elif _CPLUS.fullmatch(setting["what"]):
            cplus = True
        else:
            raise CellError(
                f"line {number}: `{line.strip()}` is not allowed, because it can make the compiler run programs and"
                " read files: use --flags, --openmp, or `# distutils: language = c++`"
            )
    return cplus


def _check_directives(text: str, line: int) -> None:
    for setting in text.split(","):
        name = setting.partition("=")[0].strip()
        if name and name not in DIRECTIVES and not name.startswith("warn."):
            raise CellError(f"line {line}: the directive {name} is not one of those that a cell may set")


def names_of(functions: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """Return the names of a cell's functions. Raises CellError if one is defined twice."""
    lines: dict[str, int] = {}
    for name, line in functions:
        if name in lines:
            raise CellError(f"{name} is defined twice, in line {lines[name]} and in line {line}")
        lines[name] = line
    return tuple(lines)
