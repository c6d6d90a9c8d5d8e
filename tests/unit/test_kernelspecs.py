"""The kernelspecs: complete, installed by a wheel and by make, and started as Jupyter starts them."""

import configparser
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in ROOT.glob("kernels/*/kernel.json"))


def test_there_is_one_for_slaves_and_one_for_notebooks() -> None:
    assert NAMES == ["concurrent", "concurrent_slave"]


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_has_it(name: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options.data_files"][f"share/jupyter/kernels/{name}"].split()
    assert listed == [str(path.relative_to(ROOT)) for path in sorted((ROOT / "kernels" / name).iterdir())]


@pytest.mark.parametrize("name", NAMES)
def test_make_installs_it(name: str) -> None:
    assert f"kernelspec install --log-level=WARN --sys-prefix kernels/{name}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_kernelspec_has_what_jupyter_needs(name: str) -> None:
    manager = KernelManager(
        kernel_name=name, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(ROOT / "kernels")])
    )
    spec = manager.kernel_spec
    assert spec is not None
    assert spec.language == "python"
    assert spec.metadata == {"debugger": True, "supported_encryption": ["curve"]}
    assert spec.kernel_protocol_version == "5.5"
    assert "{connection_file}" in spec.argv
    assert spec.argv[0] == "python"  # which Jupyter replaces by its own Python
    manager.context.destroy(linger=0)
