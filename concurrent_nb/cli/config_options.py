"""Read the values of a command line: whole numbers with limits, seconds, and --Class.item=value."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from concurrent_nb.components.config import read_value
from concurrent_nb.errors import ConfigurationError

_ITEM = re.compile(r"--([A-Za-z_]\w*)\.([A-Za-z_]\w*)=(.*)", re.DOTALL)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be from 0.1 to 86400 seconds")
    return value


def read_items(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """Read configuration items, --Class.item=value. Raises ConfigurationError for any other argument."""
    items: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        match = _ITEM.fullmatch(argument)
        if match is None:
            raise ConfigurationError(
                f"unknown option {argument!r}: see --help; configuration items are set as --Class.item=value"
            )
        section, item, text = match.groups()
        items.setdefault(section, {})[item] = read_value(text)
    return items
