"""The magics `%concurrent` and `%%concurrent_task`.

    cell text -> CellOptions, Cell -> CellTask -> CellRunner -> the cell's value

Registered by `extension`. Errors in a cell or its options are found before anything is started, and shown without
frames of this package.
"""

import argparse
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
from concurrent_nb.clock import monotonic
from concurrent_nb.engines.connecting import is_engine
from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.nodes.launchers.short_options import take_short_options
from concurrent_nb.notebook import magic_options
from concurrent_nb.notebook.cell_names import cell_name
from concurrent_nb.notebook.cell_options import CellOptions, cell_options
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.cell_runner import CellRunner
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.notebook.dashboard_output import show_dashboard_link
from concurrent_nb.notebook.defining import define
from concurrent_nb.notebook.live import view_choice
from concurrent_nb.notebook.live.job_views import JobViews
from concurrent_nb.notebook.magic_options import documented, explained, takes
from concurrent_nb.notebook.results import captured_text, show_statistics
from concurrent_nb.notebook.tables import Table
from concurrent_nb.notebook.tracebacks import errors_shown_plainly, present, show_as, syntax_error, trim
from concurrent_nb.shipping.cells.cell_code import Cell, parse_cell, parse_for, parse_until
from concurrent_nb.shipping.cells.cell_task import CellTask, cell_task
from concurrent_nb.shipping.cells.definitions import functions_defined
from concurrent_nb.wire.messages import STRATEGIES

_Read = TypeVar("_Read")

#: the commands of %concurrent, as `%concurrent help` shows them
_HELP: Final = """\
%concurrent start [--workers N] [--name NAME]   start a cluster (the first task starts one by itself)
%concurrent start --on ssh:hostA,hostB:8        start one with slaves on other machines; [--slaves N] [--adapt MIN:MAX]
                                                and options of the launcher follow
%concurrent connect NAME_OR_FILE                connect to a running cluster, by name or connection file, or to an
                                                engine: dask://HOST:PORT, ray, ray://HOST:PORT, inline, or the name of
                                                a variable with a distributed.Client or an executor
%concurrent status                              show the cluster: its slaves and the number of tasks
%concurrent slaves                              list the slaves
%concurrent jobs                                list the jobs of this notebook, and those of others that you may see
%concurrent cancel [JOB]                        cancel a job, by name, id or variable; without JOB, all jobs of this
                                                notebook
%concurrent attach JOB [--out NAME]             show a job that the cluster keeps, by name, id or variable: what it has
                                                printed and returned so far, and what comes; `_job` is the job
%concurrent show [JOB]                          show the display of a job again; without JOB, of the last one
%concurrent trace [JOB] [FILE]                  write when and where the tasks of a job, or of all, ran to a file for
                                                https://ui.perfetto.dev (default: trace.json)
%concurrent stats [JOB]                         show where the time of a job went, and what it used; without JOB, of
                                                the last one
%concurrent scale N                             change the number of workers to N; --slaves N: of slaves; --adapt
                                                MIN:MAX: have the number of slaves follow the queue
%concurrent restart [--now]                     replace all workers when their tasks have ended; --now: stop the tasks
                                                and run them again
%concurrent dashboard                           show a link to the web page of the cluster
%concurrent kernel SLAVE                        open a Jupyter kernel in a slave, to inspect it with `jupyter console`
%concurrent stop [--force]                      leave the cluster; a cluster that this notebook started is stopped
%concurrent help                                show these commands
%%concurrent_task?                              how to run a cell on the cluster"""
_COMMANDS: Final = tuple(
    dict.fromkeys(line.split()[1] for line in _HELP.splitlines() if line.startswith("%concurrent "))
)
#: options of %concurrent and the commands that take them
_COMMANDS_OF_OPTIONS: Final = {
    "workers": "start",
    "name": "start",
    "on": "start",
    "slaves": "start or scale",
    "adapt": "start or scale",
    "now": "restart",
    "force": "stop",
    "out": "attach",
    "where": "connect, kernel, cancel, attach, show, stats, trace or scale",
    "file": "trace",
}


