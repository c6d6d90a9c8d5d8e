"""What a host answers, and what `ssh` writes when it fails."""

import json
from typing import Any

import pytest

from concurrent_nb.nodes.launchers.ssh_probe import (
    MARK,
    HostVersions,
    fault_of_answer,
    fault_of_pythons,
    fault_of_ssh,
    read_answers,
)

OURS = HostVersions("3.11", "0.2.0", "3.1.1")
NOW = 1_000_000.0
GOOD: dict[str, Any] = {
    "python": "3.11",
    "path": "/opt/py/bin/python3",
    "version": "0.2.0",
    "cloudpickle": "3.1.2",
    "time": NOW - 5,
    "folder": "/tmp",
    "free_bytes": 1 << 30,
}


def test_a_good_answer_has_no_fault() -> None:
    assert fault_of_answer(GOOD, OURS, NOW) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.1.0"}, ["concurrent_nb 0.1.0", "/opt/py/bin/python3 -m pip install concurrent-nb==0.2.0"]),
        ({"cloudpickle": "2.2.1"}, ["cloudpickle 2.2.1", "pip install cloudpickle==3.1.1"]),
        ({"free_bytes": 4096}, ["disk is full", "/tmp"]),
        ({"time": NOW - 3 * 86400}, ["clock is 72 hours slow", "set its clock"]),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(change: dict[str, Any], words: list[str]) -> None:
    fault = fault_of_answer({**GOOD, **change}, OURS, NOW)
    assert all(word in fault for word in words), fault


def test_a_clock_that_is_fast_does_no_harm() -> None:
    assert fault_of_answer({**GOOD, "time": NOW + 365 * 86400}, OURS, NOW) == ""


def test_answers_are_found_between_other_lines() -> None:
    text = f'Welcome to hostA!\n$ {MARK}{json.dumps({"python": "3.9"})}\n{MARK}broken\n{MARK}[1]\n{MARK}{{"cut'
    assert read_answers(text) == [{"python": "3.9"}]


def test_no_python_at_all() -> None:
    assert "it has no Python: none of /a/python, python3 runs there" in fault_of_pythons(
        [], OURS, ["/a/python", "python3"]
    )


def test_another_python() -> None:
    fault = fault_of_pythons([{"python": "3.9", "path": "/usr/bin/python3"}], OURS, ["python3"])
    assert "it has no Python 3.11" in fault
    assert "/usr/bin/python3 is 3.9" in fault


def test_concurrent_nb_is_missing() -> None:
    answers = [{"python": "3.9", "path": "/x"}, {"python": "3.11", "path": "/usr/bin/python3.11"}]
    fault = fault_of_pythons(answers, OURS, ["python3"])
    assert "`/usr/bin/python3.11 -m pip install concurrent-nb==0.2.0`" in fault


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("ssh: Could not resolve hostname nowhere: Name or service not known", "no host of that name"),
        ("ssh: connect to host 10.0.0.9 port 22: Connection timed out", "does not answer within 10 s"),
        ("ssh: connect to host 10.0.0.9 port 22: No route to host", "does not answer"),
        ("ssh: connect to host h port 22: Connection refused", "no SSH server listens there"),
        ("me@h: Permission denied (publickey,password).", "ssh-copy-id me@h"),
        ("No ED25519 host key is known for h and you have requested strict checking.", "run `ssh me@h` once"),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", "ssh-keygen -R me@h"),
        ("Error: remote port forwarding failed for listen port 0", "allows no tunnel"),
        ("/home/me/.ssh/config: line 1: Bad configuration option: foo", "does not accept its configuration"),
        ("Connection closed by remote host", "has closed the connection"),
        ("something new", "ssh has failed"),
    ],
)
def test_errors_of_ssh(log: str, words: str) -> None:
    assert words in fault_of_ssh("me@h", log, 10.0)
