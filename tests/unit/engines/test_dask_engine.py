"""The engine "dask": what it keeps, and what it says of a client. Whole engines: `tests/contract/test_engines.py`."""

from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

pytest.importorskip("distributed")

from concurrent_nb.engines.dask_engine import DaskEngine, _DaskGroup
from tests.engine_events import Heard


class DaskFuture(Future[Any]):
    """A future of Dask that has ended."""

    def release(self) -> None:
        return None


class DaskClient:
    """A client in this state."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.scheduler = None


def event(number: int, worker: str) -> tuple[float, dict[str, Any]]:
    return 0.0, {"number": number, "worker": worker, "parcel": (b"report",)}


def test_a_report_that_comes_after_its_group_has_ended_leaves_nothing() -> None:
    """Events and results travel on different ways, and a group that was recalled may have begun."""
    engine = DaskEngine("dask://127.0.0.1:1")
    engine._events = heard = Heard()
    future = DaskFuture()
    future.set_result([b"last"])
    engine._groups[1] = _DaskGroup(future)
    engine._on_event(event(1, "tcp://a:1"))
    assert engine._groups[1].worker == "tcp://a:1"
    before = vars(engine).copy()
    engine._ended(1, future)
    for number in range(1, 100):
        engine._on_event(event(number, f"tcp://a:{number}"))
    assert heard.events[:2] == [("reported", (b"report",)), ("ended", 1, [b"last"])]
    assert len(heard.events) == 101  # the pool sorts out the others
    assert engine._groups == {}
    kept = {name for name, value in vars(engine).items() if isinstance(value, dict | list | set) and value}
    assert kept == {name for name, value in before.items() if isinstance(value, dict | list | set) and value} - {
        "_groups"
    }


@pytest.mark.parametrize(("status", "expected"), [("running", "lost"), ("connecting", "lost"), ("closed", "gone")])
def test_a_lost_connection_loses_the_groups_and_a_closed_client_the_engine(status: str, expected: str) -> None:
    engine = DaskEngine("dask://127.0.0.1:1")
    engine._events, engine._client = (heard := Heard()), DaskClient(status)
    future = DaskFuture()
    future.set_exception(CancelledError("lost connection"))
    engine._groups[1] = _DaskGroup(future)
    engine._ended(1, future)
    assert [each[0] for each in heard.events] == [expected]
