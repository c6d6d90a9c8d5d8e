"""`%concurrent` and `%%concurrent_task`: what users type in a notebook.

    cell text -> options -> shipping.cells -> a job on a cluster (session) or here (local) -> watch -> the cell's value

Registered by `extension`. Errors in a cell or its options are found before anything is started, and shown without our
frames.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Int, Unicode
from traitlets import default as default_of

from concurrent_nb import Job
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConcurrentError, ConfigurationError, MasterLost
from concurrent_nb.notebook import options
from concurrent_nb.notebook.local import LocalJob
from concurrent_nb.notebook.options import documented, takes
from concurrent_nb.notebook.output import Printer
from concurrent_nb.notebook.progress import line_for
from concurrent_nb.notebook.results import value_of
from concurrent_nb.notebook.session import Session
from concurrent_nb.notebook.tracebacks import show_plainly, syntax_error, task_error
from concurrent_nb.notebook.watch import Watch, interrupts_noted
from concurrent_nb.shipping.capture import LIMIT_BYTES
from concurrent_nb.shipping.cells import CellTask, cell_task

_Method = TypeVar("_Method", bound=Callable[..., Any])

_COMMANDS: Final = ("start", "connect", "stop", "status", "kernel")
#: options of %concurrent and the commands that take them
_TAKERS: Final = {"workers": "start", "name": "start", "where": "connect or kernel"}


def _errors_plainly(method: _Method) -> _Method:
    """Let our own errors be shown without a traceback."""

    @functools.wraps(method)
    def plain(*args: Any) -> Any:
        try:
            return method(*args)
        except ConcurrentError as error:
            show_plainly(error)
            raise

    return cast(_Method, plain)


@magics_class
class ConcurrentMagics(Magics):
    """The magics of concurrent_nb, and what `%config ConcurrentMagics` can set."""

    capture_limit_bytes = Int(LIMIT_BYTES, min=1, help="bytes that the names of a cell may take together").tag(
        config=True
    )
    connection = Unicode(help="cluster to use instead of an embedded one: its name or connection file").tag(config=True)

    @default_of("connection")
    def _connection_of_the_environment(self) -> str:
        return os.environ.get("CONCURRENT_NB_CONNECTION", "")

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.session = Session(self.connection)

    @no_var_expand
    @line_magic
    @_errors_plainly
    @documented
    @takes("command", nargs="?", choices=_COMMANDS, help="what to do")
    @takes("where", nargs="?", help="connect: the cluster's name or connection file; kernel: the slave")
    @takes("--workers", type=options.workers, help="start: number of worker processes; default: one per core")
    @takes("--name", type=options.words, help="start: name by which others on this machine can connect")
    def concurrent(self, line: str) -> None:
        """Start, find, look at and leave the cluster that this notebook's tasks run on."""
        chosen = options.parse(ConcurrentMagics.concurrent, line)
        if chosen.command is None:
            raise ConfigurationError(f"%concurrent needs to know what to do: {', '.join(_COMMANDS)}")
        for name, command in _TAKERS.items():
            if getattr(chosen, name) is not None and chosen.command not in command.split(" or "):
                shown = f"`{chosen.where}`" if name == "where" else f"--{name}"
                raise ConfigurationError(f"%concurrent {chosen.command} takes no {shown}, only {command} does")
        if chosen.command == "start":
            print(self.session.start(chosen.workers, chosen.name))
        elif chosen.command == "connect":
            if chosen.where is None:
                raise ConfigurationError("%concurrent connect needs the cluster's name or its connection file")
            print(self.session.connect(chosen.where))
        elif chosen.command == "kernel":
            if chosen.where is None:
                raise ConfigurationError("%concurrent kernel needs the name of a slave; %concurrent status lists them")
            print(self.session.kernel(chosen.where))
        elif chosen.command == "stop":
            print(self.session.stop())
        else:
            print(self.session.status())

    @no_var_expand
    @cell_magic
    @_errors_plainly
    @documented
    @takes("--for", dest="loop", type=options.words, help='a task for each item: "n in range(128)"')
    @takes("--until", type=options.words, help="an expression over `result`: the first true one ends the job")
    @takes("--out", type=options.variable, help="variable that gets the value, or the job with --no-block")
    @takes("--no-block", action="store_true", help="do not wait: the value is the job")
    @takes("--local", action="store_true", help="run it here, without a cluster, to test it")
    @takes("--timeout", type=options.seconds, help="seconds that a task may run")
    @takes("--retries", type=options.retries, default=0, help="how often a failed task is run again")
    @takes("--on-error", choices=("stop", "keep"), default="stop", help="keep: the value has an outcome per task")
    @takes("--name", type=options.words, help="what the job is called in the cluster's status")
    def concurrent_task(self, line: str, cell: str) -> Any:
        """Run this cell on the cluster: as one task, or with --for as many.

        The cell is a function. The names that it uses are sent along as they are now, its value is its last expression,
        and nothing else flows back.
        """
        chosen = options.parse(ConcurrentMagics.concurrent_task, line)
        if chosen.local and chosen.no_block:
            raise ConfigurationError("--local runs the cell in this process, so it cannot go on with --no-block")
        task = self._task(chosen, f"%%concurrent_task {line}".rstrip(), cell)
        self.session.captured = task.captured
        return self._run(task, chosen)

    def _task(self, chosen: Any, header: str, cell: str) -> CellTask:
        shell = self._shell()
        filename = f"<cell In[{self._number()}]>"
        try:
            return cell_task(
                cell,
                shell.user_ns,
                for_text=chosen.loop,
                until_text=chosen.until,
                filename=filename,
                header=header,
                limit_bytes=self.capture_limit_bytes,
            )
        except SyntaxError as error:
            if error.filename == filename:
                raise syntax_error(error) from error
            raise

    def _number(self) -> int:
        """Give the number of the running cell. (In some versions `execution_count` is ahead of it by one.)"""
        return int(self._shell().displayhook.prompt_count)

    def _run(self, task: CellTask, chosen: Any) -> Any:
        shell = self._shell()
        printer = Printer(tagged=len(task.calls) > 1)
        # A loop over nothing needs no cluster.
        here = chosen.local or not task.calls
        start = self._starter_here(task, chosen, printer) if here else self._starter_there(task, chosen)
        started = monotonic()
        with interrupts_noted() as interrupted:
            job = start()
        shell.user_ns["_job"] = job
        if chosen.no_block:
            if interrupted:
                job.cancel()
                raise KeyboardInterrupt
            return self._bind(chosen.out, job, shown=chosen.out is None)
        where = "in this process" if here else None
        Watch(job, line_for(shell), printer, started, where).wait(bool(interrupted))
        keep = chosen.on_error == "keep"
        if job.first_error is not None and job.hit is None and not keep:
            raise self._error_of(job)
        value = value_of(job, is_loop=task.is_loop, until=task.until, keep=keep)
        return self._bind(chosen.out, value, shown=task.has_value)

    def _starter_here(self, task: CellTask, chosen: Any, printer: Printer) -> Callable[[], Job]:
        if chosen.timeout is not None:
            print("(--timeout has no effect with --local)")
        return lambda: LocalJob(
            task.function,
            task.calls,
            printer,
            name=self._job_name(chosen),
            stop_on_error=chosen.on_error == "stop",
            retries=chosen.retries,
        )

    def _starter_there(self, task: CellTask, chosen: Any) -> Callable[[], Job]:
        app, notice = self.session.application()
        if notice is not None:
            print(notice)

        def start() -> Job:
            try:
                return app.start_job(
                    task.function,
                    task.calls,
                    name=self._job_name(chosen),
                    until=task.until,
                    stop_on_error=chosen.on_error == "stop",
                    timeout_s=chosen.timeout,
                    retries=chosen.retries,
                )
            except MasterLost:
                self.session.lost()
                raise

        return start

    def _job_name(self, chosen: Any) -> str:
        return chosen.name or f"In[{self._number()}]"

    def _error_of(self, job: Job) -> BaseException:
        future = job.first_error
        assert future is not None
        error = task_error(future, len(job.futures), self._shell().compile.format_code_name)
        if isinstance(error, MasterLost):
            self.session.lost()
        return error

    def _bind(self, name: str | None, value: Any, shown: bool) -> Any:
        if name is not None:
            self._shell().user_ns[name] = value
        return value if shown else None

    def _shell(self) -> InteractiveShell:
        assert self.shell is not None
        return self.shell
