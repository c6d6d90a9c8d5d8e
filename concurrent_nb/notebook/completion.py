"""Completion of the magics' options, as TAB asks for it.

Registered by `extension` for each magic. Knows nothing but the parsers.
"""

import argparse
from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

Completer = Callable[[Any, Any], list[str]]


def complete_options(shell: InteractiveShell, name: str, magic: Any) -> None:
    """Let TAB complete the options of a magic, and their values where there are a few.

    Args:
        name: with its percent signs.
        magic: a function that is `documented`.
    """
    parser: argparse.ArgumentParser = magic.parser

    def completer(_: Any, event: Any) -> list[str]:
        return candidates(parser, str(event.line), str(event.symbol))

    shell.set_hook("complete_command", completer, str_key=name)  # type: ignore[no-untyped-call]


def candidates(parser: argparse.ArgumentParser, line: str, symbol: str) -> list[str]:
    """Give what may stand at the end of a line.

    Args:
        line: up to the cursor, the magic's name included.
        symbol: its last word, which is being typed.
    """
    before = line[: len(line) - len(symbol)].split()
    last = before[-1] if len(before) > 1 else ""
    for action in parser._actions:
        if last in action.option_strings and action.nargs != 0:
            return [str(choice) for choice in action.choices or ()]
    options = [option for action in parser._actions for option in action.option_strings]
    commands = [
        str(choice)
        for action in parser._actions
        if not action.option_strings and len(before) == 1
        for choice in action.choices or ()
    ]
    return [*commands, *sorted(set(options) - {*before})]
