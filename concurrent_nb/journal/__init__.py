"""The journal of a master: what it has accepted, on disk, so that a restarted master goes on.

`journal_records` has the types of records, `journal_codec` their bytes, `retention` how long each is needed, and
`replayed` the state that they add up to.
These are pure. `sqlite_journal` is the store, `journal_folder` finds out what its folder can. The contract is
docs/journal.md.
"""
