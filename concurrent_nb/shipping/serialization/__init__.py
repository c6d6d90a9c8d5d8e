"""Objects to bytes and back: pickling, the references of an object, why it cannot be pickled.

Imports no other part of shipping.
"""
