"""`%concurrent` and `%%concurrent_task`: what users type in a notebook.

    cell text -> options -> shipping.cells -> a job on a cluster (session) or here (local) -> watch -> the cell's value

Registered by `extension`. Errors in a cell or its options are found before anything is started, and shown without our
frames.
"""

import os
import re
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar

from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Bool, Int, Unicode
from traitlets import default as default_of

from concurrent_nb import Job, TaskFuture
from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.notebook import magic_options
from concurrent_nb.notebook.cell_names import cell_name
from concurrent_nb.notebook.cell_options import CellOptions, cell_options
from concurrent_nb.notebook.cell_runner import CellRunner
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.notebook.defining import define
from concurrent_nb.notebook.live import view_choice
from concurrent_nb.notebook.live.job_views import JobViews
from concurrent_nb.notebook.magic_options import documented, takes
from concurrent_nb.notebook.results import captured_text
from concurrent_nb.notebook.tracebacks import errors_shown_plainly, present, show_as, syntax_error, trim
from concurrent_nb.shipping.cells.cell_code import Cell, parse_cell, parse_for, parse_until
from concurrent_nb.shipping.cells.cell_task import CellTask, cell_task
from concurrent_nb.shipping.cells.definitions import functions_defined
from concurrent_nb.wire.messages import STRATEGIES

_Read = TypeVar("_Read")

#: what %concurrent can be told to do, as `%concurrent help` shows it
_HELP: Final = """\
%concurrent start [--workers N] [--name NAME]   start a cluster; the first task does so by itself
%concurrent connect NAME_OR_FILE                use a cluster that runs
%concurrent status                              what there is
%concurrent slaves                              who works
%concurrent jobs                                jobs of this notebook, and what others run here
%concurrent cancel [JOB]                        stop a job, by its name or variable, or all of this notebook
%concurrent show [JOB]                          look at a job again; without a name at the last one
%concurrent scale N                             have N workers
%concurrent restart [--now]                     fresh workers; what runs ends first, or is stopped and runs again
%concurrent kernel SLAVE                        look into a slave with a Jupyter client
%concurrent stop [--force]                      leave the cluster; one that this notebook has started ends
%%concurrent_task?                              how to run a cell on the cluster"""
_COMMANDS: Final = ("help", *(line.split()[1] for line in _HELP.splitlines() if line.startswith("%concurrent ")))
#: options of %concurrent and the commands that take them
_TAKERS: Final = {
    "workers": "start",
    "name": "start",
    "now": "restart",
    "force": "stop",
    "where": "connect, kernel, cancel, show or scale",
}


