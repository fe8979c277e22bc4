"""One thing that the doctor has looked at, and the words for a cure."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

__all__ = ["Part", "install", "quoted"]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that snapkit needs or can use.

    ``status`` is "ok", "missing", "too old", "too new" or "bad". ``required`` says whether
    snapkit does its main job without it. ``cure`` is a command or an advice, empty when ok.
    """

    part: str
    found: str
    needed_for: str
    status: str = "ok"
    cure: str = ""
    required: bool = True

    @property
    def fails(self) -> bool:
        """Whether this stands in the way."""
        return self.required and self.status != "ok"


def install(packages: str) -> str:
    """The command that installs packages of Debian and Ubuntu."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get") is None:
        return f"install what Debian calls {packages}"
    return f"{sudo}apt-get install {packages}"


def quoted(text: str) -> str:
    """A word of a command, in quotes where it needs them."""
    return f"'{text}'" if " " in text else text
