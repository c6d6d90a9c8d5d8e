"""Parse the options of the magics. Each invalid value is reported by one ConfigurationError that names the option.

Used by the magics. Nothing is started and nothing is evaluated here.
"""

import argparse
import difflib
import inspect
import keyword
import math
import shlex
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, cast

from IPython.core import magic_arguments
from IPython.core.error import UsageError

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.place import parse_range
from concurrent_nb.wire.messages import CORES_MAX, STRATEGIES, Needs

#: maximum of --workers
MOST_WORKERS: Final = 1024
#: help text of --needs
NEEDS: Final = (
    "cores=N: each task takes N slots of a slave, and its libraries may use N cores; cores=all: it takes all of them; "
    "threads: the tasks are threads of one process per slave, which suits tasks that release the GIL"
)
#: maximum width and height of a picture
MOST_PIXELS: Final = 65536

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Value = TypeVar("_Value")


def takes(*names: str, **rules: Any) -> Callable[[_Method], _Method]:
    """Declare an option of a magic: IPython's `@argument`, with types."""
    return cast(Callable[[_Method], _Method], magic_arguments.argument(*names, **rules))  # type: ignore[no-untyped-call]


def documented(method: _Method) -> _Method:
    """Make the parser and the help text of a magic from its options: IPython's `@magic_arguments()`."""
    documented = cast(_Method, magic_arguments.magic_arguments()(method))  # type: ignore[no-untyped-call]
    if "cell" in inspect.signature(method).parameters:  # IPython writes one percent sign for all magics
        documented.__doc__ = (documented.__doc__ or "").replace(f"%{method.__name__}", f"%%{method.__name__}", 1)
    return documented


def explained(text: str) -> Callable[[_Method], _Method]:
    """Add a text to the docstring of a magic, before `documented` makes the help text of it."""

    def explain(method: _Method) -> _Method:
        method.__doc__ = f"{method.__doc__}\n\n{text}"
        return method

    return explain


def split(line: str) -> list[str]:
    """Return the words of a line. Quotes group words and are removed, as in a shell; nothing is expanded."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigurationError(f"{line.strip()}: {str(error).lower()}") from error


def parse(magic: Any, line: str | list[str]) -> argparse.Namespace:
    """Parse a magic's line, or the words of it.

    Args:
        magic: a `documented` method.

    Raises ConfigurationError that names the option.
    """
    parser: argparse.ArgumentParser = magic.parser
    parser.allow_abbrev = False  # a misspelt option must not be taken for another one
    words = split(line) if isinstance(line, str) else line
    try:
        options, extra = parser.parse_known_args(words)
    except UsageError as error:
        raise ConfigurationError(str(error).removeprefix("argument ")) from error
    if extra:
        raise ConfigurationError(_unexpected(extra, parser))
    if twice := _given_twice(words, parser):
        raise ConfigurationError(f"{twice} may be given once")
    return options


def _given_twice(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Return an option that is not repeatable and was given again, which argparse takes for a replacement; or ""."""
    given: set[str] = set()
    for word in words:
        action = parser._option_string_actions.get(word.partition("=")[0])
        if action is None or isinstance(action, argparse._AppendAction):
            continue
        if action.dest in given:
            return action.option_strings[-1]
        given.add(action.dest)
    return ""


def _unexpected(extra: list[str], parser: argparse.ArgumentParser) -> str:
    known = sorted(option for action in parser._actions for option in action.option_strings)
    unknown = next((word for word in extra if word.startswith("-")), None)
    if unknown is None:
        return f"`{' '.join(extra)}` is not expected here: a value with spaces needs quotes around it"
    name = unknown.partition("=")[0]
    if name in ("-h", "--help"):
        return f"unknown option {name}: the options are explained by the magic's name followed by ?: {parser.prog}?"
    plain = {option.lstrip("-"): option for option in known}
    close = [plain[word] for word in difflib.get_close_matches(name.lstrip("-"), plain, 1)]
    return f"unknown option {name}: " + (
        f"did you mean {close[0]}?" if close else f"the options are {', '.join(known)}"
    )


def whole_number(text: str, least: int, most: int | None = None) -> int:
    """Read a whole number within limits, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"needs a whole number {limits}, not {text!r}")
    return number


def read(reader: Callable[[str], _Value], text: str, what: str) -> _Value:
    """Read a value that is not an option's. Raises ConfigurationError that begins with `what`."""
    try:
        return reader(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigurationError(f"{what} {error}") from error


def workers(text: str) -> int:
    """Read the value of --workers."""
    return whole_number(text, 1, MOST_WORKERS)


def slaves(text: str) -> int:
    """Read the value of --slaves."""
    return whole_number(text, 1, MOST_WORKERS)


def adapt(text: str) -> tuple[int, int]:
    """Read the value of --adapt: the least and the most slaves."""
    try:
        return parse_range(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("adapt is ")) from None


def retries(text: str) -> int:
    """Read the value of --retries."""
    return whole_number(text, 0)


def batch(text: str) -> int | Literal["auto"]:
    """Read the value of --batch."""
    if text == "auto":
        return "auto"
    try:
        return whole_number(text, 1)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace(", not", ", or auto, not")) from None


def seconds(text: str) -> float:
    """Read the value of --timeout."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"needs a number of seconds above 0, not {text!r}")
    return number


def strategy(text: str) -> str:
    """Read the value of --strategy."""
    if text not in STRATEGIES:
        raise argparse.ArgumentTypeError(f"needs one of {', '.join(STRATEGIES)}, not {text!r}")
    return text


def size(text: str) -> tuple[int, int]:
    """Read the value of --size: width and height in pixels."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and 0 < int(width) <= MOST_PIXELS >= int(height) > 0):
        raise argparse.ArgumentTypeError(f"needs width and height up to {MOST_PIXELS}, as in 1536x1024, not {text!r}")
    return int(width), int(height)


def variable(text: str) -> str:
    """Read the value of --out."""
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"needs the name of a variable, not {text!r}")
    return text


def needs(text: str) -> Needs:
    """Read the value of --needs."""
    if text == "threads":
        return Needs(kind="thread")
    name, _, value = text.partition("=")
    if name == "cores" and value == "all":
        return Needs(cores=0)
    try:
        return Needs(cores=whole_number(value if name == "cores" else "", 1, CORES_MAX))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"needs cores=N (N from 1 to {CORES_MAX}), cores=all or threads, not {text!r}"
        ) from None


def words(text: str) -> str:
    """Read a text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("needs a value, not an empty one")
    return text
