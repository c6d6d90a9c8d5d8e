"""The notebook interface: magics that run a cell on a cluster, and show the progress in that cell.

An interface: imports no other one, and uses the cluster through the names of `concurrent_nb`. Only this package may
import IPython. Output of tasks is shown from the main thread.
"""
