"""`concurrent-nb stats`: which job is meant."""

import pytest

from concurrent_nb.cli.statistics_text import newest_job, statistics_text
from concurrent_nb.errors import ConfigurationError

CLUSTER = {
    "slaves": {},
    "jobs": [{"id": f"{number}" * 32, "name": name} for number, name in enumerate(["fits", "fits", "\x1b[31m"])],
    "tasks": 0,
    "slot_s": 0.0,
    "idle_slot_s": 0.0,
}


def test_a_job_is_named_by_its_name_or_the_beginning_of_its_id() -> None:
    assert newest_job(CLUSTER, "fits") == "1" * 32
    assert newest_job(CLUSTER, "000") == "0" * 32
    assert newest_job(CLUSTER, "f" * 32) == "f" * 32  # the master may still have it


@pytest.mark.parametrize("which", ["", "plans", "9"])
def test_no_such_job(which: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"there is no job .*; the last jobs are: fits \(00000000\)"
    ) as refused:
        newest_job(CLUSTER, which)
    assert "\x1b" not in str(refused.value)


def test_a_cluster_without_slaves() -> None:
    assert statistics_text({**CLUSTER, "jobs": []}) == "0 slaves, 0 slots; 0 tasks ended"
