"""The arena of the thesis: robots that see, think and shoot, turn by turn.

`battle_rules` says what a turn does, `robots` what a robot knows and decides, `match` lets robots fight, `replay` keeps
all turns and shows them, `tournament` has matches as tasks. `concurrent-nb run arena` runs a tournament.
"""
