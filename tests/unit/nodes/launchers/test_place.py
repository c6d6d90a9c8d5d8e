"""What users write behind `on=`."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.place import On, SshHost, check_range, parse_hosts, parse_on, parse_range


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("local", On("local", "")),
        ("slurm:short", On("slurm", "short")),
        ("ssh:hostA,hostB:8", On("ssh", "hostA,hostB:8")),
        ("dask://host:8786", On("dask", "//host:8786")),
        (" command: qsub {script} ", On("command", "qsub {script}")),
    ],
)
def test_launcher_and_place(text: str, on: On) -> None:
    assert parse_on(text) == on


@pytest.mark.parametrize("text", ["", "  ", ":hostA", "7:x", "a b"])
def test_no_launcher(text: str) -> None:
    with pytest.raises(ConfigurationError, match="ssh:hostA,hostB:8"):
        parse_on(text)


def test_hosts_with_users_slots_and_ipv6() -> None:
    hosts = parse_hosts("hostA, hostB:8 ,me@hostC,[fd00::1]:4,me@[fe80::1%eth0],10.0.0.7:2,host_d")
    assert hosts == [
        SshHost("hostA", None),
        SshHost("hostB", 8),
        SshHost("me@hostC", None),
        SshHost("fd00::1", 4),
        SshHost("me@fe80::1%eth0", None),
        SshHost("10.0.0.7", 2),
        SshHost("host_d", None),
    ]
    assert hosts[2].name == "hostC"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "needs hosts"),
        ("hostA,,hostB", "needs hosts"),
        ("fd00::1", r"\[fd00::1\]:8"),
        ("hostA:0", "from 1 to 1,000"),
        ("hostA:2222", "--ssh-port"),
        ("hostA:8,hostA", "named twice"),
        ("-oProxyCommand=evil", "not a host"),
        ("-l", "not a host"),
        ("host A", "not a host"),
        ("host;reboot", "not a host"),
        ("a@b@c", "not a host"),
    ],
)
def test_wrong_hosts_are_named(place: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_hosts(place)


def test_a_range_of_slaves() -> None:
    assert parse_range("0:16") == (0, 16)
    assert parse_range(" 2:2 ") == (2, 2)


@pytest.mark.parametrize("text", ["", "4", "4:2", "0:0", "-1:3", "a:b", "1:2:3"])
def test_no_range_of_slaves(text: str) -> None:
    with pytest.raises(ConfigurationError, match="adapt is"):
        parse_range(text)


def test_a_range_is_of_whole_numbers() -> None:
    with pytest.raises(ConfigurationError, match=r"from True to 2\.5"):
        check_range(True, 2.5)