@magics_class
class ConcurrentMagics(Magics):
    """The magics of concurrent_nb, and what `%config ConcurrentMagics` can set."""

    capture_limit_bytes = Int(
        None,
        min=1,
        allow_none=True,
        help="bytes that the names of a cell may take together; None: 256 MiB of pickles, and half the free memory of"
        " arrays",
    ).tag(config=True)
    live = Bool(True, help="show jobs as they go, where a browser can; False: one line of text").tag(config=True)
    connection = Unicode(help="cluster to use instead of an embedded one: its name or connection file").tag(config=True)

    start_at_once = Bool(False, help="have the cluster come up when the extension is loaded").tag(config=True)

    @default_of("connection")
    def _connection_of_the_environment(self) -> str:
        return os.environ.get("CONCURRENT_NB_CONNECTION", "")

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.cluster = CurrentCluster(self.connection, self._present)
        self.views = JobViews(shell)

    @no_var_expand
    @line_magic
    @errors_shown_plainly
    @documented
    @takes("command", nargs="?", choices=_COMMANDS, help="what to do")
    @takes(
        "where",
        nargs="?",
        help="connect: the cluster's name or file; cancel, show: the job; scale: how many workers; kernel: the slave",
    )
    @takes("--workers", type=magic_options.workers, help="start: number of worker processes; default: one per core")
    @takes("--name", type=magic_options.words, help="start: name by which others on this machine can connect")
    @takes("--force", action="store_true", default=None, help="stop: do not ask, even if others have work there")
    @takes("--now", action="store_true", default=None, help="restart: stop what runs, which runs again")
    def concurrent(self, line: str) -> None:
        """Start, find, look at and leave the cluster that this notebook's tasks run on: see `%concurrent help`."""
        options = magic_options.parse(ConcurrentMagics.concurrent, line)
        if options.command in (None, "help"):
            print(_HELP)
            if options.command is None:
                print(f"\n{self.cluster.status()}")
            return
        for name, command in _TAKERS.items():
            if getattr(options, name) is not None and options.command not in re.split(", | or ", command):
                shown = f"`{options.where}`" if name == "where" else f"--{name}"
                raise ConfigurationError(f"%concurrent {options.command} takes no {shown}, only {command} does")
        if options.command == "start":
            print(self.cluster.start(options.workers, options.name))
        elif options.command == "connect":
            if options.where is None:
                raise ConfigurationError("%concurrent connect needs the cluster's name or its connection file")
            print(self.cluster.connect(options.where))
        elif options.command == "kernel":
            if options.where is None:
                raise ConfigurationError("%concurrent kernel needs the name of a slave; %concurrent status lists them")
            print(self.cluster.kernel(options.where))
        elif options.command == "scale":
            if options.where is None:
                raise ConfigurationError("%concurrent scale needs the number of workers: %concurrent scale 4")
            print(self.cluster.scale(magic_options.read(magic_options.workers, options.where, "%concurrent scale")))
        elif options.command == "cancel":
            print(self.cluster.cancel(options.where, self._job_of(options.where)))
        elif options.command == "show":
            self.views.show(self._job_of(options.where) or self.cluster.job(options.where))
        elif options.command == "restart":
            print(self.cluster.restart(now=bool(options.now)))
        elif options.command == "jobs":
            print(self.cluster.list_jobs())
        elif options.command == "slaves":
            print(self.cluster.slaves())
        elif options.command == "stop":
            if not options.force and (told := self.cluster.work_of_others()):
                self._confirm_stop(told)
            print(self.cluster.stop())
        else:
            print(self.cluster.status())

    def _job_of(self, name: str | None) -> Job | None:
        """Give the job that a variable has."""
        bound = self._shell().user_ns.get(name) if name is not None else None
        return bound if isinstance(bound, Job) else None

    def _confirm_stop(self, told: str) -> None:
        """Ask before others lose their work. Raises ConfigurationError if the answer is no, or there is none to ask."""
        try:
            answer = input(f"{told}. Stop the cluster all the same? [y/N] ")
        except (StdinNotImplementedError, EOFError, OSError):
            raise ConfigurationError(f"%concurrent stop: {told}; %concurrent stop --force ends it") from None
        if answer.strip().lower() not in ("y", "yes"):
            raise ConfigurationError("%concurrent stop: the cluster goes on")

    @no_var_expand
    @cell_magic
    @errors_shown_plainly
    @documented
    @takes("--for", dest="for_text", type=magic_options.words, help='a task for each item: "n in range(128)"')
    @takes(
        "--until",
        dest="until_text",
        type=magic_options.words,
        help="an expression over `result`: the first true one ends the job",
    )
    @takes("--out", type=magic_options.variable, help="variable that gets the value, or the job with --no-block")
    @takes("--no-block", action="store_true", help="do not wait: the value is the job")
    @takes("--local", action="store_true", help="run it here, without a cluster, to test it")
    @takes(
        "--batch", type=magic_options.batch, help="N items of --for in each task that travels; auto: by measured times"
    )
    @takes(
        "--timeout",
        dest="timeout_s",
        type=magic_options.seconds,
        help="seconds that a task may run, with --batch each item of it",
    )
    @takes("--retries", type=magic_options.retries, default=0, help="how often a failed task is run again")
    @takes("--strategy", type=magic_options.strategy, choices=STRATEGIES, help="which slave gets its tasks")
    @takes("--needs", type=magic_options.needs, help=magic_options.NEEDS)
    @takes("--on-error", choices=("stop", "keep"), default="stop", help="keep: the value has an outcome per task")
    @takes(
        "--shared",
        action="append",
        type=magic_options.variable,
        help="a name of which each worker has one copy for all",
    )
    @takes("--show-capture", action="store_true", help="list what is sent along, and how large it is")
    @takes(
        "--view", choices=view_choice.VIEWS, help="show results as they come: a picture, the searched range, a table"
    )
    @takes("--sort", choices=("value",), help="--view table: in the order of the values, not of the tasks")
    @takes("--size", type=magic_options.size, help="--view image: width and height of the picture, as in 1536x1024")
    @takes("--name", type=magic_options.words, help="what the job is called in the cluster's status")
    def concurrent_task(self, line: str, cell: str) -> Any:
        """Run this cell on the cluster: as one task, or with --for as many.

        The cell is a function. The names that it uses are sent along as they are now, its value is its last expression,
        and nothing else flows back. A cell that only defines functions makes task functions of them: f(x) runs here,
        f.submit(x) and f.map(xs) on the cluster. If the value is a task system (ITaskSystem), that is run, and its
        result is the cell's value; with --no-block it is the job's.

        For example, a line for each learning rate as it comes, and the results in `losses`::

            %%concurrent_task --for "rate in (0.1, 0.01, 0.001)" --view table --out losses
            train(data, rate)

        Without options there is one task; it may run for ever, is not run again when it fails, and its value is shown.
        The first task that fails ends the job, and its error is raised; with --on-error keep the value has an outcome
        for each task instead: `ok`, `value`, `error`, `cancelled`, `index`.

        Strategies: pull_round_robin (slaves ask when they have room, and are served in turn; good for most work),
        push_best (to the slave that is expected to be free first, which counts with a few long tasks), stealing (idle
        slaves take from busy ones: tasks of very different lengths), locality (to slaves that have the arrays already).
        None leaves it to the cluster.
        """
        options = cell_options(magic_options.parse(ConcurrentMagics.concurrent_task, line))
        header = f"%%concurrent_task {line}".rstrip()
        parsed = self._reading(lambda: parse_cell(cell, self._filename(), header))
        if names := functions_defined(parsed):
            define(self._shell(), parsed, names, options)
            return None
        options.check_for_tasks()
        task = self._reading(lambda: self._task(options, parsed))
        self.cluster.captured = task.captured
        if options.show_capture:
            print(captured_text(task.captured))
        live = self.live and view_choice.is_possible(self._shell())
        return CellRunner(self._shell(), self.cluster, self.views, live).run(task, options, parsed.tree)

    def _task(self, options: CellOptions, cell: Cell) -> CellTask:
        return cell_task(
            cell,
            self._shell().user_ns,
            loop=parse_for(options.for_text) if options.for_text is not None else None,
            until=parse_until(options.until_text) if options.until_text is not None else None,
            per_worker_names=options.shared or (),
            limit_bytes=self.capture_limit_bytes,
            setup_names=() if options.local else self.cluster.names_of_setups(),
        )

    def _reading(self, read: Callable[[], _Read]) -> _Read:
        """Read the cell or its options; a syntax error in the cell looks like Python's own."""
        try:
            return read()
        except SyntaxError as error:
            if error.filename == self._filename():
                raise syntax_error(error) from error
            raise
        except ConcurrentError:
            raise
        except Exception as error:  # raised by the iterable of --for
            text = "".join(traceback.format_exception(error))
            show_as(error, trim(text, self._shell().compile.format_code_name).rstrip().split("\n"))
            raise

    def _filename(self) -> str:
        return f"<cell {cell_name(self._shell())}>"

    def _present(self, future: TaskFuture, error: BaseException) -> None:
        present(future, error, self._shell().compile.format_code_name)

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell
