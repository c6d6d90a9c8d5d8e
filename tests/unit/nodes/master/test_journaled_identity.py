"""A journal has the identity of its master; what is no identity is refused."""

import pytest

from concurrent_nb.errors import JournalDamaged
from concurrent_nb.nodes.master.journaled_identity import identity_in, store_identity
from concurrent_nb.transport import keys
from concurrent_nb.transport.master_identity import MasterIdentity
from tests.journal_in_memory import JournalInMemory


def identity(**others: str) -> MasterIdentity:
    pair = keys.fresh()
    facts = {"public_key": pair.public.decode(), "secret_key": pair.secret.decode(), "journal": "ab" * 16} | others
    tokens = {role: keys.fresh_token() for role in ("admin", "client", "slave")}
    return MasterIdentity(tokens=tokens, control_port=41234, compute_ports={"127.0.0.1": 41235}, epoch=7, **facts)


def test_a_journal_gives_back_the_identity_that_it_was_given() -> None:
    journal, first = JournalInMemory(), identity()
    assert identity_in(None) is None
    assert identity_in(journal) is None
    store_identity(journal, first)
    assert identity_in(journal) == first
    assert first.tokens["admin"] not in repr(first)
    assert first.secret_key not in repr(first)


def test_what_is_no_identity_is_refused() -> None:
    journal = JournalInMemory()
    store_identity(journal, identity(secret_key="short"))
    with pytest.raises(JournalDamaged, match="a key or token that is none: move its folder away"):
        identity_in(journal)
    for line in ("", "{}", "nonsense"):
        journal.store_facts({"identity": line})
        with pytest.raises(JournalDamaged, match="move its folder away"):
            identity_in(journal)
