"""Write a trace to a file: for jobs, applications, the magics and the command line."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.telemetry.trace_format import ARROWS_MAX, TraceEvents

#: asks the master for a page of the task log, from a number on
ReadPage = Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a trace file has. `str` is a line for people."""

    path: Path
    tasks: int  #: tasks that have ended
    slaves: int  #: on which they ran
    dropped: int  #: tasks that have ended too long ago, so that the master does not have their times any more
    arrows: int  #: tasks with an arrow from their job to their worker and back

    def __str__(self) -> str:
        if not self.tasks:
            text = f"wrote {self.path}, which has no task: none has ended yet"
        else:
            on = f" on {self.slaves:,} slave{'s' * (self.slaves != 1)}" if self.slaves else ""
            text = f"wrote {self.tasks:,} task{'s' * (self.tasks != 1)}{on} to {self.path}"
        if self.dropped:
            text += f"; {self.dropped:,} that ended earlier are not in the master's log any more"
        if self.arrows >= ARROWS_MAX:
            text += f"; the first {self.arrows:,} have arrows"
        return f"{text}. Open it in https://ui.perfetto.dev or chrome://tracing"


def write_trace(path: Path | str, read_page: ReadPage) -> TraceSummary:
    """Write the tasks of all pages to a file in Chrome's trace event format, page by page.

    The file appears when it is whole. Raises ConfigurationError if it cannot be written, and what `read_page` raises.
    """
    path = Path(path)
    try:
        place = path.resolve()
        if place.exists() and not place.is_file():  # a pipe, for example
            with open(place, "w", encoding="utf-8") as file:
                return _write(file, path, read_page)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with open(part, "w", encoding="utf-8") as file:
                summary = _write(file, path, read_page)
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
    except ConcurrentError:  # some are OSErrors
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None
    return summary


def _write(file: TextIO, path: Path, read_page: ReadPage) -> TraceSummary:
    first = read_page(0)
    events = TraceEvents(first["name"], first["host"], first["pid"])
    dropped = 0
    file.write('{"displayTimeUnit": "ms", "traceEvents": [')
    separator = "\n"
    for page in _pages(first, read_page):
        dropped = page["dropped"]
        for event in chain(events.add(page), events.close() if page["next"] is None else ()):
            file.write(f"{separator}{json.dumps(event, separators=(',', ':'))}")
            separator = ",\n"
    summary = TraceSummary(path, events.tasks, events.slaves, dropped, events.arrows)
    other = {"cluster": first["name"], "tasks": summary.tasks, "dropped": dropped, "arrows": summary.arrows}
    if events.graph:
        other["graph"] = events.graph
    file.write(f'\n], "otherData": {json.dumps(other)}}}\n')
    return summary


def _pages(page: Mapping[str, Any], read_page: ReadPage) -> Iterator[Mapping[str, Any]]:
    yield page
    while (following := page["next"]) is not None:
        page = read_page(following)
        yield page
