"""The identity of a master in its journal: keys, tokens, ports and epoch, which a restarted master takes over."""

from typing import Final

from concurrent_nb.errors import JournalDamaged, ProtocolError
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.transport.keys import TOKEN, Z85_KEY
from concurrent_nb.transport.master_identity import MasterIdentity, identity_of

_FACT: Final = "identity"


def identity_in(journal: JournalStore | None) -> MasterIdentity | None:
    """Return the identity of the last master with this journal; None if there was none. Raises JournalDamaged."""
    facts = {} if journal is None else journal.facts()
    if not facts:
        return None
    try:
        identity = identity_of(facts[_FACT])
    except (KeyError, ProtocolError) as error:
        raise JournalDamaged(
            f"the journal does not have the identity of its master ({error}): move its folder away"
        ) from None
    are_keys = all(Z85_KEY.fullmatch(key.encode()) for key in (identity.public_key, identity.secret_key))
    if not are_keys or not all(map(TOKEN.fullmatch, identity.tokens.values())):
        raise JournalDamaged("the journal has a key or token that is none: move its folder away")
    return identity


def store_identity(journal: JournalStore, identity: MasterIdentity) -> None:
    """Store an identity. Raises JournalError."""
    journal.store_facts({_FACT: identity.line()})
