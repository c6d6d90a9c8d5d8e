"""What people see of a cluster in a browser: the master's web page, and the extension of JupyterLab.

Both show the panels in `static/`: plain ES modules that need no build.
"""
