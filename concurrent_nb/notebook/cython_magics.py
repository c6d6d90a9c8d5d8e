"""`%%cython_task`: a cell of Cython, compiled once, whose functions become task functions.

    cell text -> options -> shipping.compiled (cache, or Cython and the C compiler in a process) -> task functions

Registered by `extension`. The notebook's kernel never imports Cython.
"""

import shlex
import traceback
from collections.abc import Callable
from typing import Final, TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from IPython.display import HTML, display

from concurrent_nb import TaskFunction
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.errors import CompileError, ConcurrentError
from concurrent_nb.notebook import magic_options
from concurrent_nb.notebook.annotation import readable
from concurrent_nb.notebook.cell_names import cell_name, cell_number
from concurrent_nb.notebook.hints import prange_without_openmp
from concurrent_nb.notebook.magic_options import documented, takes
from concurrent_nb.notebook.progress_display import ProgressDisplay, progress_display_for
from concurrent_nb.notebook.stop_button import StopButton
from concurrent_nb.notebook.tracebacks import name_compiled, show_as, show_plainly, trim
from concurrent_nb.shipping.compiled.build import Build, cython_version, load_and_check, make
from concurrent_nb.shipping.compiled.cache import Cache
from concurrent_nb.shipping.compiled.flags import parse_flags
from concurrent_nb.shipping.compiled.function import CythonFunction
from concurrent_nb.shipping.compiled.recipe import Recipe
from concurrent_nb.wire.messages import Needs

_Value = TypeVar("_Value")

#: least seconds between updates of the progress display, of which a front end without widgets may keep all
SHOW_S: Final = 1.0
#: ... and part of the time that has passed
SHOW_PART: Final = 0.2
#: maximum number of errors that are shown for a cell
ERRORS: Final = 5


@magics_class
class CythonMagics(Magics):
    """The magic for compiled cells."""

    @no_var_expand
    @cell_magic
    @documented
    @takes("--openmp", action="store_true", help="compile with OpenMP, for prange; a task uses all cores of one slave")
    @takes("--needs", type=magic_options.needs, metavar="NEEDS", help=magic_options.NEEDS)
    @takes(
        "--annotate",
        action="store_true",
        help="show Cython's annotated page: the slow lines, and the C code of each line",
    )
    @takes(
        "--flags",
        type=magic_options.words,
        metavar="FLAGS",
        help='flags of the C compiler, as in --flags "-O3 -ffast-math"',
    )
    @takes("--name", type=magic_options.words, metavar="NAME", help="name of the jobs of these functions")
    def cython_task(self, line: str, cell: str) -> None:
        """Compile this cell with Cython, and make a task function of each def and cpdef in it.

        If `f` is one of them, `f(x)` runs in the notebook, `f.submit(x)` and `f.map(xs)` run on the cluster. The cell
        does not see the notebook's variables: pass them as arguments. The same text is compiled
        once; a machine of another kind compiles it again.

        For example::

            %%cython_task
            def harmonic(long n):
                cdef double total = 0
                cdef long k
                for k in range(1, n + 1):
                    total += 1.0 / k
                return total
        """
        try:
            options = magic_options.parse(CythonMagics.cython_task, _with_flags_joined(line))
            recipe = Recipe(cell, parse_flags(options.flags or ""), options.openmp, cython_version())
            build, page = self._built(recipe, f"%%cython_task {line}".rstrip(), options.annotate)
        except CompileError as error:
            self._show_errors(error, cell)
            raise
        except ConcurrentError as error:
            show_plainly(error)
            raise
        self._bind(build, options.name, options.needs)
        if not options.openmp and (hint := prange_without_openmp(cell)) is not None:
            print(hint)
        if page is not None:
            display(HTML(readable(page, f"%%cython_task {line}".rstrip())))  # type: ignore[no-untyped-call]

    def _built(self, recipe: Recipe, header: str, annotate: bool) -> tuple[Build, str | None]:
        progress = _CompileProgress(progress_display_for(self.shell), recipe.cython)
        build, page = progress.watch(lambda: make(recipe, header, Cache(), annotate=annotate, tick=progress.tick))
        progress.end(", ".join(build.functions))
        return build, page

    def _bind(self, build: Build, job_name: str | None, needs: Needs | None) -> None:
        """Load the module, which runs the top-level lines of the cell, and bind its functions."""
        shell = self._shell()
        name_compiled(build.filename, cell_name(shell))
        # For errors in functions that run in the notebook, which IPython shows itself.
        getattr(shell.compile, "_filename_map", {})[build.filename] = cell_number(shell)
        try:
            build = load_and_check(build, Cache())
            functions = [CythonFunction(build, name, job_name or "", needs) for name in build.functions]
        except ConcurrentError as error:
            show_plainly(error)
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            show_as(error, trim(text, shell.compile.format_code_name).rstrip().split("\n"))
            raise
        for function in functions:
            shell.user_ns[function.__qualname__] = TaskFunction(function)

    def _show_errors(self, error: CompileError, cell: str) -> None:
        """Show the invalid lines of the cell, as Python shows a SyntaxError."""
        source = ["", *cell.split("\n")]  # the first line is the magic's
        name = cell_name(self._shell())
        shown = []
        for line, column, message in error.problems[:ERRORS]:
            if 1 <= line <= len(source):
                text = source[line - 1]
                code = text.lstrip()
                mark = max(0, column - (len(text) - len(code)))
                shown += [f"  Cell {name}, line {line}", f"    {code}", f"    {' ' * mark}^"]
            shown.append(f"{type(error).__name__}: {message}{self._advice(message)}")
        if (more := len(error.problems) - ERRORS) > 0:
            shown.append(f"and {more} more")
        show_as(error, shown)

    def _advice(self, message: str) -> str:
        name = message.rpartition(": ")[2]
        if message.startswith("undeclared name") and name in self._shell().user_ns:
            return ": a compiled cell does not see the notebook's variables, so pass it as an argument"
        return ""

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell


def _with_flags_joined(line: str) -> str:
    """Write `--flags -O3` as `--flags=-O3`: argparse would take the value for an option."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line  # the parser reports the error
    for at in [at for at, word in enumerate(words[:-1]) if word == "--flags"][::-1]:
        words[at : at + 2] = [f"--flags={words[at + 1]}"]
    return shlex.join(words)


class _CompileProgress:
    """The progress display of the compiler."""

    def __init__(self, line: ProgressDisplay, version: str, clock: Clock = monotonic) -> None:
        self._display = line
        self._version = version
        self._clock = clock
        self._started = self._shown = clock()
        self._compiles = False

    def tick(self) -> None:
        now = self._clock()
        if not self._compiles or now - self._shown >= max(SHOW_S, SHOW_PART * (now - self._started)):
            self._compiles, self._shown = True, now
            # An interrupt in the middle of a message would break the connection to the front end.
            with StopButton():
                self._display.show(f"compiling with Cython {self._version}, {now - self._started:.1f} s …")

    def watch(self, build: Callable[[], _Value]) -> _Value:
        """Build; on an error or an interrupt, end the progress display."""
        try:
            return build()
        except BaseException as error:
            if self._compiles:
                how = "stopped" if isinstance(error, KeyboardInterrupt) else "not compiled"
                self._display.end(f"{how}, after {self._clock() - self._started:.1f} s")
            if isinstance(error, KeyboardInterrupt):
                show_as(error, ["KeyboardInterrupt: the compiler was stopped"])
            raise

    def end(self, names: str) -> None:
        how = f"in {self._clock() - self._started:.1f} s" if self._compiles else "before"
        self._display.end(f"{names}: compiled with Cython {self._version} {how}")
