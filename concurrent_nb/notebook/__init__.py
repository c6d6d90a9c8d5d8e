"""The notebook's face: magics that run a cell on a cluster, and show in that cell what happens to it.

Layer 7, imports no other face; reaches the cluster through the names of `concurrent_nb` only. The one room that may
import IPython. Whatever it shows, it shows from the main thread.
"""
