"""The journal of a master: what it has accepted, on disk, so that a restarted master goes on.

`journal_records` says what is written, `journal_codec` how, `retention` how long; `replayed` makes the state of them.
These are pure. `sqlite_journal` is the store, `journal_folder` finds out what its folder can. The contract is
docs/journal.md.
"""
