"""The lab: a throw-away VM that snapkit starts itself, and its guest."""

from snapkit.lab.lab import Lab

__all__ = ["Lab"]
