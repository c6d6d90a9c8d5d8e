"""Make tasks of notebook cells: parse them, analyse and capture their names, compile them to functions."""
