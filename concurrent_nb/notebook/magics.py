"""`%concurrent` and `%%concurrent_task`: what users type in a notebook.

    cell text -> options -> shipping.cells -> a job on a cluster (session) or here (local) -> watch -> the cell's value

Registered by `extension`. Errors in a cell or its options are found before anything is started, and shown without our
frames.
"""

import functools
import os
import re
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Bool, Int, Unicode
from traitlets import default as default_of

from concurrent_nb import ITaskSystem, Job, SystemRun, TaskFuture
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConcurrentError, ConfigurationError, MasterLost
from concurrent_nb.notebook import hints, magic_options
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.notebook.defining import define
from concurrent_nb.notebook.job_watch import JobWatch
from concurrent_nb.notebook.live import view_choice
from concurrent_nb.notebook.live.job_views import JobViews
from concurrent_nb.notebook.local_job import LocalJob
from concurrent_nb.notebook.local_system import LocalSystemRun
from concurrent_nb.notebook.magic_options import documented, takes
from concurrent_nb.notebook.progress_display import ProgressDisplay, progress_display_for
from concurrent_nb.notebook.results import captured_text, plural, system_of, value_of
from concurrent_nb.notebook.stop_button import StopButton
from concurrent_nb.notebook.tracebacks import present, show_as, show_plainly, syntax_error, task_error, trim
from concurrent_nb.shipping.cells.cell_code import Cell, parse_cell, parse_for, parse_until
from concurrent_nb.shipping.cells.cell_task import CellTask, cell_task
from concurrent_nb.shipping.cells.definitions import functions_defined
from concurrent_nb.wire.messages import STRATEGIES

_Method = TypeVar("_Method", bound=Callable[..., Any])
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


