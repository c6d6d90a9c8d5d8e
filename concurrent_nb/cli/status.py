"""Write the status of a cluster as text: `concurrent-nb status NAME`."""

from typing import Any, Final

from concurrent_nb.cli.table import shown
from concurrent_nb.shipping.serialization.sizes import format_bytes
from concurrent_nb.telemetry.detached_text import detached_line
from concurrent_nb.telemetry.graph_text import graph_line

#: units of a time span, the largest first, with their lengths in seconds
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def describe(status: dict[str, Any]) -> list[str]:
    """Return lines for the master, and each slave, application, job and suspect task in the master's `status`."""
    slaves, tasks = status["slaves"], status["tasks"]
    workers = sum(slave["slots"] for slave in slaves)
    busy = sum(slave["busy"] for slave in slaves)
    lines = [
        f"cluster {status['name']}: {_count(len(slaves), 'slave')}, {_count(workers, 'worker')}, {busy} busy; "
        f"{_count(tasks['waiting'], 'task')} {'waits' if tasks['waiting'] == 1 else 'wait'}"
        + (f", {_count(tasks['blocked'], 'task')} for results of others" if tasks.get("blocked") else ""),
        f"  master on {status['host']}: process {status['pid']}, up {write_span(status['uptime_s'])}",
    ]
    lines += map(_slave, slaves)
    lines += map(describe_launched, status.get("launched", []))
    lines += [
        f"  application {client['name']}{_on(client)}: {_count(client['done'], 'task')} answered, "
        f"here for {write_span(client['uptime_s'])}"
        for client in status["clients"]
    ]
    if status.get("more_clients"):
        lines.append(f"  and {_count(status['more_clients'], 'application')} more")
    lines += [_job(job) for job in status["jobs"] if job["state"] != "idle"]
    if "detached" in status:
        lines.append(f"  {detached_line(status['detached'])}")
    lines += [f"  graph{_of(graph['client'])}: {graph_line(graph)}" for graph in status.get("graphs", ())]
    for suspect in status["suspects"]:
        lines += _suspect(suspect)
    if status.get("more_jobs"):
        lines.append(f"  and {_count(status['more_jobs'], 'job')} more")
    if status["other_jobs"]:
        lines.append(f"  {_count(status['other_jobs'], 'job')} of others")
    return lines


def write_span(seconds: float) -> str:
    """Write a time span in its two largest units.

    >>> write_span(4300)
    '1 h 11 min'
    """
    left = int(seconds)
    parts: list[str] = []
    for unit, length in _UNITS:
        if left >= length or (parts and left):
            parts.append(f"{left // length} {unit}")
            left %= length
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def _slave(slave: dict[str, Any]) -> str:
    cores = f", {_count(slave['cores'], 'core')}" if slave["cores"] else ""
    queued = max(0, slave["in_flight"] - slave["busy"])
    parts = [
        slave["state"],
        _count(slave["slots"], "worker"),
        f"{slave['busy']} busy" + (f" and {_count(queued, 'task')} next" if queued else ""),
        f"{slave['done']} done",
    ]
    if slave["load"] is not None:
        parts.append(f"load {slave['load']:.1f}")
    if slave["memory_total_bytes"]:
        used, total = slave["memory_used_bytes"], slave["memory_total_bytes"]
        parts.append(f"memory {format_bytes(used)} of {format_bytes(total)}")
    parts.append(f"up {write_span(slave['uptime_s'])}")
    place = f" ({shown(slave['place'])})" if slave.get("place") else ""
    return f"  slave {slave['name']}{_on(slave)}{place}{cores}: {', '.join(parts)}"


def describe_launched(slave: dict[str, str]) -> str:
    """Return a line for a slave that a launcher has started and that has not joined."""
    reason = f": {shown(slave['reason'])}" if slave["reason"] else ""
    return f"  slave {slave['name']} ({shown(slave['place'])}): {slave['state']}, has not joined{reason}"


def _job(job: dict[str, Any]) -> str:
    untaken = job["untaken_bytes"]
    whose = f"of {job['client']}" if job["client"] else "whose owner is disconnected"
    return (
        f"  job {shown(job['name']) or 'without a name'} ({job['id'][:8]}) {whose}: {job['state']}, {job['done']} of "
        f"{_count(job['tasks'], 'task')} done, {write_span(job['age_s'])} old"
        + (f"; keeps {_count(job['kept'], 'result')} of {format_bytes(job['kept_bytes'])}" if job.get("kept") else "")
        + (f"; waits until its owner has received {format_bytes(untaken)} of results" if untaken else "")
    )


def _suspect(suspect: dict[str, Any]) -> list[str]:
    deaths = suspect["deaths"]
    times = _count(len(deaths), "time")
    lines = [f"  task {suspect['task']} {suspect['state']}; its worker or its slave died {times}:"]
    return lines + [f"    {number}. {shown(how)}" for number, how in enumerate(deaths, 1)]


def _of(client: str | None) -> str:
    return f" of {client}" if client else ""


def _on(node: dict[str, Any]) -> str:
    return f" on {node['host']}" if node["host"] else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
