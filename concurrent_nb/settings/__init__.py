"""Where configuration comes from: files in Jupyter's configuration folders. Layer 3, a mechanism."""
