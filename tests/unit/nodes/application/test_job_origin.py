"""Jobs are marked with the notebook and the cell that start them."""

from concurrent_nb.nodes.application.job_origin import JobOrigin, _text, new_record
from concurrent_nb.wire.messages import NAME_MAX


class Submitter:
    renewed = 0

    def renew_submits(self) -> None:
        self.renewed += 1


def test_a_job_elsewhere_has_no_origin() -> None:
    record = new_record("fits", until=True)
    assert (record.name, record.until, record.notebook, record.cell) == ("fits", True, "", "")
    assert len(record.id) == 16
    assert new_record("fits").id != record.id


def test_single_submits_of_another_cell_are_another_job() -> None:
    origin, submitter = JobOrigin(), Submitter()
    origin.watch(submitter)
    for notebook, cell, renewed in (
        ("", "", 0),
        ("a.ipynb", "1", 1),
        ("a.ipynb", "1", 1),
        ("a.ipynb", "2", 2),
        ("", "", 3),
    ):
        origin.move_to(notebook, cell)
        assert (origin.notebook, origin.cell, submitter.renewed) == (notebook, cell, renewed)


def test_an_application_that_is_gone_is_forgotten() -> None:
    origin, submitter = JobOrigin(), Submitter()
    origin.watch(submitter)
    del submitter
    origin.move_to("a.ipynb", "1")
    assert not origin._submitters


def test_what_cannot_travel_is_replaced_or_cut() -> None:
    assert _text("a\ud800b" + "x" * 1000, NAME_MAX).startswith("a?b")
    assert len(_text("x" * 1000, NAME_MAX)) == NAME_MAX
