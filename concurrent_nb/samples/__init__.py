"""The thesis's samples, as programs: `concurrent-nb run NAME`. A face, which uses the cluster as any user does.

A sample is a component whose config items are its options, offered under the entry points `concurrent_nb.samples`. The
command line knows no more of it than its items, its docstring's first line, and `run`; what others install is found in
the same way.
"""
