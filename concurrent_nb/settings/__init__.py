"""Reads configuration files from Jupyter's configuration folders. Layer 3, a mechanism."""
