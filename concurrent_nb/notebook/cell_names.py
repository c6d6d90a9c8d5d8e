"""What a notebook calls its cells: the running cell is `In[3]`."""

from IPython.core.interactiveshell import InteractiveShell


def cell_number(shell: InteractiveShell) -> int:
    """Return the number of the running cell. (In some versions `execution_count` is ahead of it by one.)"""
    return int(shell.displayhook.prompt_count)


def cell_name(shell: InteractiveShell) -> str:
    """Return the name of the running cell, as in `In[3]`."""
    return f"In[{cell_number(shell)}]"
