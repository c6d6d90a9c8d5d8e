"""Objects to bytes and back: pickling, what an object refers to, why it cannot be pickled.

Imports no other part of shipping.
"""
