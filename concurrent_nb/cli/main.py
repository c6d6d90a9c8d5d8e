"""`concurrent-nb master | slave | start | status | stats | dashboard | kernel | run | restart | stop`: from a shell.

The commands that inspect and steer a running cluster are in `cluster_commands`, that of its journal in
`journal_commands`.

The configuration items are the same here, in `concurrent_nb_config.py` and in `Cluster(config=...)`:
`--SlaveNode.workers=8` on the command line is `c.SlaveNode.workers = 8` in the file.
"""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb import __version__
from concurrent_nb.cli import daemon
from concurrent_nb.cli.cluster_commands import ERASE, add_commands
from concurrent_nb.cli.config_options import read_items, seconds, whole_number
from concurrent_nb.cli.control import control_of
from concurrent_nb.cli.journal_commands import add_journal_command
from concurrent_nb.cli.statistics_text import newest_job, statistics_text
from concurrent_nb.cli.status import describe
from concurrent_nb.cli.table import shown
from concurrent_nb.errors import (
    AccessRefused,
    ConcurrentError,
    ConfigurationError,
    InitializerFailed,
    VersionMismatch,
)
from concurrent_nb.nodes.common.exit_codes import DRAINED, NOT_INITIALIZED, REFUSED
from concurrent_nb.nodes.common.log_format import LOG_FORMATS, write_logs
from concurrent_nb.nodes.common.sections import OF_MASTER, OF_SLAVE, check_sections
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.taken_names import refuse_taken

if TYPE_CHECKING:
    from concurrent_nb.nodes.common.launch_lines import SlaveConfiguration
    from concurrent_nb.nodes.slave.process import Source

#: short options for configuration items
SHORT: Final = {
    "host": ("MasterNode", "addresses"),
    "port": ("MasterNode", "control_port"),
    "journal": ("MasterNode", "journal"),
    "workers": ("SlaveNode", "workers"),
    "max_tasks_per_worker": ("SlaveNode", "max_tasks_per_worker"),
}
#: printed when a node is ready
IS_RUNNING: Final = "cluster {} is running"
HAS_JOINED: Final = "has joined cluster"

