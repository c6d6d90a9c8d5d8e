"""Launchers start, count and end slaves on other machines; the master stays with its owner.

Used by the owner's `Cluster` alone. Nothing here runs in a master or a slave.
"""
