"""`%%concurrent_setup`: a cell that every worker runs once, before its first task, and whose names stay there.

    cell text -> options -> shipping.cells.setup_cell -> app.set_up -> workers; a line that shows how far that is

Registered by `extension`.
"""

from typing import Final

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import SetupFailed
from concurrent_nb.nodes.application.worker_setups import EverywhereCall
from concurrent_nb.notebook import magic_options
from concurrent_nb.notebook.cell_names import cell_name
from concurrent_nb.notebook.magic_options import documented, takes
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.notebook.progress_display import progress_display_for
from concurrent_nb.notebook.results import captured_text, plural
from concurrent_nb.notebook.tracebacks import errors_shown_plainly, syntax_error
from concurrent_nb.shipping.cells.cell_code import parse_cell
from concurrent_nb.shipping.cells.cell_task import setup_cell

#: the line is shown anew this often
SHOW_S: Final = 0.1


@magics_class
class SetupMagics(Magics):
    """The magic for cells that set workers up.

    Args:
        shell: of the notebook.
        tasks: has the session, and what is configured.
    """

    def __init__(self, shell: InteractiveShell, tasks: ConcurrentMagics) -> None:
        super().__init__(shell)
        self._tasks = tasks

    @no_var_expand
    @cell_magic
    @errors_shown_plainly
    @documented
    @takes("--name", type=magic_options.words, help="what it is called; a cell of the same name takes its place")
    @takes("--no-block", action="store_true", help="do not wait: the value says who has run it")
    @takes("--show-capture", action="store_true", help="list what is sent along, and how large it is")
    def concurrent_setup(self, line: str, cell: str) -> EverywhereCall | None:
        """Run this cell once in every worker: now, and in later workers before their first task of this notebook.

        What it binds (imports, functions, a model that takes long to load) stays in the worker, where cells and task
        functions of this notebook find it by name, unless the notebook has that name itself. The names that it uses are
        sent along as they are now. Run again, it takes its own place; several run in order.
        """
        options = magic_options.parse(SetupMagics.concurrent_setup, line)
        app, notice = self._tasks.cluster.application()
        if notice is not None:
            print(notice)
        shell = self._shell()
        filename = f"<cell {cell_name(shell)}>"
        try:
            function, captured = setup_cell(
                parse_cell(cell, filename, f"%%concurrent_setup {line}".rstrip()),
                shell.user_ns,
                limit_bytes=self._tasks.capture_limit_bytes,
                setup_names=app.names_of_setups,
            )
        except SyntaxError as error:
            if error.filename == filename:
                raise syntax_error(error) from error
            raise
        if options.show_capture:
            print(captured_text(captured))
        name = options.name or cell_name(shell)
        setup = app.set_up(function, function.names, place=self._place(options.name, function.names, cell), name=name)
        if options.no_block:
            return setup
        self._watch(setup)
        return None

    def _place(self, name: str | None, names: tuple[str, ...], cell: str) -> str:
        """Say which cell this is, as far as that can be known: it replaces what it was before."""
        if name is not None:
            return f"name {name}"
        parent = getattr(self._shell(), "parent_header", None) or {}
        if cell_id := parent.get("metadata", {}).get("cellId"):
            return f"cell {cell_id}"
        return f"names {', '.join(names)}" if names else f"text {cell}"

    def _watch(self, setup: EverywhereCall) -> None:
        """Show how far it is until all workers that there are have run it. A stop leaves it to run later."""
        line = progress_display_for(self._shell())
        began = monotonic()
        shown = ""
        try:
            while not setup.wait(SHOW_S):
                if (text := _progress(setup)) != shown:
                    shown = text
                    line.show(text)
        except KeyboardInterrupt:
            line.end(f"{_progress(setup)}; the others run it before their first task")
            raise
        try:
            setup.result(0)
        except SetupFailed:
            line.end(f"setup {setup.name} has failed: tasks fail until it is mended and run again, or %concurrent stop")
            raise
        left = setup.expected - len(setup.workers)
        later = f"; {plural(left, 'busy worker')} run it later, before the first task there" if left > 0 else ""
        line.end(
            f"setup {setup.name}: run by {plural(len(setup.workers), 'worker')} in {monotonic() - began:.1f} s{later}"
        )

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell


def _progress(setup: EverywhereCall) -> str:
    there = f" of {setup.expected}" if setup.expected else ""
    return f"setup {setup.name}: run by {len(setup.workers)}{there} workers"
