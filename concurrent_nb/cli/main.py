"""`concurrent-nb master | slave | start | status | kernel | run | restart | stop`: clusters from a shell.

What a node can be configured to is the same here, in `concurrent_nb_config.py` and in `Cluster(config=...)`:
`--SlaveNode.workers=8` says on the command line what `c.SlaveNode.workers = 8` says in the file.
"""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from concurrent_nb import __version__
from concurrent_nb.cli.options import read_items, whole_number
from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.taken_names import refuse_taken

EPILOG: Final = """\
Any item of configuration can be given as --Class.item=value, for example --MasterNode.strategy=PushBest or
--SlaveNode.patience_s=10; concurrent_nb_config.py in Jupyter's configuration folder says the same for every node.

  concurrent-nb start --workers 2 --name demo     a cluster on this machine, until Ctrl-C or `concurrent-nb stop demo`
  concurrent-nb start --name lab --host 0.0.0.0   ... that slaves and users on other machines can join
  concurrent-nb slave --connect demo              one more slave; on another host, name a copy of the connection file
  concurrent-nb status demo                       what is there and what it does
  concurrent-nb kernel --connect demo SLAVE       look into a slave with any Jupyter client
  concurrent-nb run mandelbrot --factor 8         run a sample, here on a cluster that is started for it
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code (0 success, 1 refused or failed, 2 wrong usage)."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        items = read_items(rest)
    except ConfigurationError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return int(options.run(options, items))
    except ConcurrentError as error:
        print(f"concurrent-nb {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
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

    start = command("start", _start, "Start a master and a slave on this machine; stay until they are stopped.")
    master = command("master", _master, "Start a master alone; stay until it is stopped.")
    for each in (start, master):
        each.add_argument("--name", default="default", help="name of the cluster (default: %(default)s)")
        each.add_argument("--host", action="append", help="IP address to listen on, may be repeated (127.0.0.1)")
        each.add_argument("--port", type=whole_number(0), help="port of the control channel (a free one)")
    slave = command("slave", _slave, "Start a slave and join a cluster; stay until the cluster is stopped.")
    slave.add_argument("--connect", default="default", metavar="NAME_OR_FILE", help="cluster to join (%(default)s)")
    slave.add_argument("--name", default="", help="what the slave would like to be called (host and process id)")
    for each in (start, slave):
        each.add_argument("--workers", type=whole_number(1), help="worker processes (one for each core)")
        each.add_argument(
            "--max-tasks-per-worker", type=whole_number(1), metavar="N", help="replace a worker after N tasks (never)"
        )
    status = command("status", _status, "Tell what a cluster has and does; without a name, which clusters there are.")
    status.add_argument("name", nargs="?", help="name of the cluster, or path of its connection file")
    kernel = command("kernel", _kernel, "Have a slave be a Jupyter kernel, and say how to attach to it.")
    kernel.add_argument("slave", help="name of the slave, as `status` tells it")
    kernel.add_argument("--connect", default="default", metavar="NAME_OR_FILE", help="its cluster (%(default)s)")
    samples = command("run", _run, "Run a sample on a cluster; without a name, tell which samples there are.")
    samples.add_argument("name", nargs="?", help="name of the sample")
    samples.add_argument("arguments", nargs=argparse.REMAINDER, help="its options: see `concurrent-nb run NAME --help`")
    restart = command("restart", _restart, "Replace all worker processes of a cluster by fresh ones.")
    restart.add_argument("name", nargs="?", default="default", help="name or connection file (%(default)s)")
    restart.add_argument("--now", action="store_true", help="stop what runs, which runs again; else it ends first")
    stop = command("stop", _stop, "Stop a cluster: its master, its slaves, everything that runs on them.")
    stop.add_argument("name", nargs="?", default="default", help="name or connection file (%(default)s)")
    return parser


def _with_options(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add what short options say to the items of configuration."""
    short = {"host": ("MasterNode", "addresses"), "port": ("MasterNode", "control_port")}
    short["workers"] = ("SlaveNode", "workers")
    short["max_tasks_per_worker"] = ("SlaveNode", "max_tasks_per_worker")
    for option, (section, item) in short.items():
        value = getattr(options, option, None)
        if value is not None:
            items.setdefault(section, {})[item] = value
    return items


