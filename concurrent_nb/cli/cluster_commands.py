"""The commands that inspect and steer a running cluster: slaves, jobs, stack, cancel, drain, scale, trace, config, top.

Each prints a table or a line for people, or JSON for programs with --json.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from concurrent_nb.cli.cluster_tables import config_table, job_table, slave_table, write_value
from concurrent_nb.cli.config_options import seconds, whole_number
from concurrent_nb.cli.control import control_of
from concurrent_nb.cli.table import shown, style_of
from concurrent_nb.cli.top import Reading, rates_between, top_lines
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.common.trace_file import write_trace
from concurrent_nb.nodes.launchers.place import parse_range
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.wire.messages import LogLevel

#: escape sequences that move to the top of the terminal and erase it
ERASE: Final = "\x1b[H\x1b[J"
#: seconds between two questions whether a slave has left
_POLL_S: Final = 0.1

#: configuration items that were given as --Class.item=value
Items = dict[str, dict[str, Any]]
#: adds a command: its name, what runs it, and a sentence about it
AddCommand = Callable[[str, Callable[[argparse.Namespace, Items], int], str], argparse.ArgumentParser]


def add_commands(command: AddCommand) -> None:
    """Add the commands of this module to the command line."""
    slaves = command("slaves", _slaves, "List the slaves of a cluster.")
    jobs = command("jobs", _jobs, "List the jobs of a cluster.")
    jobs.add_argument("--all", action="store_true", help="also jobs that have no task now")
    stack = command("stack", _stack, "Show what a running task is doing: its stack. The task goes on.")
    cancel = command("cancel", _cancel, "Cancel a job, or one task of it. Running tasks are stopped.")
    drain = command(
        "drain", _drain, "Have a slave leave: it gets no more tasks, and ends when its running tasks have ended."
    )
    scale = command(
        "scale",
        _scale,
        "Change the number of workers of the slaves that the cluster has started itself. Running tasks of workers that"
        " leave end first.",
    )
    trace = command(
        "trace", _trace, "Write when and where the last tasks ran to a file that https://ui.perfetto.dev opens."
    )
    config = command(
        "config",
        _config,
        "Show the settings of a running master, or change some: --MasterNode.strategy=push_best. A change holds until"
        " the master ends.",
    )
    top = command("top", _top, "Show slaves and jobs with rates, again and again until Ctrl-C.")
    for each in (stack, cancel, drain, scale):
        each.add_argument("name", help="name of the cluster, or its connection file")
    for each in (slaves, jobs, trace, config, top):
        each.add_argument(
            "name",
            nargs="?",
            default="default",
            help="name of the cluster, or its connection file (default: %(default)s)",
        )
    for each in (stack, cancel):
        each.add_argument("job", help="name of the job, or the beginning of its id, as `concurrent-nb jobs` lists it")
    stack.add_argument("index", type=whole_number(0), help="index of the task in its job, from 0")
    cancel.add_argument("--task", type=whole_number(0), metavar="INDEX", help="only this task of the job")
    drain.add_argument("slave", help="name of the slave, as `concurrent-nb slaves` lists it")
    drain.add_argument("--wait", action="store_true", help="return only when the slave has left")
    scale.add_argument("workers", nargs="?", type=whole_number(1, 1000), metavar="N", help="number of workers")
    scale.add_argument(
        "--slaves", type=whole_number(1, 1000), metavar="N", help="number of slaves, for a cluster that has a launcher"
    )
    scale.add_argument(
        "--adapt", metavar="MIN:MAX", help="have the number of slaves of a launcher follow the queue, from MIN to MAX"
    )
    trace.add_argument("--job", metavar="JOB", help="only this job: its name, or the beginning of its id")
    trace.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: trace-NAME.json in this folder)"
    )
    config.add_argument("item", nargs="?", help="show only this one, with its help: MasterNode.strategy, for example")
    config.add_argument(
        "--log-level", choices=get_args(LogLevel), metavar="LEVEL", help="have master and slaves log from this level on"
    )
    top.add_argument(
        "--interval", type=seconds, default=2.0, metavar="SECONDS", help="seconds between two updates (default: 2)"
    )
    for each in (slaves, jobs, stack, cancel, drain, scale, trace, config, top):
        each.add_argument("--json", action="store_true", help="print JSON")


def _slaves(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        slaves = control.call("status")["slaves"]
    if options.json:
        print(json.dumps(slaves, indent=2))
    else:
        _print(slave_table(slaves, style_of(sys.stdout)) if slaves else ["no slave has joined"])
    return 0


def _jobs(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        status = control.call("status")
    jobs = [job for job in status["jobs"] if options.all or job["state"] != "idle"]
    if options.json:
        print(json.dumps(jobs, indent=2))
        return 0
    lines = job_table(jobs, style_of(sys.stdout)) if jobs else ["no job has tasks"]
    for others, what in ((status["more_jobs"], "more"), (status["other_jobs"], "of others")):
        if others:
            lines.append(f"and {others:,} job{'s' * (others != 1)} {what}")
    _print(lines)
    return 0


def _stack(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        job = find_job(control.call("status")["jobs"], options.job)
        sample = control.call("stack_sample", job=job["id"], index=options.index)
    if options.json:
        print(json.dumps({"job": job["id"], "index": options.index, **sample}))
        return 0
    where = f"worker {sample['worker']} of slave {shown(sample['slave'])}"
    print(f"task {options.index} of job {_label(job)} has run for {sample['seconds']:.1f} s in {where}")
    _print([shown(line) for line in sample["stack"].split("\n")])
    return 0


def _cancel(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        job = find_job(control.call("status")["jobs"], options.job)
        if options.task is None:
            count = control.call("cancel_job", job=job["id"])
        else:
            count = control.call("cancel_task", job=job["id"], index=options.task)
    if options.json:
        print(json.dumps({"job": job["id"], "cancelled": count}))
    else:
        tasks = f"{count:,} task{'s' * (count != 1)}" if options.task is None else f"task {options.task}"
        print(f"cancelling {tasks} of job {_label(job)}")
    return 0


def _drain(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        tasks = control.call("drain_slave", slave=options.slave)
        if not options.json:
            print(f"slave {shown(options.slave)} leaves when its running tasks have ended; it has {tasks:,} now")
        while options.wait and any(slave["name"] == options.slave for slave in control.call("status")["slaves"]):
            time.sleep(_POLL_S)
    if options.json:
        print(json.dumps({"slave": options.slave, "tasks": tasks}))
    elif options.wait:
        print(f"slave {shown(options.slave)} has left")
    return 0


def _scale(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    given = [each for each in (options.workers, options.slaves, options.adapt) if each is not None]
    if len(given) != 1:
        raise ConfigurationError("scale needs one of these: a number of workers, --slaves N or --adapt MIN:MAX")
    with control_of(options.name) as control:
        if options.adapt is not None:
            least, most = parse_range(options.adapt)
            answer = control.call("adapt", least=least, most=most)
            line = f"from {least:,} to {most:,} slaves from now on, as the queue needs"
        elif options.slaves is not None:
            answer = control.call("scale", slaves=options.slaves)
            line = scaled_line(answer, "slave")
        else:
            answer = control.call("scale", workers=options.workers)
            line = scaled_line(answer)
    print(json.dumps(answer) if options.json else line)
    return 0


def scaled_line(answer: Mapping[str, Any], what: str = "worker") -> str:
    """Return the master's answer to `scale` as a line for people."""
    asked, before = answer["asked"], answer["before"]
    if asked == before:
        return f"there are {asked:,} {what}{'s' * (asked != 1)} already"
    how = "come" if asked > before else "leave when their running tasks have ended"
    return f"{asked:,} {what}{'s' * (asked != 1)} from now on, after {before:,}: {abs(asked - before):,} {how}"


