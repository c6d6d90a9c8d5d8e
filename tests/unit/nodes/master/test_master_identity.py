"""A restarted master is the same to its nodes, in a later epoch; without a journal each is a new one."""

import pytest
from concurrent_nb.nodes.master.master_identity import MasterIdentity

from concurrent_nb.errors import JournalDamaged
from tests.journal_in_memory import JournalInMemory


def test_a_master_is_the_same_with_the_same_journal() -> None:
    journal = JournalInMemory()
    first = MasterIdentity.of(journal)
    assert len(first.journal) == 32 and first.control_port == 0
    first.store(journal, "http://127.0.0.1:41234")
    second = MasterIdentity.of(journal)
    assert (second.keys, second.tokens, second.journal) == (first.keys, first.tokens, first.journal)
    assert second.control_port == 41234 and second.epoch > first.epoch
    assert first.tokens["admin"] not in repr(second)

    # The clock of the host may have been set back.
    journal.store_facts({"epoch": str(2**50)})
    assert MasterIdentity.of(journal).epoch == 2**50 + 1


def test_without_a_journal_each_is_new() -> None:
    first, second = MasterIdentity.of(None), MasterIdentity.of(None)
    assert first.journal == second.journal == ""
    assert first.keys != second.keys and first.tokens != second.tokens
    assert MasterIdentity.of(JournalInMemory()).journal != MasterIdentity.of(JournalInMemory()).journal


@pytest.mark.parametrize(
    ("name", "value"), [("secret_key", "short"), ("token_admin", "x"), ("epoch", "soon"), ("control_port", "")]
)
def test_facts_that_are_none_are_refused(name: str, value: str) -> None:
    journal = JournalInMemory()
    MasterIdentity.of(journal).store(journal, "http://127.0.0.1:41234")
    journal.store_facts({name: value})
    with pytest.raises(JournalDamaged, match="move its folder away"):
        MasterIdentity.of(journal)