def _start(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.local import Cluster  # here, so that --help and status need not import everything

    connection_file.check_name(options.name)  # a cluster need not have a name, but this one is looked for by its own
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.set())
    with Cluster(name=options.name, config=_with_options(options, items)) as cluster:
        _announce(options.name, cluster.connection_file)
        while not stopped.is_set() and not cluster.wait(0.2):
            continue
    print(f"cluster {options.name} has been stopped", flush=True)
    return 0


def _master(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.master import run_master

    refuse_taken(options.name)
    run_master(_with_options(options, items), options.name, lambda info, path: _announce(info.name, path))
    return 0


def _announce(name: str, path: Path | None) -> None:
    print(f"cluster {name} is running; connection file {path}", flush=True)
    print(
        f"connect with concurrent_nb.connect({name!r}); end it with Ctrl-C or `concurrent-nb stop {name}`", flush=True
    )


def _slave(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.slave import run_slave

    info = connection_file.read(options.connect)  # before any worker starts: the most likely mistake
    path = connection_file.path_of(options.connect)

    def ready(name: str) -> None:
        print(f"slave {name} has joined cluster {info.name}", flush=True)

    run_slave(_with_options(options, items), lambda: path, options.name, ready=ready)
    return 0


def _status(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    if items:
        raise ConfigurationError(f"status takes no configuration, but {', '.join(items)} was given")
    if options.name is None:
        names = connection_file.names()
        print("\n".join(names) if names else "no cluster has a connection file here")
        return 0
    with _control(options.name) as control:
        told = control.call("status")
    tasks = told["tasks"]
    print(f"cluster {told['name']}: {tasks['jobs']} jobs, {tasks['waiting']} tasks wait, {tasks['assigned']} assigned")
    for slave in told["slaves"]:
        print(
            f"  slave {slave['name']}: {slave['state']}, {slave['slots']} workers, "
            f"{slave['in_flight']} tasks in flight, {slave['done']} done"
        )
    for client in told["clients"]:
        print(f"  application {client['name']}: {client['done']} tasks answered")
    return 0


def _stop(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    if items:
        raise ConfigurationError(f"stop takes no configuration, but {', '.join(items)} was given")
    with _control(options.name) as control:
        control.call("stop_cluster")
    print(f"cluster {options.name} is stopping")
    return 0


def _restart(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.restarts import restart_workers

    if items:
        raise ConfigurationError(f"restart takes no configuration, but {', '.join(items)} was given")
    seen: list[int] = []

    def told(left: int, total: int) -> None:
        if seen[-1:] != [left]:
            seen.append(left)
            print(f"{total - left} of {total} workers are fresh", flush=True)

    try:
        done = restart_workers(connection_file.read(options.name), now=options.now, told=told)
    except KeyboardInterrupt:
        print("not waiting any more; the other workers are replaced when what they run has ended", flush=True)
        raise
    print(f"{done.workers} fresh workers after {done.elapsed_s:.1f} s")
    return 0


def _kernel(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.nodes.kernels import open_kernel

    if items:
        raise ConfigurationError(f"kernel takes no configuration, but {', '.join(items)} was given")
    path, _ = open_kernel(connection_file.read(options.connect), options.slave)
    print(f"slave {options.slave} is a kernel; its connection file is {path}\njupyter console --existing {path.name}")
    return 0


def _run(options: argparse.Namespace, items: dict[str, dict[str, Any]]) -> int:
    from concurrent_nb.cli.run import run

    return run(options.name, options.arguments)


def _control(name: str) -> ControlClient:
    info = connection_file.read(name)
    token = info.tokens.get("admin") or next(iter(info.tokens.values()))
    return ControlClient(info.endpoints, token, info.certificate_pem)


if __name__ == "__main__":
    sys.exit(main())