def _errors_plainly(method: _Method) -> _Method:
    """Let our own errors be shown without a traceback."""

    @functools.wraps(method)
    def plain(*args: Any) -> Any:
        try:
            return method(*args)
        except ConcurrentError as error:
            show_plainly(error)
            raise
        except KeyboardInterrupt as error:
            show_plainly(error)
            raise

    return cast(_Method, plain)


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
    @_errors_plainly
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
    @_errors_plainly
    @documented
    @takes("--for", dest="loop", type=magic_options.words, help='a task for each item: "n in range(128)"')
    @takes("--until", type=magic_options.words, help="an expression over `result`: the first true one ends the job")
    @takes("--out", type=magic_options.variable, help="variable that gets the value, or the job with --no-block")
    @takes("--no-block", action="store_true", help="do not wait: the value is the job")
    @takes("--local", action="store_true", help="run it here, without a cluster, to test it")
    @takes(
        "--batch", type=magic_options.batch, help="N items of --for in each task that travels; auto: by measured times"
    )
    @takes("--timeout", type=magic_options.seconds, help="seconds that a task may run, with --batch each item of it")
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
        options = magic_options.parse(ConcurrentMagics.concurrent_task, line)
        if options.local and options.no_block:
            raise ConfigurationError("--local runs the cell in this process, so it cannot go on with --no-block")
        if options.size is not None and options.view != "image":
            raise ConfigurationError("--size is the size of a picture: it needs --view image")
        header = f"%%concurrent_task {line}".rstrip()
        if options.sort is not None and options.view != "table":
            raise ConfigurationError("--sort is the order of a table: it needs --view table")
        parsed = self._reading(lambda filename: parse_cell(cell, filename, header))
        if names := functions_defined(parsed):
            define(self._shell(), self._number(), header, cell, names, options)
            return None
        if options.batch is not None and options.loop is None:
            raise ConfigurationError('--batch packs items of --for, as in --for "n in range(1000)": give both')
        task = self._task(options, parsed)
        self.cluster.captured = task.captured
        if options.show_capture:
            print(captured_text(task.captured))
        return self._run(task, options, cell)

    def _task(self, options: Any, cell: Cell) -> CellTask:
        namespace = self._shell().user_ns
        loop = parse_for(options.loop) if options.loop is not None else None
        until = parse_until(options.until) if options.until is not None else None
        return self._reading(
            lambda _: cell_task(
                cell,
                namespace,
                loop=loop,
                until=until,
                per_worker_names=options.shared or (),
                limit_bytes=self.capture_limit_bytes,
                setup_names=() if options.local else self.cluster.names_of_setups(),
            )
        )

    def _reading(self, read: Callable[[str], _Read]) -> _Read:
        """Read the cell by its name; a syntax error in it looks like Python's own."""
        filename = f"<cell In[{self._number()}]>"
        try:
            return read(filename)
        except SyntaxError as error:
            if error.filename == filename:
                raise syntax_error(error) from error
            raise
        except ConcurrentError:
            raise
        except Exception as error:  # raised by the iterable of --for
            show_as(error, trim("".join(traceback.format_exception(error)), self._namer).rstrip().split("\n"))
            raise

    def _namer(self, filename: str) -> tuple[str, str] | None:
        return self._shell().compile.format_code_name(filename)

    def _number(self) -> int:
        """Give the number of the running cell. (In some versions `execution_count` is ahead of it by one.)"""
        return int(self._shell().displayhook.prompt_count)

    def _run(self, task: CellTask, options: Any, source: str) -> Any:
        shell = self._shell()
        printer = Printer(tagged=len(task.calls) > 1)
        # A loop over nothing needs no cluster.
        here = options.local or not task.calls
        live = self._is_live() and bool(task.calls)
        names = task.loop_names
        view = view_choice.view_of(options.view, options.size, task.calls, names, by_value=options.sort is not None)
        start = self._starter_here(task, options, printer, live) if here else self._starter_there(task, options, live)
        place = view_choice.announce(len(task.calls)) if live else None
        started = monotonic()
        with StopButton() as button:
            job = start()
            if options.loop is not None:
                job.label = lambda index: view_choice.label(names, task.calls[index])
            shell.user_ns["_job"] = job
            self.cluster.jobs.append(job)
            if options.no_block:
                try:
                    button.raise_if_pressed()
                except KeyboardInterrupt:
                    job.cancel()
                    raise
                if job.watched:
                    self.views.add(job, view_choice.background_display(job, shell, view, started, printer, place))
                return self._bind(options.out, job, shown=options.out is None and not job.watched)
            where = "in this process" if here else None
            line = (
                view_choice.live_display(job, shell, view, started, place)
                if job.watched
                else progress_display_for(shell)
            )
            self.views.add(job, line)
            watch = JobWatch(
                job,
                line,
                printer,
                button,
                started,
                where,
                continues=lambda job: system_of(job, task.is_loop) is not None,
            )
            try:
                watch.wait()
            except KeyboardInterrupt as interrupt:
                self._keep_finished(job, options, interrupt)
                raise
            if (system := system_of(job, task.is_loop)) is not None:
                task.function.keep_lines()  # which the system's methods were made from
                job = self._run_system(system, options, line, printer, button, started)
        keep = options.on_error == "keep"
        if job.first_error is not None and job.hit is None and not keep:
            raise self._error_of(job)
        value = value_of(job, is_loop=task.is_loop, until=task.until, keep=keep)
        self._hint(task, options, source, job)
        # A variable gets the value in silence, as in an assignment. And a row of None says as little as the one None
        # that a notebook does not show.
        nothing = isinstance(value, list) and bool(value) and all(item is None for item in value)
        return self._bind(options.out, value, shown=task.has_value and not nothing and options.out is None)

    def _hint(self, task: CellTask, options: Any, source: str, job: Job) -> None:
        """Print what the cell probably meant, if that is something else."""
        if not task.has_value and (hint := hints.lost_value(source)) is not None:
            print(hint)
        if task.until and job.hit is None and job.futures:
            print(hints.not_found(options.until, len(job.futures)))
        if options.batch is None and not options.local and (hint := hints.many_short_tasks(job)) is not None:
            print(hint)

    def _keep_finished(self, job: Job, options: Any, interrupt: KeyboardInterrupt) -> None:
        """Bind what a stopped job has finished, and say so in the place of a traceback."""
        values = job.done_results()
        said = f"{len(values):,} of {plural(len(job.futures), 'result')} had come"
        if options.out is not None:
            self._shell().user_ns[options.out] = values
        where = options.out or "_job.done_results()"
        said += f": {where} is a dictionary of them by the number of the task" if values else ""
        show_as(interrupt, [f"KeyboardInterrupt: the job was stopped; {said}"])

    def _run_system(
        self,
        system: ITaskSystem,
        options: Any,
        line: ProgressDisplay,
        printer: Printer,
        button: StopButton,
        started: float,
    ) -> SystemRun:
        """Run the task system that is the cell's value, in the place of the line that has shown the cell."""
        shell = self._shell()
        watched = isinstance(line, view_choice.ReplaceableDisplay)
        run = self._pushed(system, options, watched)
        shell.user_ns["_job"] = run
        self.cluster.jobs.append(run)
        if isinstance(line, view_choice.ReplaceableDisplay):
            line = view_choice.live_display(run, shell, None, started, line.hand_over())
            self.views.add(run, line)
        JobWatch(run, line, printer, button, started).wait()
        return run

    def _pushed(self, system: ITaskSystem, options: Any, watched: bool) -> SystemRun:
        name = self._job_name(options)
        if options.local:
            return LocalSystemRun(system, name, watched)
        app, _ = self.cluster.application()
        try:
            return app.push_tasksystem(system, name=name, timeout_s=options.timeout, watched=watched, prints=False)
        except MasterLost:
            self.cluster.handle_lost_master()
            raise

    def _starter_here(self, task: CellTask, options: Any, printer: Printer, live: bool) -> Callable[[], Job]:
        if options.timeout is not None:
            print("(--timeout has no effect with --local)")
        if options.strategy is not None:
            print("(--strategy has no effect with --local)")
        if options.batch is not None:
            print("(--batch has no effect with --local)")
        if options.needs is not None:
            print("(--needs has no effect with --local)")
        return lambda: LocalJob(
            task.function,
            task.calls,
            printer,
            name=self._job_name(options),
            stop_on_error=options.on_error == "stop",
            retries=options.retries,
            watched=live,
        )

    def _starter_there(self, task: CellTask, options: Any, live: bool) -> Callable[[], Job]:
        app, notice = self.cluster.application()
        if notice is not None:
            print(notice)
        job_options: dict[str, Any] = {
            "name": self._job_name(options),
            "timeout_s": options.timeout,
            "retries": options.retries,
            "needs": options.needs,
            "watched": live,
            "prints": options.no_block and not live,  # nobody waits who could show it
            "strategy": options.strategy,
        }

        def start() -> Job:
            try:
                if options.no_block and not task.is_loop:
                    task.function.keep_lines()  # which a system's methods are made from
                    return app.start_cell(task.function, **job_options)
                stop_on_error = options.on_error == "stop"
                return app.start_job(
                    task.function,
                    task.calls,
                    until=task.until,
                    stop_on_error=stop_on_error,
                    batch=options.batch,
                    **job_options,
                )
            except MasterLost:
                self.cluster.handle_lost_master()
                raise

        return start

    def _is_live(self) -> bool:
        return self.live and view_choice.is_possible(self._shell())

    def _job_name(self, options: Any) -> str:
        return options.name or f"In[{self._number()}]"

    def _error_of(self, job: Job) -> BaseException:
        future = job.first_error
        assert future is not None
        error = task_error(future, self._shell().compile.format_code_name, elsewhere=not isinstance(job, LocalJob))
        if isinstance(error, MasterLost):
            self.cluster.handle_lost_master()
        return error

    def _bind(self, name: str | None, value: Any, shown: bool) -> Any:
        if name is not None:
            self._shell().user_ns[name] = value
        return value if shown else None

    def _present(self, future: TaskFuture, error: BaseException) -> None:
        present(future, error, self._shell().compile.format_code_name)

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell
