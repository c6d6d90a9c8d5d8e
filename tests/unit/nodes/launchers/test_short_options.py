"""Options of launchers beside those of the command."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.short_options import take_short_options


def test_without_a_launcher_nothing_is_taken() -> None:
    words = ["start", "--tunnel", "never", "--on"]
    assert take_short_options(words) == ({}, words)


def test_items_of_the_launcher_are_taken_out() -> None:
    words = ["start", "--on=ssh:a", "--ssh-port=2222", "--name", "x", "--tunnel", "never", "--Ssh.python=/p", "--no"]
    assert take_short_options(words) == (
        {"Ssh": {"ssh_port": 2222, "tunnel": "never"}},
        ["start", "--on=ssh:a", "--name", "x", "--Ssh.python=/p", "--no"],
    )


def test_lists_are_split_at_commas() -> None:
    taken, others = take_short_options(["--on", "ssh:a", "--ssh-options", "A=1, B=2"])
    assert taken == {"Ssh": {"ssh_options": ["A=1", "B=2"]}}
    assert others == ["--on", "ssh:a"]


def test_the_value_of_on_is_never_an_option() -> None:
    taken, others = take_short_options(["--on", "command:run --end-command x", "--end-command", "kill {job}"])
    assert taken == {"Command": {"end_command": "kill {job}"}}
    assert others == ["--on", "command:run --end-command x"]


def test_a_value_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="--tunnel needs a value"):
        take_short_options(["--on", "ssh:a", "--tunnel"])


def test_there_is_no_such_launcher() -> None:
    with pytest.raises(ConfigurationError, match="there is no launcher 'nowhere'; there are local, ssh, command"):
        take_short_options(["--on", "nowhere:a"])
