"""The batch script of a slave for Slurm: pure text. It contains no secret, as other users may read scripts.

    #!/bin/bash
    #SBATCH --job-name=concurrent_nb-1f0c...
    #SBATCH --partition=short
    module load python
    exec /home/ann/.venv/bin/python -m concurrent_nb slave --connect /home/ann/.../connection.json ...

`exec` makes the slave the process of the batch step: signals that Slurm sends to the step reach the slave itself.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from concurrent_nb.errors import ConfigurationError

#: what a template may contain, each on a line of its own; the first and the last one must be there
DIRECTIVES: Final = "@DIRECTIVES@"
PROLOGUE: Final = "@PROLOGUE@"
COMMAND: Final = "@COMMAND@"

TEMPLATE: Final = f"""\
#!/bin/bash
{DIRECTIVES}
{PROLOGUE}
{COMMAND}
"""

#: a time limit as sbatch reads it
_TIME: Final = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def directives(options: Mapping[str, str | int], extra: Sequence[str]) -> list[str]:
    """Return the `#SBATCH` lines for these options of sbatch, without those that are "" or 0; then the extra ones.

    Args:
        options: name of an option without its dashes, and its value.
        extra: options as sbatch reads them, `--gres=gpu:1`, with or without `#SBATCH` before them.

    Raises ConfigurationError for a value of several lines, and for an extra line that is no option.
    """
    lines = []
    for name, value in options.items():
        if value not in ("", 0):
            _check_line(f"Slurm's option --{name}", str(value))
            lines.append(f"#SBATCH --{name}={shlex.quote(str(value))}")
    for line in extra:
        _check_line("a line of Slurm.directives", line)
        option = line.strip().removeprefix("#SBATCH").strip()
        if not option.startswith("-"):
            raise ConfigurationError(
                f"Slurm.directives contains {line!r}, which is no option of sbatch: --gres=gpu:1 is"
            )
        lines.append(f"#SBATCH {option}")
    return lines


def batch_script(template: str, options: Sequence[str], prologue: Sequence[str], command: Sequence[str]) -> str:
    """Return the script that runs `command` after the shell lines of `prologue`.

    Raises ConfigurationError if the template lacks a place for the options or for the command.
    """
    lines = template.splitlines()
    for mark in (DIRECTIVES, COMMAND):
        if mark not in (line.strip() for line in lines):
            raise ConfigurationError(f"the template of Slurm.template has no line {mark}: it must have one")
    parts = {DIRECTIVES: options, PROLOGUE: prologue, COMMAND: [f"exec {shlex.join(command)}"]}
    if not lines[0].startswith("#!"):
        raise ConfigurationError("the template of Slurm.template must begin with #! and a shell, such as #!/bin/bash")
    return "\n".join(each for line in lines for each in parts.get(line.strip(), [line])) + "\n"


def file_pattern(path: str) -> str:
    """Return a path as a file name pattern of Slurm, in which `%` and a backslash have a meaning."""
    return path.replace("%", "%%")


def limit_s(text: str) -> float | None:
    """Return the seconds of a time as Slurm prints or reads it; None for one without a limit, or unknown.

    >>> limit_s("30"), limit_s("1:30"), limit_s("1-00:00:00"), limit_s("UNLIMITED")
    (1800.0, 90.0, 86400.0, None)
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(each) for each in match.group("first", "second", "third") if each is not None]
    if match["days"] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return float(((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(numbers) == 3:
        hours, minutes, seconds = numbers
    elif len(numbers) == 2:
        hours, (minutes, seconds) = 0, numbers
    else:
        hours, minutes, seconds = 0, numbers[0], 0
    return float((hours * 60 + minutes) * 60 + seconds)


def _check_line(what: str, text: str) -> None:
    if not text.isprintable() or not text.strip():
        raise ConfigurationError(f"{what} is {text!r}: it must be one line of printable characters")
