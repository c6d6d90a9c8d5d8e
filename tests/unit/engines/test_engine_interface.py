"""What must fit between this process and an engine's workers, and what is said when it does not."""

import pytest

from concurrent_nb.engines.connecting import is_engine
from concurrent_nb.engines.engine_interface import check_facts, own_facts
from concurrent_nb.errors import EngineUnavailable, VersionMismatch

OURS = {"python": "3.11", "concurrent_nb": "0.2.0", "cloudpickle": "3.1.3", "numpy": "2.4.6"}


def test_the_facts_of_this_process_fit_it() -> None:
    facts = own_facts()
    assert set(facts) == set(OURS)
    check_facts(facts, "a worker")


@pytest.mark.parametrize("changed", [{"cloudpickle": "3.0.0"}, {"numpy": "2.0.1"}, {"numpy": ""}])
def test_what_can_read_the_same_pickles_fits(changed: dict[str, str]) -> None:
    check_facts({**OURS, **changed}, "a worker", OURS)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"python": "3.12"}, "has Python 3.12, this process has 3.11: use the same Python on both sides"),
        (
            {"concurrent_nb": "0.3.0"},
            "has concurrent_nb 0.3.0, this process has 0.2.0: `pip install concurrent_nb==0.2.0`",
        ),
        ({"cloudpickle": "4.0"}, "has cloudpickle 4.0, this process has 3.1.3: `pip install cloudpickle==3.1.3`"),
        ({"numpy": "1.26.4"}, "has numpy 1.26.4, this process has 2.4.6: `pip install numpy==2.4.6`"),
    ],
)
def test_another_version_is_named_with_the_remedy(changed: dict[str, str], told: str) -> None:
    with pytest.raises(VersionMismatch) as caught:
        check_facts({**OURS, **changed}, "the Dask worker tcp://a:1", OURS)
    assert str(caught.value).startswith(f"the Dask worker tcp://a:1 {told}")


def test_a_worker_without_ours_is_told_what_to_install() -> None:
    with pytest.raises(EngineUnavailable, match=r"a worker has no concurrent_nb: install it there \(`pip install"):
        check_facts({**OURS, "concurrent_nb": ""}, "a worker", OURS)


@pytest.mark.parametrize("where", ["my-cluster", "./file.json", None, 3, "rays", "inline2"])
def test_the_name_of_a_cluster_names_no_engine(where: object) -> None:
    assert not is_engine(where)
