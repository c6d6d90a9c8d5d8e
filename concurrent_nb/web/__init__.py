"""What browsers see: the files of the web page (`static/`), and the Jupyter Server extension that reaches masters.

The master serves the page itself (`transport/page_handlers.py`) and imports nothing of this package.
"""