EPILOG: Final = """\
examples:
  concurrent-nb start --workers 2 --name demo     start a cluster here, until Ctrl-C or `concurrent-nb stop demo`
  concurrent-nb start --name lab --host 0.0.0.0   start a cluster that other machines can join
  concurrent-nb start --on ssh:hostA,hostB:8      start slaves on two hosts; see docs/clusters.md for other launchers
  concurrent-nb start --name lab --daemon         start a cluster in the background, with its log in a file
  concurrent-nb slave --connect demo              add a slave (elsewhere: the path of a copy of the connection file)
  concurrent-nb status demo                       show slaves, applications and jobs; see also --watch and --json
  concurrent-nb top demo                          slaves and jobs with rates, until Ctrl-C
  concurrent-nb trace demo                        when and where tasks ran, as a file for https://ui.perfetto.dev
  concurrent-nb cancel demo JOB                   cancel a job; see also jobs, slaves, drain and config
  concurrent-nb scale demo 4                      have 4 workers; `restart demo SLAVE` replaces a slave
  concurrent-nb stack demo JOB 3                  show what a running task is doing
  concurrent-nb stats demo --job fits             show where the time of a job went
  concurrent-nb dashboard demo                    open the web page of the cluster in a browser
  concurrent-nb kernel --connect demo SLAVE       inspect a slave with any Jupyter client
  concurrent-nb run mandelbrot --factor 8         run a sample on a cluster that is started for it

Every configuration item can be set as --Class.item=value, for example --MasterNode.strategy=push_best or
--SlaveNode.patience_s=10. Items for all nodes can be set in concurrent_nb_config.py in Jupyter's configuration folder.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code (0: success, 1: refused or failed, 2: wrong usage)."""
    parser = command_line()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        of_launcher, own_words = _launcher_items(words)
        options, rest = parser.parse_known_args(own_words)
        items = read_items(rest)
    except ConfigurationError as error:
        parser.error(str(error))
    for section, values in of_launcher.items():
        items.setdefault(section, {}).update(values)
    write_logs(getattr(options, "log_format", "text"))
    options.words = words
    try:
        return int(options.run(options, items))
    except ConcurrentError as error:
        print(f"concurrent-nb {options.command}: {_as_typed(str(error), options)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        return 141  # as of a process that SIGPIPE has ended


def _launcher_items(words: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the items of the launcher of `start --on` that short options set, and the other words."""
    if words[:1] != ["start"]:
        return {}, words
    from concurrent_nb.nodes.launchers.short_options import take_short_options  # here: only `start` needs it

    return take_short_options(words)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line. `run` in its result is the function of the command."""
    parser = argparse.ArgumentParser(
        prog="concurrent-nb",
        description="Run Python functions and notebook cells on a cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"concurrent-nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    start = command("start", _start, "Start a master and a slave on this machine, and wait until they are stopped.")
    master = command("master", _master, "Start a master without slaves, and wait until it is stopped.")
    for each in (start, master):
        each.add_argument("--name", default="default", help="name of the cluster (default: %(default)s)")
        each.add_argument(
            "--host", action="append", help="IP address to listen on; may be repeated (default: 127.0.0.1)"
        )
        each.add_argument(
            "--port", type=whole_number(0, 65535), help="port of the control channel (default: any free port)"
        )
        each.add_argument(
            "--journal",
            metavar="memory|sqlite",
            help="sqlite: a master that was killed and is started again goes on (default: memory; docs/journal.md)",
        )
    start.add_argument(
        "--on",
        metavar="LAUNCHER[:PLACE]",
        help="where slaves start: ssh:hostA,hostB:8, slurm, dask://HOST:8786, ray, command:... or local; options of"
        " the launcher follow it (docs/clusters.md)",
    )
    start.add_argument(
        "--slaves", type=whole_number(1, 1000), metavar="N", help="number of slaves (default: the launcher's)"
    )
    start.add_argument("--adapt", metavar="MIN:MAX", help="have the number of slaves follow the queue, from MIN to MAX")
    slave = command("slave", _slave, "Start a slave that joins a cluster, and wait until the cluster is stopped.")
    slave.add_argument(
        "--connect",
        default="default",
        metavar="NAME_OR_FILE",
        help="cluster to join (default: %(default)s); - reads two lines of standard input, the content of a connection"
        " file and a configuration, each as JSON in one line, and ends with standard input",
    )
    slave.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration as JSON, in a file that only its owner can read"
    )
    slave.add_argument("--name", default="", help="name of the slave (default: host name and process id)")
    for each in (start, slave):
        each.add_argument(
            "--workers",
            type=whole_number(1, 1000),
            metavar="N",
            help="number of worker processes (default: one per core)",
        )
        each.add_argument(
            "--max-tasks-per-worker",
            type=whole_number(1),
            metavar="N",
            help="replace a worker process after N tasks (default: never)",
        )
    for each in (start, master, slave):
        each.add_argument(
            "--daemon", action="store_true", help="run in the background, and return when the node is ready"
        )
        each.add_argument(
            "--log", type=Path, metavar="FILE", help="log file of --daemon (default: beside the connection files)"
        )
        each.add_argument(
            "--log-format",
            choices=LOG_FORMATS,
            default="text",
            help="json: one JSON object per line, with the ids of the task, job or node that it is about"
            " (default: %(default)s)",
        )
    status = command(
        "status", _status, "Show the slaves, applications and jobs of a cluster; without a name, list the clusters."
    )
    status.add_argument("name", nargs="?", help="name of the cluster, or its connection file")
    status.add_argument("--json", action="store_true", help="print JSON, with more details")
    status.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=2.0,
        metavar="SECONDS",
        help="repeat every SECONDS until Ctrl-C (default: 2)",
    )
    add_commands(command)
    add_journal_command(command)
    stats = command(
        "stats",
        _stats,
        "Show the statistics of a cluster, or of one of its jobs: where its time went, and what it used.",
    )
    _add_cluster_name(stats)
    stats.add_argument("--job", metavar="JOB", help="only this job: its name, or the beginning of its id")
    stats.add_argument("--json", action="store_true", help="print JSON, with all numbers")
    dashboard = command("dashboard", _dashboard, "Print a link to the web page of a cluster, and open it in a browser.")
    _add_cluster_name(dashboard)
    dashboard.add_argument("--no-open", action="store_true", help="only print the link")
    kernel = command("kernel", _kernel, "Open a Jupyter kernel in a slave, and print how to attach to it.")
    kernel.add_argument("slave", help="name of the slave, as `concurrent-nb slaves` lists it")
    kernel.add_argument(
        "--connect", default="default", metavar="NAME_OR_FILE", help="cluster of the slave (default: %(default)s)"
    )
    samples = command("run", _run, "Run a sample on a cluster; without a name, list the samples.")
    samples.add_argument("name", nargs="?", help="name of the sample")
    samples.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="options of the sample: see `concurrent-nb run NAME --help`"
    )
    restart = command(
        "restart",
        _restart,
        "Replace all worker processes of a cluster by new ones, and wait until that is done; or replace one slave.",
    )
    _add_cluster_name(restart)
    restart.add_argument(
        "slave",
        nargs="?",
        help="replace this slave: another one with as many workers starts, and it leaves when its running tasks have"
        " ended; only for slaves that the cluster has started itself",
    )
    restart.add_argument(
        "--now",
        action="store_true",
        help="stop running tasks and run them again; without it, each worker ends its task first",
    )
    stop = command("stop", _stop, "Stop a cluster: its master, its slaves and all tasks that run there.")
    _add_cluster_name(stop)
    return parser