def _trace(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    with control_of(options.name) as control:
        job = ""
        if options.job is not None:
            is_whole = len(options.job) == 32 and set(options.job) <= set("0123456789abcdef")
            job = options.job if is_whole else find_job(_traced_jobs(control), options.job)["id"]
        cluster = Path(options.name).stem.removeprefix("concurrent_nb-")
        path = options.output or Path(f"trace-{cluster}.json")
        summary = write_trace(path, lambda since: control.call("trace", job=job, since=since))
    if options.json:
        facts = {"tasks": summary.tasks, "slaves": summary.slaves, "dropped": summary.dropped}
        print(json.dumps({"file": str(summary.path), **facts, "arrows": summary.arrows}))
    else:
        print(summary)
    return 0


def _traced_jobs(control: ControlClient) -> list[dict[str, Any]]:
    """Return the jobs that the master has, and those that are over and have tasks in its log."""
    jobs = {job["id"]: job for job in control.call("status")["jobs"]}
    since: int | None = 0
    while since is not None:
        page = control.call("trace", since=since)
        for job, label in page["jobs"].items():
            jobs.setdefault(job, {"id": job, "name": label["name"], "state": "ended"})
        since = page["next"]
    return list(jobs.values())


def _config(options: argparse.Namespace, items: Items) -> int:
    if items and options.item is not None:
        raise ConfigurationError(f"give either {options.item}, to show it, or new values, to change them")
    with control_of(options.name) as control:
        changed: dict[str, Any] = {}
        if options.log_level is not None:
            count = control.call("set_log_level", level=options.log_level)
            if not options.json:
                print(f"the master and {count} slave{'s' * (count != 1)} log from level {options.log_level} on")
        for section, values in items.items():
            for name, value in values.items():
                item = f"{section}.{name}"
                changed[item] = control.call("set_config", item=item, value=value)
                if not options.json:
                    print(f"{item} is {write_value(changed[item])} until the master ends")
        if changed or (options.log_level is not None and options.item is None):
            if options.json:
                print(json.dumps(changed))
            return 0
        settings = control.call("config")
    if options.item is not None:
        if options.item not in settings:
            if options.item.partition("=")[0] in settings:
                raise ConfigurationError(f"to change a setting, give it as an option: --{options.item}")
            raise ConfigurationError(f"there is no setting {options.item!r}: the settings are {', '.join(settings)}")
        settings = {options.item: settings[options.item]}
    if options.json:
        print(json.dumps(settings, indent=2))
    elif options.item is not None:
        _print(_describe_item(options.item, settings[options.item]))
    else:
        _print(config_table(settings, style_of(sys.stdout)))
    return 0


def _describe_item(name: str, item: Mapping[str, Any]) -> list[str]:
    may = "it may change while the master runs" if item["hot"] else "it may not change while the master runs"
    lines = [f"{name} = {write_value(item['value'])}", f"  {item['help']}"]
    lines.append(f"  default: {write_value(item['default'])}; {may}{': ' if item['note'] else ''}{item['note']}")
    return lines


def _top(options: argparse.Namespace, items: Items) -> int:
    _refuse_items(options, items)
    before: Reading | None = None
    with control_of(options.name) as control:
        while True:
            status, totals = control.call("status"), control.call("totals")
            reading = Reading(time.monotonic(), status, totals)
            rates = rates_between(before, reading)
            if options.json:
                print(json.dumps({"rates": rates.as_json(), "totals": totals, "status": status}), flush=True)
            else:
                style = style_of(sys.stdout)
                erase = ERASE if style.width is not None else ""
                print(erase + "\n".join(top_lines(reading, rates, style)), flush=True)
            before = reading
            time.sleep(options.interval)


def find_job(jobs: Sequence[Mapping[str, Any]], which: str) -> Mapping[str, Any]:
    """Return the job with this name, or the beginning of this id. Raises ConfigurationError for none, and for several.

    Of several jobs of one name, those that have tasks count.
    """
    found = [job for job in jobs if job["id"] == which]
    found = found or [job for job in jobs if which and (job["name"] == which or job["id"].startswith(which))]
    found = [job for job in found if job["state"] != "idle"] or found
    if not found:
        raise ConfigurationError(f"there is no job {shown(which)!r}: `concurrent-nb jobs` lists the jobs")
    if len(found) > 1:
        several = ", ".join(_label(job) for job in found[:5])
        raise ConfigurationError(f"{len(found)} jobs fit {shown(which)!r} ({several}): give more of the id")
    return found[0]


def _label(job: Mapping[str, Any]) -> str:
    return f"{shown(job['name'])} ({job['id'][:8]})" if job["name"] else str(job["id"][:8])


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines))


def _refuse_items(options: argparse.Namespace, items: Items) -> None:
    if items:
        raise ConfigurationError(f"{options.command} takes no configuration items, but {', '.join(items)} was given")
