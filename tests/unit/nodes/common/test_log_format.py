"""Logs as JSON: one object per line, whatever is logged."""

import json
import logging
import sys
from datetime import datetime
from typing import Any

import pytest

from concurrent_nb.nodes.common.log_format import JsonFormatter, name_slave, write_logs
from concurrent_nb.rate_limited_log import RateLimitedLog


def formatted(message: str, *args: object, node: str = "master", **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("concurrent_nb.demo", logging.WARNING, __file__, 1, message, args, None)
    vars(record).update(more)
    line = JsonFormatter(node).format(record)
    assert "\n" not in line
    told: dict[str, Any] = json.loads(line)
    return told


def test_a_line_is_an_object_with_its_time() -> None:
    told = formatted("%d tasks of %s", 3, "east", slave="east", task="ab/3", job="ab")
    assert datetime.fromisoformat(told.pop("time")).tzinfo is not None
    assert told == {
        "level": "WARNING",
        "logger": "concurrent_nb.demo",
        "node": "master",
        "message": "3 tasks of east",
        "slave": "east",
        "task": "ab/3",
        "job": "ab",
    }
    assert "node" not in formatted("x", node="")


def test_a_slave_is_named_in_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.NullHandler()
    handler.setFormatter(JsonFormatter("slave"))
    monkeypatch.setattr(logging.root, "handlers", [handler, logging.NullHandler()])
    name_slave("east")
    assert handler.formatter is not None
    record = logging.LogRecord("concurrent_nb.demo", logging.WARNING, __file__, 1, "x", (), None)
    assert json.loads(handler.formatter.format(record))["slave"] == "east"


@pytest.mark.parametrize("message", ['a "quoted"\nline\r\n', "\x1b[31m\u202e", "\ud800", "{}%"])
def test_any_message_is_one_line(message: str) -> None:
    assert formatted("%s", message)["message"] == message


def test_an_exception_is_a_member() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        told = formatted("failed", exc_info=sys.exc_info())
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("two\nlines")


def test_the_ids_of_a_peer_are_in_the_record(caplog: pytest.LogCaptureFixture) -> None:
    limited = RateLimitedLog(logging.getLogger("concurrent_nb.demo"))
    limited.warning("east", 0.0, "slave %r has gone", "east", ids={"slave": "east"})
    limited.warning("west", 0.0, "%s", "no ids")
    (with_ids, without) = caplog.records
    assert vars(with_ids)["slave"] == "east"
    assert json.loads(JsonFormatter().format(with_ids))["slave"] == "east"
    assert "slave" not in vars(without)


@pytest.mark.parametrize(("log_format", "begins"), [("json", '{"time": "20'), ("text", "20")])
def test_logs_are_written_in_the_format_that_was_chosen(
    log_format: Any, begins: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    write_logs(log_format, "slave")
    logging.getLogger("concurrent_nb.demo").warning("it works")
    line = capsys.readouterr().err
    assert line.startswith(begins)
    assert "slave" in line
    assert "it works" in line
