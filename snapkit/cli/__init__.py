"""snapkit in a terminal: the same verbs as in Python, as text, JSON or CSV."""

from snapkit.cli.main import main

__all__ = ["main"]
