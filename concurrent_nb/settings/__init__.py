"""Reads configuration files from Jupyter's configuration folders. A mechanism."""
