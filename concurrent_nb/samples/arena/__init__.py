"""The arena of the thesis: robots that see, think and shoot, turn by turn.

`battle_rules` computes a turn, `robots` has the base class of robots and some examples, `tree_robots` has behaviour
trees, `match` runs a match, `replay` records and shows all turns, `tournament` runs matches as tasks, and `world_match`
is a match as a world. `concurrent-nb run arena` runs a tournament.
"""
