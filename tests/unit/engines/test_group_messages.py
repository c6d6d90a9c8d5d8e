"""Groups and reports as bytes, whole and damaged."""

import pytest

from concurrent_nb.engines.group_messages import (
    EngineSession,
    Group,
    HostReport,
    Orders,
    SharedObject,
    pack,
    read_group,
    read_object,
    read_orders,
    read_report,
)
from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m

JOB = b"j" * 16
FUNCTION = b"f" * 32
SESSION = EngineSession(b"token", "host", ["/a"], "00", 1.0)
SLICE = m.Slice(b"s" * 16, 0, 100, 1)


def group() -> Group:
    tasks = [m.TaskFrame(0, 1, b"", (3, SLICE, 2)), m.TaskFrame(1, 1, b"inline"), m.TaskFrame(2, 1, b"", (1,))]
    return Group(4, SESSION, 0, [m.Assign(JOB, FUNCTION, 2.5, tasks)], [FUNCTION])


def test_a_group_comes_with_the_buffers_of_each_task() -> None:
    found, buffers = read_group(pack(group(), [b"abc", memoryview(b"de"), bytearray(b"f")]))
    assert found == group()
    assert buffers == [[[b"abc", b"de"], [], [b"f"]]]


def test_a_report_comes_with_the_buffers_of_each_outcome() -> None:
    outcome = m.OutcomeFrame(0, 1, 0, 0.5, 7, b"", (2,))
    report = HostReport(
        4, b"run", 1, b"host", True, [m.Outcomes(JOB, "", [outcome])], output=[m.Output(m.TaskRef(JOB, 0, 1), 1, b"hi")]
    )
    assert read_report(pack(report, [b"ab"])) == (report, [[[b"ab"]]])


def test_objects_and_orders_come_as_they_went() -> None:
    shared = SharedObject(FUNCTION, m.Function(FUNCTION, b"body"))
    assert read_object(pack(shared, [b"buffer"])) == (shared, [b"buffer"])
    orders = Orders(4, [m.Withdraw([m.TaskRef(JOB, 0, 1)], True)], restart=True)
    assert read_orders(pack(orders)) == orders


@pytest.mark.parametrize("buffers", [[b"abc", b"de"], [b"abc", b"de", b"too long"]])
def test_a_group_with_other_buffers_than_announced_is_refused(buffers: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="other buffers"):
        read_group(pack(group(), buffers))


@pytest.mark.parametrize("parcel", [[], [b""], [b"\x93\x01\x02\x03"], pack(SharedObject(b"name"))])
def test_what_is_no_group_is_refused(parcel: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        read_group(parcel)


@pytest.mark.parametrize("parcel", [None, 7, "text", b"bytes", {0: b""}, [None], ["text"], [b"\x93", 7]])
def test_what_is_no_parcel_is_refused(parcel: object) -> None:
    with pytest.raises(ProtocolError, match="something else than a parcel"):
        read_report(parcel)  # type: ignore[arg-type]
