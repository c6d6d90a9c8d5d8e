"""Run a cell's tasks: start the job, show it, wait for it, and return the cell's value.

    CellTask, CellOptions -> Job (on the cluster, or LocalJob) -> display, JobWatch -> value

Used by the magics, on the main thread.
"""

import ast
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle

from concurrent_nb import ITaskSystem, Job, SystemRun
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import MasterLost
from concurrent_nb.notebook import hints
from concurrent_nb.notebook.cell_names import cell_name
from concurrent_nb.notebook.cell_options import CellOptions
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.notebook.job_watch import JobWatch
from concurrent_nb.notebook.live import view_choice
from concurrent_nb.notebook.live.job_views import JobViews
from concurrent_nb.notebook.live.views import View
from concurrent_nb.notebook.local_job import LocalJob
from concurrent_nb.notebook.local_system import LocalSystemRun
from concurrent_nb.notebook.progress_display import ProgressDisplay, job_text, progress_display_for
from concurrent_nb.notebook.results import plural, system_of, value_of
from concurrent_nb.notebook.stop_button import StopButton
from concurrent_nb.notebook.tracebacks import show_as, task_error
from concurrent_nb.shipping.cells.cell_task import CellTask

if TYPE_CHECKING:
    from concurrent_nb.notebook.live.live_display import LiveDisplay


