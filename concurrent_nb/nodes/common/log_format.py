"""How nodes write their logs: lines of text, or one JSON object per line.

A record has the ids of what it is about in `extra`: `log.warning("...", extra={"slave": name})`. In JSON they are
members of the object.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal, get_args

LogFormat = Literal["text", "json"]
LOG_FORMATS: Final[tuple[LogFormat, ...]] = get_args(LogFormat)

#: the parent of all loggers of this package, whose level `set_log_level` sets
PACKAGE_LOGGER: Final = "concurrent_nb"
#: what a record may be about: members of its JSON object, if it has them
ABOUT: Final = ("task", "job", "slave", "client", "worker")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, logger, node, message, and the ids that it has.

    >>> record = logging.LogRecord("concurrent_nb.demo", logging.WARNING, "", 0, "%d tasks", (3,), None)
    >>> json.loads(JsonFormatter("slave").format(record))["message"]
    '3 tasks'
    """

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = node
        self.slave = ""  #: name of the slave that this process is

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": at, "level": record.levelname, "logger": record.name}
        if self._node:
            line["node"] = self._node
        line["message"] = record.getMessage()
        if self.slave:
            line["slave"] = self.slave
        line |= {name: str(vars(record)[name]) for name in ABOUT if vars(record).get(name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False)


class _JsonHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it has no type argument at run time
    """Writes JSON to standard error. A class of its own, as tasks take over the format of plain handlers."""


def write_logs(log_format: LogFormat, node: str = "") -> None:
    """Write this process's warnings and errors to standard error; `node` is named in each line, unless it is ""."""
    if log_format == "json":
        handler: logging.Handler = _JsonHandler()
        handler.setFormatter(JsonFormatter(node))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        return
    named = f"{node} " if node else ""
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s {named}%(levelname)s %(name)s: %(message)s")


def name_slave(name: str) -> None:
    """Put the name of the slave that this process is into each line of its log, if that is JSON."""
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.slave = name