@magics_class
class ConcurrentMagics(Magics):
    """The magics for tasks and clusters, and the items of `%config ConcurrentMagics`."""

    capture_limit_bytes = Int(
        None,
        min=1,
        allow_none=True,
        help="maximum size in bytes of all names that a cell uses; None: 256 MiB of pickles, and arrays up to half of"
        " the free memory",
    ).tag(config=True)
    live = Bool(True, help="show jobs as they run, in front ends that can; False: as one line of text").tag(config=True)
    connection = Unicode(
        help="connect to this cluster, by name or connection file, instead of starting an embedded one"
    ).tag(config=True)
    start_at_once = Bool(False, help="start the cluster when the extension is loaded, not with the first task").tag(
        config=True
    )

    @default_of("connection")
    def _connection_of_the_environment(self) -> str:
        return os.environ.get("CONCURRENT_NB_CONNECTION", "")

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.cluster = CurrentCluster(self.connection, self._present)
        self.views = JobViews(shell)

    def register_listeners(self, shell: InteractiveShell) -> None:
        """Have the shell call this object at the begin and the end of each cell."""
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self.views.cell_ended)
        shell.events.register("post_run_cell", self._cell_ended)

    def unregister_listeners(self, shell: InteractiveShell) -> None:
        """Undo `register_listeners`."""
        shell.events.unregister("pre_run_cell", self._cell_begins)
        shell.events.unregister("post_run_cell", self.views.cell_ended)
        shell.events.unregister("post_run_cell", self._cell_ended)

    def _cell_begins(self, *info: object) -> None:
        self.cluster.cell_begins()

    def _cell_ended(self, result: Any = None) -> None:
        """Print what still runs after the stop button."""
        if isinstance(getattr(result, "error_in_exec", None), KeyboardInterrupt) and (
            left := self.cluster.left_by_cell()
        ):
            print(left)

    @no_var_expand
    @line_magic
    @errors_shown_plainly
    @documented
    @takes("command", nargs="?", choices=_COMMANDS, help="one of the commands above", metavar="command")
    @takes(
        "where",
        nargs="?",
        metavar="argument",
        help="connect: name or connection file of the cluster; cancel, attach, show, stats, trace: the job; scale: the"
        " number of workers; kernel: the slave",
    )
    @takes("file", nargs="?", metavar="file", help="trace: the file to write, which may also follow without a job")
    @takes(
        "--workers",
        type=magic_options.workers,
        metavar="N",
        help="start: number of worker processes (default: one per core)",
    )
    @takes(
        "--name",
        type=magic_options.words,
        metavar="NAME",
        help="start: name of the cluster, by which other programs on this machine can connect",
    )
    @takes(
        "--on",
        type=magic_options.words,
        metavar="LAUNCHER[:PLACE]",
        help="start: where slaves start: ssh:hostA,hostB:8, slurm, dask://HOST:8786 or ray, for example; options of the"
        " launcher follow",
    )
    @takes("--slaves", type=magic_options.slaves, metavar="N", help="start, scale: number of slaves")
    @takes(
        "--adapt",
        type=magic_options.adapt,
        metavar="MIN:MAX",
        help="start, scale: have the number of slaves follow the queue",
    )
    @takes("--force", action="store_true", default=None, help="stop: do not ask, even if jobs of others run there")
    @takes("--out", type=magic_options.variable, metavar="NAME", help="attach: assign the job to this variable")
    @takes("--now", action="store_true", default=None, help="restart: stop running tasks and run them again")
    @explained(_HELP)
    def concurrent(self, line: str) -> None:
        """Start, connect to, inspect and stop the cluster on which the tasks of this notebook run."""
        of_launcher, words = take_short_options(magic_options.split(line))
        options = magic_options.parse(ConcurrentMagics.concurrent, words)
        if options.command in (None, "help"):
            print(_HELP)
            if options.command is None:
                print(f"\n{self.cluster.status()}")
            return
        for name, command in _COMMANDS_OF_OPTIONS.items():
            if getattr(options, name) is not None and options.command not in re.split(", | or ", command):
                shown = f"`{getattr(options, name)}`" if name in ("where", "file") else f"--{name}"
                raise ConfigurationError(f"%concurrent {options.command} takes no {shown}, only {command} does")
        if options.command == "start":
            print(self.cluster.start(options.workers, options.name, self._launch(options, of_launcher)))
        elif options.command == "connect":
            if options.where is None:
                raise ConfigurationError(
                    "%concurrent connect needs the name of the cluster, its connection file, or an engine"
                )
            print(self.cluster.connect(self._place_of(options.where)))
        elif options.command == "kernel":
            if options.where is None:
                raise ConfigurationError("%concurrent kernel needs the name of a slave; %concurrent status lists them")
            print(self.cluster.kernel(options.where))
        elif options.command == "scale":
            print(self._scale(options))
        elif options.command == "cancel":
            print(self.cluster.cancel(options.where, self._job_of(options.where)))
        elif options.command == "attach":
            self._attach(options.where, options.out)
        elif options.command == "show":
            self.views.show(self._job_of(options.where) or self.cluster.job(options.where))
        elif options.command == "stats":
            show_statistics(self._job_of(options.where) or self.cluster.job(options.where, "stats"))
        elif options.command == "restart":
            print(self.cluster.restart(now=bool(options.now)))
        elif options.command == "jobs":
            _show(self.cluster.list_jobs())
        elif options.command == "slaves":
            _show(self.cluster.slaves())
        elif options.command == "trace":
            which, path = options.where, options.file
            if path is None and which is not None and which.endswith(".json"):
                which, path = None, which
            job = None if which is None else self._job_of(which) or self.cluster.job(which, "trace")
            print(self.cluster.trace(job, path))
        elif options.command == "dashboard":
            show_dashboard_link(self.cluster.dashboard())
        elif options.command == "stop":
            if not options.force and (work := self.cluster.work_of_others()):
                self._confirm_stop(work)
            print(self.cluster.stop())
        else:
            print(self.cluster.status())

    def _attach(self, which: str | None, out: str | None) -> None:
        """Show a job that the cluster keeps in the current cell, and bind it."""
        shell = self._shell()
        if which is None:
            raise ConfigurationError("%concurrent attach needs a job: %concurrent jobs lists them")
        given = shell.user_ns.get(which)
        live = self.live and view_choice.is_possible(shell)
        job = self.cluster.attach(given if isinstance(given, str) else which, self._job_of(which), watched=live)
        shell.user_ns["_job"] = job
        if out is not None:
            shell.user_ns[out] = job
        if not job.watched or self.views.has(job):
            self.views.show(job) if live else print(repr(job))
            return
        printer = Printer(tagged=len(job) > 1)
        started = monotonic() - job.elapsed_s
        self.views.add(job, view_choice.background_display(job, shell, None, started, printer))

    def _launch(self, options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Return the arguments of `Cluster` that are about a launcher."""
        given = {"on": options.on, "slaves": options.slaves, "adapt": options.adapt}
        launch = {name: value for name, value in given.items() if value is not None}
        return {**launch, **({"config": items} if items else {})}

    def _scale(self, options: argparse.Namespace) -> str:
        given = [each for each in (options.where, options.slaves, options.adapt) if each is not None]
        if not given:
            raise ConfigurationError("%concurrent scale needs the number of workers: %concurrent scale 4")
        if len(given) > 1:
            raise ConfigurationError("%concurrent scale takes one of these: a number of workers, --slaves or --adapt")
        if options.adapt is not None:
            return self.cluster.adapt(*options.adapt)
        if options.slaves is not None:
            return self.cluster.scale(slaves=options.slaves)
        return self.cluster.scale(magic_options.read(magic_options.workers, options.where, "%concurrent scale"))

    def _job_of(self, name: str | None) -> Job | None:
        """Return the job that a variable contains."""
        bound = self._shell().user_ns.get(name) if name is not None else None
        return bound if isinstance(bound, Job) else None

    def _confirm_stop(self, work: str) -> None:
        """Ask the user before jobs of others are lost. Raises ConfigurationError unless the answer is yes."""
        try:
            answer = input(f"{work}. Stop the cluster anyway? [y/N] ")
        except (StdinNotImplementedError, EOFError, OSError):
            raise ConfigurationError(f"%concurrent stop: {work}; %concurrent stop --force stops it anyway") from None
        if answer.strip().lower() not in ("y", "yes"):
            raise ConfigurationError("%concurrent stop: the cluster was not stopped")

    @no_var_expand
    @cell_magic
    @errors_shown_plainly
    @documented
    @takes(
        "--for",
        dest="for_text",
        type=magic_options.words,
        metavar="CLAUSE",
        help='one task per item: --for "n in range(128)"',
    )
    @takes(
        "--until",
        dest="until_text",
        type=magic_options.words,
        metavar="EXPRESSION",
        help="end the job with the first task for which this is true; `result` is the value of the task:"
        ' --until "result is not None"',
    )
    @takes(
        "--out",
        type=magic_options.variable,
        metavar="NAME",
        help="assign the value to this variable instead of showing it; with --no-block, the job",
    )
    @takes("--no-block", action="store_true", help="do not wait for the tasks; the value is the job")
    @takes(
        "--keep",
        action="store_true",
        help="leave the results in the cluster, for other tasks; the value is the future, with --for the job",
    )
    @takes(
        "--detach",
        action="store_true",
        help="return at once with the job's id: the cluster keeps the job, also when this notebook's kernel ends; see"
        " %%concurrent attach",
    )
    @takes("--local", action="store_true", help="run the tasks in this process, without a cluster, to debug them")
    @takes(
        "--batch",
        type=magic_options.batch,
        metavar="N",
        help="send N tasks together, for short tasks; each keeps its own value, error and time limit; auto: measured"
        " times choose N",
    )
    @takes(
        "--timeout",
        dest="timeout_s",
        type=magic_options.seconds,
        metavar="SECONDS",
        help="maximum run time of a task",
    )
    @takes(
        "--retries",
        type=magic_options.retries,
        default=0,
        metavar="N",
        help="run a failed task again, at most N times (default: 0)",
    )
    @takes(
        "--strategy",
        type=magic_options.strategy,
        choices=STRATEGIES,
        metavar="NAME",
        help="how slaves are chosen for tasks: see above",
    )
    @takes("--needs", type=magic_options.needs, metavar="NEEDS", help=magic_options.NEEDS)
    @takes(
        "--on-error",
        choices=("stop", "keep"),
        default="stop",
        metavar="stop|keep",
        help="stop: the first error ends the job (default); keep: the value has an outcome for each task",
    )
    @takes(
        "--shared",
        action="append",
        type=magic_options.variable,
        metavar="NAME",
        help="do not copy NAME anew for each task: tasks in one worker see each other's changes; may be repeated",
    )
    @takes("--show-capture", action="store_true", help="list the names that are sent with the cell, and their sizes")
    @takes(
        "--view",
        choices=view_choice.VIEWS,
        metavar="|".join(view_choice.VIEWS),
        help="show results as they arrive: as a picture, as the searched part of a range, or as a table",
    )
    @takes(
        "--sort", choices=("value",), metavar="value", help="with --view table: order the rows by value, not by task"
    )
    @takes(
        "--size",
        type=magic_options.size,
        metavar="WxH",
        help="with --view image: width and height of the picture in pixels, as in 1536x1024",
    )
    @takes("--name", type=magic_options.words, metavar="NAME", help="name of the job, as `%%concurrent jobs` lists it")
    def concurrent_task(self, line: str, cell: str) -> Any:
        """Run this cell on the cluster, as one task or, with --for, as one task per item.

        The cell runs as the body of a function. The notebook's names that it uses are sent with their current values.
        The value of the cell is its last expression. Nothing else comes back: assignments do not change the notebook.

        For example, show a row for each learning rate as it ends, and assign the list of results to `losses`::

            %%concurrent_task --for "rate in (0.1, 0.01, 0.001)" --view table --out losses
            train(data, rate)

        Without options the cell is one task; it may run for any time, is not run again when it fails, and its value is
        shown. The first task that fails ends the job, and its error is raised. With --on-error keep the value has an
        outcome for each task instead, with the attributes `ok`, `value`, `error`, `cancelled` and `index`.

        A cell that contains only functions, classes and imports defines task functions: f(x) runs in the notebook,
        f.submit(x) and f.map(xs) run on the cluster.

        If the value is a task system (ITaskSystem), the system runs on the cluster, and its result is the value of the
        cell, or with --no-block of the job.

        Strategies:
          pull_round_robin  slaves with free workers get tasks in turn; good for most work
          push_best         the slave that will probably be free first gets the next task; for few long tasks
          stealing          idle slaves take tasks from busy ones; for tasks of very different lengths
          locality          slaves that already have the arrays of a task get it
        The default is the strategy of the cluster.
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
        """Parse the cell or its options; a syntax error in the cell looks like Python's own."""
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

    def _place_of(self, text: str) -> Any:
        """Return the engine that a variable of the notebook holds, if this is the name of one, else the text."""
        found = self._shell().user_ns.get(text) if text.isidentifier() else None
        return found if found is not None and not isinstance(found, str) and is_engine(found) else text

    def _present(self, future: TaskFuture, error: BaseException) -> None:
        present(future, error, self._shell().compile.format_code_name)

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell


def _show(listed: Table | str) -> None:
    listed.show() if isinstance(listed, Table) else print(listed)
