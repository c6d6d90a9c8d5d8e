"""`%%concurrent_setup`: a cell that every worker runs once, before its first task, and whose names stay there.

    cell text -> options -> shipping.cells.setup_cell -> app.set_up -> workers, with a progress display

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

#: seconds between updates of the progress display
SHOW_S: Final = 0.1


@magics_class
class SetupMagics(Magics):
    """The magic for cells that set up workers.

    Args:
        shell: of the notebook.
        tasks: the magics that have the current cluster and the configuration.
    """

    def __init__(self, shell: InteractiveShell, tasks: ConcurrentMagics) -> None:
        super().__init__(shell)
        self._tasks = tasks

    @no_var_expand
    @cell_magic
    @errors_shown_plainly
    @documented
    @takes(
        "--name",
        type=magic_options.words,
        metavar="NAME",
        help="name of the setup; a setup cell of the same name replaces it",
    )
    @takes(
        "--no-block",
        action="store_true",
        help="do not wait for the workers; the value reports which of them have run it",
    )
    @takes("--show-capture", action="store_true", help="list the names that are sent with the cell, and their sizes")
    def concurrent_setup(self, line: str, cell: str) -> EverywhereCall | None:
        """Run this cell once in every worker: in those that exist now, and in later ones before their first task.

        The names that it binds (imports, functions, a model that takes long to load) stay in the worker. Cells and task
        functions of this notebook find them there, unless the notebook has a variable of the same name. The notebook's
        names that the cell uses are sent with their current values.

        For example, load a model once per worker, not once per task::

            %%concurrent_setup
            import joblib
            model = joblib.load("model.pkl")

        A cell that is run again replaces its former version. Several setup cells run in the order in which they were
        run here.
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
        """Return a key of this cell, as far as it can be recognised: it replaces the setup with the same key."""
        if name is not None:
            return f"name {name}"
        parent = getattr(self._shell(), "parent_header", None) or {}
        if cell_id := parent.get("metadata", {}).get("cellId"):
            return f"cell {cell_id}"
        return f"names {', '.join(names)}" if names else f"text {cell}"

    def _watch(self, setup: EverywhereCall) -> None:
        """Show the progress until all current workers have run it. After an interrupt the others run it later."""
        display = progress_display_for(self._shell())
        began = monotonic()
        shown = ""
        try:
            while not setup.wait(SHOW_S):
                if (text := _progress(setup)) != shown:
                    shown = text
                    display.show(text)
        except KeyboardInterrupt:
            display.end(f"{_progress(setup)}; the others run it before their first task")
            raise
        try:
            setup.result(0)
        except SetupFailed:
            display.end(
                f"setup {setup.name} has failed: tasks fail until it is corrected and run again, or %concurrent stop"
            )
            raise
        left = setup.expected - len(setup.workers)
        later = f"; {plural(left, 'busy worker')} will run it before the first task there" if left > 0 else ""
        display.end(
            f"setup {setup.name}: run by {plural(len(setup.workers), 'worker')} in {monotonic() - began:.1f} s{later}"
        )

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell


def _progress(setup: EverywhereCall) -> str:
    there = f" of {setup.expected}" if setup.expected else ""
    return f"setup {setup.name}: run by {len(setup.workers)}{there} workers"
