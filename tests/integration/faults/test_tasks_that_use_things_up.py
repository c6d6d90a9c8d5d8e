"""F7: what a task uses up is missing in that task alone."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import ErrorReport
from tests.integration.pool_driver import Driver


def use_up_descriptors(folder: str) -> NoReturn:
    import os
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    held = []
    try:
        while True:
            held.append(open(os.devnull))  # noqa: SIM115  (they are left open)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def use_up_the_disk(folder: str) -> NoReturn:
    import pathlib
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pathlib.Path(folder, "large").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_much(folder: str) -> int:
    import contextlib
    import pathlib

    with contextlib.ExitStack() as stack:
        for number in range(100):
            file = stack.enter_context(pathlib.Path(folder, f"file{number}").open("wb"))
            file.write(bytes(1 << 17))
    return 100


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 512, reason="the limit is low from the start")
@pytest.mark.parametrize(
    ("use_up", "words"), [(use_up_descriptors, "Too many open files"), (use_up_the_disk, "File too large")]
)
def test_what_a_task_uses_up_is_its_own_error_and_there_for_the_next(
    use_up: Callable[[str], NoReturn], words: str, tmp_path: Path
) -> None:
    with Driver("fork_server", slots=1) as driver:
        end = driver.run(use_up, str(tmp_path))
        assert end.status is Status.ERROR
        assert isinstance(end.value, ErrorReport)
        assert end.value.type_name.endswith("OSError")
        assert words in end.value.message
        assert driver.run(write_much, str(tmp_path)).value == 100
