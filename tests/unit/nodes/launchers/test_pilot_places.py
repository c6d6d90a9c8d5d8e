"""What stands behind `on=dask` and `on=ray`."""

from pathlib import Path

import pytest

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError, LaunchFailed
from concurrent_nb.nodes.launchers.dask_pilot import Dask, dask_address
from concurrent_nb.nodes.launchers.own_address import address_of_interface, address_towards, beyond_loopback
from concurrent_nb.nodes.launchers.ray_pilot import ray_address, running_ray


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("//host", "tcp://host:8786"),
        ("//host:1", "tcp://host:1"),
        ("//tls://host", "tls://host:8786"),
        ("tcp://10.0.0.1:8787", "tcp://10.0.0.1:8787"),
        ("//[fd00::1]:1", "tcp://[fd00::1]:1"),
        ("host", "tcp://host:8786"),
    ],
)
def test_the_address_of_a_dask_scheduler(place: str, address: str) -> None:
    assert dask_address(place) == address


@pytest.mark.parametrize("place", ["", "//", "//http://host", "//host:port", "//host:99999", "//host/path"])
def test_what_is_no_address_of_a_dask_scheduler(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"on=dask:.*dask://host:8786"):
        dask_address(place)


@pytest.mark.parametrize(
    ("place", "address"),
    [("", ""), ("auto", ""), ("//host", "ray://host:10001"), ("//host:1", "ray://host:1"), ("host:6379", "host:6379")],
)
def test_the_address_of_a_ray_cluster(place: str, address: str) -> None:
    assert ray_address(place) == address


@pytest.mark.parametrize("place", ["host", "//", "//host:port", "//host/x"])
def test_what_is_no_address_of_a_ray_cluster(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"on=ray:.*ray://host:10001"):
        ray_address(place)


def test_the_ray_of_this_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert running_ray() == "auto"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    assert running_ray() == "127.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert running_ray() == "other:6379"


def test_a_pilot_on_this_machine_needs_no_other_address_than_loopback() -> None:
    manager = ComponentManager()
    pilot = manager.get(manager.register(Dask))
    pilot.place = "//127.0.0.1:8786"
    assert pilot.addresses() == ()


def test_addresses_of_this_machine() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_of_interface("127.0.0.1") == "127.0.0.1"
    assert beyond_loopback("127.0.0.1") == beyond_loopback("::1") == ()
    assert beyond_loopback("10.0.0.1") == ("10.0.0.1",)
    with pytest.raises(LaunchFailed, match=r"no address for interface 'nowhere0': it has .*127\.0\.0\.1"):
        address_of_interface("nowhere0")
    with pytest.raises(LaunchFailed, match="does not know how to reach"):
        address_towards("nowhere.invalid")
