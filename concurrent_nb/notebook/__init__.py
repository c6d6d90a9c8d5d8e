"""The notebook interface: magics that run a cell on a cluster, and show the progress in that cell.

Layer 7: imports no other interface, and uses the cluster through the names of `concurrent_nb`. Only this package may
import IPython. Output of tasks is shown from the main thread.
"""
