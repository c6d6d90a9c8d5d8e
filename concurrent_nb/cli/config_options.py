"""Read what is written on a command line: whole numbers with bounds, and --Class.item=value."""

import argparse
import re
from ast import literal_eval
from collections.abc import Callable
from typing import Any

from concurrent_nb.errors import ConfigurationError

_ITEM = re.compile(r"--([A-Za-z_]\w*)\.([A-Za-z_]\w*)=(.*)", re.DOTALL)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Give a reader of whole numbers of at least `least`, and at most `most`, for argparse."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small, it must be at least {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is too large, it must be at most {most}")
        return value

    return read


def seconds(text: str) -> float:
    """Read a time in seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait: between 0.1 and 86400 seconds")
    return value


def read_items(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """Read items of configuration. Values are Python literals, or else text. Raises ConfigurationError for others."""
    items: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        match = _ITEM.fullmatch(argument)
        if match is None:
            raise ConfigurationError(f"unknown option {argument!r}: options are those of --help, or --Class.item=value")
        section, item, text = match.groups()
        items.setdefault(section, {})[item] = read_value(text)
    return items


def read_value(text: str) -> Any:
    """Read the value of an item: a Python literal, or else text."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