class CellRunner:
    """Runs one cell.

    Args:
        cluster: started or connected to if the cell needs it.
        views: remembers how jobs are shown.
        live: jobs are shown live; otherwise as one line of text.
    """

    def __init__(self, shell: InteractiveShell, cluster: CurrentCluster, views: JobViews, live: bool) -> None:
        self._shell = shell
        self._cluster = cluster
        self._views = views
        self._live = live
        self._started = 0.0  #: when the job was started
        self._button = StopButton()
        self._live_display: LiveDisplay | None = None

    def run(self, task: CellTask, options: CellOptions, tree: ast.Module) -> Any:
        """Run the cell; return its value, or None if that is not to be shown.

        Args:
            tree: the cell's syntax tree, for hints.

        Raises what the first failed task has raised, unless errors are kept; CancelledError if the job was cancelled
        from elsewhere, and KeyboardInterrupt.
        """
        is_local = options.local or not task.calls  # a loop over nothing needs no cluster
        live = self._live and bool(task.calls)
        view = view_choice.view_of(
            options.view, options.size, task.calls, task.loop_names, by_value=options.sort is not None
        )
        printer = Printer(tagged=len(task.calls) > 1)
        start = self._local(task, options, printer, live) if is_local else self._on_cluster(task, options, live)
        handle = view_choice.announce(len(task.calls)) if live else None
        self._started = monotonic()
        with self._button:
            job = start()
            if task.is_loop:
                job.label = lambda index: view_choice.label(task.loop_names, task.calls[index])
            self._register(job)
            if options.detach:
                return self._leave_to_the_cluster(job, options, view, printer, handle)
            if options.no_block:
                return self._leave_in_background(job, options, view, printer, handle)
            display = self._display_of(job, view, handle, is_local, printer)
            system = self._wait(job, task, options, display, printer, is_local)
            if system is not None:
                task.function.keep_lines()  # the source of the system's methods
                job = self._run_system(system, options, display, printer)
        if job.first_error is not None and job.hit is None and not options.keeps_errors:
            raise self._error_of(job, is_local)
        if job.hit is None and not options.keeps_errors and any(future.cancelled() for future in job.futures):
            error = CancelledError(f"job {job.name!r} was cancelled")
            self._keep_finished(job, options, error, "cancelled")
            raise error
        if options.keep and not is_local:
            kept = job if task.is_loop else job.futures[0]
            return self._bind(options.out, kept, shown=options.out is None)
        value = value_of(job, is_loop=task.is_loop, until=task.until, keep=options.keeps_errors)
        self._print_hints(task, options, tree, job)
        # A notebook does not show None, so a list of nothing but None is not shown either.
        nothing = isinstance(value, list) and bool(value) and all(item is None for item in value)
        # Outcomes are a value also where the cell has none, unless a semicolon hides it.
        is_shown = task.has_value or (options.keeps_errors and not isinstance(tree.body[-1], ast.Expr))
        return self._bind(options.out, value, shown=is_shown and not nothing and options.out is None)

    # ------------------------------------------------------------------------------------------------- starting a job

    def _local(self, task: CellTask, options: CellOptions, printer: Printer, live: bool) -> Callable[[], Job]:
        """Return what starts the job in this process."""
        for option in options.without_effect() if options.local else ():
            print(f"({option} has no effect with --local)")
        return lambda: LocalJob(
            task.function,
            task.calls,
            printer,
            name=self._job_name(options),
            stop_on_error=not options.keeps_errors,
            retries=options.retries,
            watched=live,
        )

    def _on_cluster(self, task: CellTask, options: CellOptions, live: bool) -> Callable[[], Job]:
        """Return what starts the job on the cluster, which is started first if there is none."""
        app, notice = self._cluster.application()
        if notice is not None:
            print(notice)
        if options.detach:
            self._cluster.check_outlives("--detach")
        common: dict[str, Any] = {
            "name": self._job_name(options),
            "timeout_s": options.timeout_s,
            "retries": options.retries,
            "needs": options.needs,
            "watched": live,
            "prints": (options.no_block or options.detach) and not live,  # no cell waits to show the output
            "strategy": options.strategy,
        }

        def start() -> Job:
            try:
                if options.no_block and not task.is_loop and not options.keep:
                    task.function.keep_lines()  # the source of a system's methods
                    return app.start_cell(task.function, **common)
                return app.start_job(
                    task.function,
                    task.calls,
                    until=task.until,
                    stop_on_error=not options.keeps_errors,
                    batch=options.batch,
                    keep=options.keep,
                    detach=options.detach,
                    **common,
                )
            except MasterLost:
                self._cluster.handle_lost_master()
                raise

        return start

    def _register(self, job: Job) -> None:
        self._shell.user_ns["_job"] = job
        self._cluster.jobs.append(job)

    def _job_name(self, options: CellOptions) -> str:
        return options.name or cell_name(self._shell)

    # -------------------------------------------------------------------------------------------- showing and waiting

    def _leave_in_background(
        self, job: Job, options: CellOptions, view: View | None, printer: Printer, handle: DisplayHandle | None
    ) -> Job | None:
        """Let the job run on after the cell; return it if it is to be shown as the cell's value."""
        self._show_in_background(job, view, printer, handle)
        bound: Job | None = self._bind(options.out, job, shown=options.out is None and not job.watched)
        return bound

    def _show_in_background(self, job: Job, view: View | None, printer: Printer, handle: DisplayHandle | None) -> None:
        try:
            self._button.raise_if_pressed()
        except KeyboardInterrupt:
            job.cancel()
            raise
        if job.watched:
            display = view_choice.background_display(job, self._shell, view, self._started, printer, handle)
            self._views.add(job, display)

    def _leave_to_the_cluster(
        self, job: Job, options: CellOptions, view: View | None, printer: Printer, handle: DisplayHandle | None
    ) -> str | None:
        """Show a detached job in the background; return its id if that is to be shown as the cell's value."""
        self._show_in_background(job, view, printer, handle)
        bound: str | None = self._bind(options.out, job.id.hex(), shown=options.out is None)
        return bound

    def _display_of(
        self, job: Job, view: View | None, handle: DisplayHandle | None, is_local: bool, printer: Printer
    ) -> ProgressDisplay:
        """Return what shows the progress of a job that the cell waits for."""
        if not job.watched:
            return progress_display_for(self._shell)
        self._live_display = display = view_choice.live_display(job, self._shell, view, self._started, handle)
        self._views.add(job, display)
        display.share(printer.tail)
        if is_local:  # before it runs, because the main thread runs the tasks
            display.show(job_text(job, 0.0))
        return display

    def _wait(
        self,
        job: Job,
        task: CellTask,
        options: CellOptions,
        display: ProgressDisplay,
        printer: Printer,
        is_local: bool,
    ) -> ITaskSystem | None:
        """Wait for the job; return the task system that is its value, or None."""
        where = "in this process" if is_local else None
        watch = JobWatch(
            job,
            display,
            printer,
            self._button,
            self._started,
            where,
            continues=lambda job: system_of(job, task.is_loop or options.keep) is not None,
        )
        try:
            self._wait_in(watch)
        except KeyboardInterrupt as interrupt:
            self._keep_finished(job, options, interrupt, "stopped")
            raise
        return system_of(job, task.is_loop or options.keep)

    def _wait_in(self, watch: JobWatch) -> None:
        try:
            watch.wait()
        finally:  # when everything has been shown
            if self._live_display is not None:
                self._live_display.end_sharing()

    def _keep_finished(self, job: Job, options: CellOptions, error: BaseException, how: str) -> None:
        """Bind the results that a job has which ended early, and show where they are instead of a traceback."""
        values = job.done_results()
        text = f"{len(values):,} of {plural(len(job.futures), 'result')} had arrived"
        if options.out is not None:
            self._shell.user_ns[options.out] = values
        where = options.out or "_job.done_results()"
        text += f": {where} is a dictionary of them, by task number" if values else ""
        show_as(error, [f"{type(error).__name__}: the job was {how}; {text}"])

    # ----------------------------------------------------------------------------------------------------- task systems

    def _run_system(
        self, system: ITaskSystem, options: CellOptions, display: ProgressDisplay, printer: Printer
    ) -> SystemRun:
        """Run the task system that is the cell's value; it is shown where the cell was."""
        run = self._push(system, options)
        self._register(run)
        if self._live_display is not None:
            display = self._display_of(run, None, self._live_display.hand_over(), options.local, printer)
        self._wait_in(JobWatch(run, display, printer, self._button, self._started))
        return run

    def _push(self, system: ITaskSystem, options: CellOptions) -> SystemRun:
        name = self._job_name(options)
        if options.local:
            return LocalSystemRun(system, name, self._live)
        app, _ = self._cluster.application()
        try:
            return app.push_tasksystem(system, name=name, timeout_s=options.timeout_s, watched=self._live, prints=False)
        except MasterLost:
            self._cluster.handle_lost_master()
            raise

    # --------------------------------------------------------------------------------------------------------- the end

    def _error_of(self, job: Job, is_local: bool) -> BaseException:
        future = job.first_error
        assert future is not None
        error = task_error(future, self._shell.compile.format_code_name, elsewhere=not is_local)
        if isinstance(error, MasterLost):
            self._cluster.handle_lost_master()
        return error

    def _print_hints(self, task: CellTask, options: CellOptions, tree: ast.Module, job: Job) -> None:
        """Print what the cell probably meant, if that is something else."""
        if not task.has_value and (hint := hints.lost_value(tree)) is not None:
            print(hint)
        if options.until_text is not None and job.hit is None and job.futures:
            print(hints.not_found(options.until_text, len(job.futures)))
        if options.batch is None and not options.local and (hint := hints.many_short_tasks(job)) is not None:
            print(hint)

    def _bind(self, name: str | None, value: Any, shown: bool) -> Any:
        """Assign the value to a variable, if one is named; return the value if it is to be shown."""
        if name is not None:
            self._shell.user_ns[name] = value
        return value if shown else None
