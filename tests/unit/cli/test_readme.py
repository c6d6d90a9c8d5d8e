"""The commands that README names are commands, with options that there are."""

import re
import shlex
from pathlib import Path

import pytest

from concurrent_nb.cli.main import command_line

README = (Path(__file__).parents[3] / "README.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("concurrent-nb ")[2]
    for line in "\n".join(BLOCKS).splitlines()
    if re.match(r"(ExecStart=\S*/)?concurrent-nb ", line)
]


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_readme_is_understood(command: str) -> None:
    options, rest = command_line().parse_known_args(shlex.split(command, comments=True))
    assert rest == []
    assert callable(options.run)