def _add_cluster_name(command: argparse.ArgumentParser) -> None:
    """Add the argument that names the cluster which a command is about."""
    command.add_argument(
        "name", nargs="?", default="default", help="name of the cluster, or its connection file (default: %(default)s)"
    )


def _with_options(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the values of short options to the configuration items."""
    for option, (section, item) in SHORT.items():
        value = getattr(options, option, None)
        if value is not None:
            items.setdefault(section, {})[item] = value
    return items


def _as_typed(text: str, options: argparse.Namespace) -> str:
    """Replace configuration items in a message by the options that the user typed."""
    for option, (section, item) in SHORT.items():
        if getattr(options, option, None) is not None:
            text = text.replace(f"{section}.{item}", f"--{option.replace('_', '-')}")
    return text


def _start(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.cluster import Cluster  # here, so that --help and status start quickly
    from concurrent_nb.nodes.common.descriptors import raise_limit  # here: --help and status start no node
    from concurrent_nb.nodes.launchers.place import parse_range  # here: with the cluster

    raise_limit()
    check_sections(items)
    connection_file.check_name(options.name)  # others find this cluster by its name
    if options.daemon:
        refuse_taken(options.name)  # first, because the log is named after the cluster
        return _in_background(options, options.name, is_start=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.set())
    config, log_format = _with_options(options, items), options.log_format
    launch = {"on": options.on, "slaves": options.slaves, "adapt": options.adapt and parse_range(options.adapt)}
    names = {"name": options.name, "log": options.log, "log_format": log_format}
    with Cluster(config=config, restart_master=True, **names, **launch) as cluster:
        while not stopped.is_set() and not cluster.wait_for_slave(0.2):
            if places := cluster.queued():
                print(f"slaves wait in a queue: {', '.join(sorted(set(places))[:5])}", flush=True)
                break
        if not stopped.is_set():
            _announce(options.name, cluster.connection_file)
        while not stopped.is_set() and not cluster.wait(0.2):
            continue
        if not stopped.is_set():
            cluster.raise_if_failed()
    print(f"cluster {options.name} has been stopped", flush=True)
    return 0


def _master(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.master.process import run_master  # here: only a master needs it

    check_sections(items, OF_MASTER)
    refuse_taken(options.name)
    if options.daemon:
        return _in_background(options, options.name)
    _refuse_log(options)
    run_master(_with_options(options, items), options.name, lambda info, path: _announce(info.name, path))
    return 0


def _announce(name: str, path: Path | None) -> None:
    print(f"{IS_RUNNING.format(name)}; connection file {path}", flush=True)
    _print_how_to_connect(name, path, "Ctrl-C or ")


def _print_how_to_connect(name: str, path: Path | None, or_with: str = "") -> None:
    """Print how to connect to a cluster, also from other hosts if it listens to them, and how to stop it."""
    print(
        f"connect with concurrent_nb.connect({name!r}); stop it with {or_with}`concurrent-nb stop {name}`", flush=True
    )
    if path is None or not _is_for_others(connection_file.read(path)):
        return
    print(
        "to use it from another host, copy the connection file there (it must be readable by its owner only):\n"
        f"    scp -p {path} HOST:\n"
        f"    ssh HOST concurrent-nb slave --connect ./{path.name}\n"
        f"    concurrent_nb.connect('./{path.name}')  # in Python; in a notebook: %concurrent connect ./{path.name}",
        flush=True,
    )


def _is_for_others(info: ConnectionFile) -> bool:
    """Return whether a master listens to other hosts than its own."""
    return any(not re.match(r"https?://(127\.|\[::1\]|localhost)", endpoint) for endpoint in info.endpoints)


def _refuse_log(options: argparse.Namespace) -> None:
    if options.log is not None:
        raise ConfigurationError("--log needs --daemon; without it the log is written to stderr: add `2> FILE`")


def _in_background(options: argparse.Namespace, name: str, *, is_start: bool = False) -> int:
    """Run the same command in the background; return when the node is ready."""
    log = daemon.log_path(name) if options.log is None else options.log.absolute()
    words = daemon.without(options.words, "--daemon", "--log")
    is_slave = options.command == "slave"
    mark = HAS_JOINED if is_slave else IS_RUNNING.format(name)
    # The nodes of `start` are processes of their own, which get the log file as an argument.
    process, line = daemon.start([*words, *(["--log", str(log)] if is_start else [])], log, lambda line: mark in line)
    print(f"{line}\nprocess id {process}, log file {log}", flush=True)
    if is_slave:
        print(f"it ends with its cluster; `kill {process}` stops it alone", flush=True)
    else:
        _print_how_to_connect(name, connection_file.path_of(name))
    return 0


def _slave(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.common.launch_lines import (  # here, for the same reason
        read_configuration_file,
        read_launch,
    )
    from concurrent_nb.nodes.slave.process import Source  # here: only a slave needs it

    check_sections(items, OF_SLAVE)
    configuration = None if options.config is None else read_configuration_file(options.config)
    source: Source = Path()
    if options.connect == "-":
        if options.daemon:
            raise ConfigurationError("--connect - reads standard input, which --daemon does not have: give a file")
        if (launch := read_launch(sys.stdin.fileno())) is None:
            return 0  # its starter has closed the other end: no slave is wanted
        info, configuration = launch
        source = info
    else:
        # Before any worker starts, because a wrong name is the most likely mistake.
        info = connection_file.read(options.connect)
        source = connection_file.path_of(options.connect)
    if options.daemon:
        if options.name and options.log is None:
            _refuse_taken_log(info, options.name)
        return _in_background(options, f"{info.name}-slave-{options.name or os.getpid()}")
    _refuse_log(options)
    return _run_slave(options, _with_options(options, items), info.name, source, configuration)


def _run_slave(
    options: argparse.Namespace,
    items: dict[str, dict[str, Any]],
    cluster: str,
    source: "Source",
    configuration: "SlaveConfiguration | None",
) -> int:
    """Run a slave until it ends; return the exit code, the reason for a launcher (which gives a `configuration`)."""
    from concurrent_nb.nodes.common.launch_lines import provide_initializer  # here: only a slave needs it
    from concurrent_nb.nodes.slave.process import run_slave  # here: only a slave needs it

    if configuration is not None:
        items = {**configuration.sections, **items}
        provide_initializer(configuration.initializer)

    def ready(name: str) -> None:
        print(f"slave {name} {HAS_JOINED} {cluster}", flush=True)

    lease = sys.stdin.fileno() if options.connect == "-" else None
    try:
        is_drained = run_slave(items, lambda: source, options.name, lease, ready)
    except (ConfigurationError, VersionMismatch, AccessRefused, InitializerFailed) as error:
        if configuration is None:
            raise
        print(f"concurrent-nb slave: {error}", file=sys.stderr)
        return NOT_INITIALIZED if isinstance(error, InitializerFailed) else REFUSED
    if is_drained:
        print(f"the slave has left cluster {cluster}, as it was asked to", flush=True)
        return DRAINED if configuration is not None else 0
    return 0


def _refuse_taken_log(info: ConnectionFile, name: str) -> None:
    """Raise ConfigurationError if a slave of this name runs, because its log would be overwritten."""
    with ControlClient(info.endpoints, next(iter(info.tokens.values())), info.certificate_pem) as control:
        slaves = control.call("status")["slaves"]
    if any(slave["name"] == name for slave in slaves):
        raise ConfigurationError(
            f"cluster {info.name} has a slave named {name!r} already, whose log would be overwritten: choose another"
            " --name, or another file with --log"
        )


def _status(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    if items:
        raise ConfigurationError(f"status takes no configuration items, but {', '.join(items)} was given")
    if options.name is None:
        if options.watch is not None:
            raise ConfigurationError("status --watch needs the name of a cluster")
        names = connection_file.names()
        if options.json:
            print(json.dumps({name: str(connection_file.default_path(name)) for name in names}))
        else:
            print("\n".join(names) if names else "no cluster is running: there is no connection file")
        return 0
    with control_of(options.name) as control:
        while True:
            status = control.call("status")
            # With --watch, JSON is one object per line.
            indent = None if options.watch else 2
            text = json.dumps(status, indent=indent) if options.json else "\n".join(describe(status))
            if options.watch is not None and not options.json and sys.stdout.isatty():
                text = ERASE + text
            print(text, flush=True)
            if options.watch is None:
                return 0
            time.sleep(options.watch)


def _stats(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    if items:
        raise ConfigurationError(f"stats takes no configuration items, but {', '.join(items)} was given")
    with control_of(options.name) as control:
        answer = control.call("stats")
        if options.job is not None:
            answer = control.call("stats", job=newest_job(answer, options.job), sample=True)
    print(json.dumps(answer, indent=2) if options.json else statistics_text(answer))
    return 0


def _dashboard(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.cli.dashboard import show_dashboard  # here: only this command needs it

    if items:
        raise ConfigurationError(f"dashboard takes no configuration items, but {', '.join(items)} was given")
    show_dashboard(connection_file.read(options.name), opens=not options.no_open)
    return 0


def _stop(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    if items:
        raise ConfigurationError(f"stop takes no configuration items, but {', '.join(items)} was given")
    with control_of(options.name) as control:
        control.call("stop_cluster")
    print(f"cluster {options.name} is stopping")
    return 0


def _restart(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.common.restarts import restart_workers  # here: only this command needs it

    if items:
        raise ConfigurationError(f"restart takes no configuration items, but {', '.join(items)} was given")
    if options.slave is not None:
        return _restart_slave(options)
    seen: list[int] = []

    def print_progress(left: int, total: int) -> None:
        if seen[-1:] != [left]:
            seen.append(left)
            print(f"{total - left} of {total} workers are replaced", flush=True)

    try:
        done = restart_workers(connection_file.read(options.name), now=options.now, on_progress=print_progress)
    except KeyboardInterrupt:
        print("stopped waiting; the other workers are replaced when their tasks have ended", flush=True)
        raise
    print(f"{done.workers} worker{'s' * (done.workers != 1)} replaced in {done.elapsed_s:.1f} s")
    return 0


def _restart_slave(options: argparse.Namespace) -> int:
    if options.now:
        raise ConfigurationError("--now is for all workers: a slave that is replaced always ends its running tasks")
    with control_of(options.name) as control:
        answer = control.call("restart_slave", slave=options.slave)
    tasks, workers = answer["tasks"], answer["workers"]
    print(
        f"another slave with {workers:,} worker{'s' * (workers != 1)} starts; slave {shown(options.slave)} leaves when"
        f" its running tasks have ended, it has {tasks:,} task{'s' * (tasks != 1)} now"
    )
    return 0


def _kernel(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.common.kernel_file import attach_command, open_kernel  # here: only this command needs it

    if items:
        raise ConfigurationError(f"kernel takes no configuration items, but {', '.join(items)} was given")
    path, _ = open_kernel(connection_file.read(options.connect), options.slave)
    print(f"opened a kernel in slave {options.slave}; its connection file is {path}\n{attach_command(path)}")
    return 0


def _run(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.cli.run import run  # here: it imports the samples and the application

    return run(options.name, options.arguments)


if __name__ == "__main__":
    sys.exit(main())
