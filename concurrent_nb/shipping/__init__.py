"""What travels between applications and workers: pickles, functions by digest, names captured from a notebook.

A mechanism: imports no other mechanism. Used by applications and workers only, never by a master or a slave.
"""
